"""Dataclasses for questions, their trajectories, and rows that were left out."""

from dataclasses import dataclass

from raml_trl.runtime.errors import shown


@dataclass(frozen=True)
class Question:
    """A question for the model, and the reference answer against which answers of the model are graded.

    `source` names the dataset or collection that the question comes from.
    """

    id: str
    question: str
    answer: str
    source: str


@dataclass(frozen=True)
class Trajectory:
    """The text that `model` wrote for a question (reasoning and answer), and whether the answer is correct.

    `num_tokens` is the number of tokens of the text; None if they were not counted.
    """

    text: str
    correct: bool
    model: str
    num_tokens: int | None = None


@dataclass(frozen=True)
class Task:
    """A question with its trajectories, if there are any."""

    question: Question
    trajectories: tuple[Trajectory, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A row that was left out: its number (from 0), the reason, and an excerpt of its values."""

    row: int
    reason: str
    content: dict[str, str]


def task_row(task: Task) -> dict[str, object]:
    """Return the task as a row with the columns of `shards.SCHEMAS[TRAJECTORIES]`."""
    question, trajectories = task.question, task.trajectories
    return {
        "id": question.id,
        "problem": question.question,
        "answer": question.answer,
        "source": question.source,
        "generations": [trajectory.text for trajectory in trajectories],
        "labels": [int(trajectory.correct) for trajectory in trajectories],
        "models": [trajectory.model for trajectory in trajectories],
        "num_tokens": [trajectory.num_tokens for trajectory in trajectories],
    }


def describe_task(task: Task) -> str:
    """Return one line of text with the question, the answer, and the number of trajectories of a task."""
    text = f"{shown(task.question.question)}, answer {shown(task.question.answer)}"
    if not task.trajectories:
        return text
    correct = sum(trajectory.correct for trajectory in task.trajectories)
    return f"{text}, {len(task.trajectories)} trajectories, {correct} of them correct"
