"""The typed records of the data: questions, their trajectories, and rows that were left out."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A task: the text put to the model, and the reference its answer is graded against."""

    id: str
    question: str
    answer: str
    source: str


@dataclass(frozen=True)
class Trajectory:
    """A reasoning text for a question, and whether its answer is correct."""

    text: str
    correct: bool
    model: str
    num_tokens: int | None = None


@dataclass(frozen=True)
class Task:
    """A question and the trajectories there are for it."""

    question: Question
    trajectories: tuple[Trajectory, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A row that is left out: which, why, and what can be shown of it."""

    row: int
    reason: str
    content: dict[str, Any]


def task_row(task: Task) -> dict[str, Any]:
    """A row of the columns in `shards.SCHEMAS`."""
    question = task.question
    return {
        "id": question.id,
        "problem": question.question,
        "answer": question.answer,
        "source": question.source,
        "generations": [one.text for one in task.trajectories],
        "labels": [int(one.correct) for one in task.trajectories],
        "models": [one.model for one in task.trajectories],
        "num_tokens": [one.num_tokens for one in task.trajectories],
    }
