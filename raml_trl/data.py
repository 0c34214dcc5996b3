"""Questions and trajectories: read in every shape this project knows, checked, and turned into rows for SFT and GRPO.

Shapes on disk (JSONL, JSONL.gz, Parquet, or a Hub data set):
- questions: `question` or `problem`, and `answer`; `id` and `source` where there are any.
- the paper's rollout data sets: the same, and `generations` (texts) with `labels` (1 for a correct one).
- what `prepare_data` writes: a directory with `questions.parquet` and, if there are any, `trajectories.parquet`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from raml_trl.errors import InputError
from raml_trl.files import read_rows
from raml_trl.grading import readable
from raml_trl.prompts import prompt_messages
from raml_trl.runs import require_complete

QUESTIONS = "questions.parquet"
TRAJECTORIES = "trajectories.parquet"

QUESTION_SCHEMA = pa.schema(
    {"id": pa.string(), "question": pa.string(), "answer": pa.string(), "source": pa.string()},
)
TRAJECTORY_SCHEMA = pa.schema(
    {"question_id": pa.string(), "text": pa.string(), "correct": pa.bool_(), "model": pa.string()},
)

_ALIASES = {"question": ("question", "problem"), "answer": ("answer",)}
_READERS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".parquet": "parquet"}


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

    question_id: str
    text: str
    correct: bool
    model: str


def load_questions(name: str, *, config: str | None = None, split: str = "train") -> list[Question]:
    """The questions of a prepared directory, a file or a Hub data set, every answer one that can be graded against.

    Raises:
        InputError: if it cannot be found or read, is empty, lacks a column, or has an answer the grader cannot read.
    """
    require_complete(name)
    prepared = Path(name) / QUESTIONS
    if prepared.is_file():
        return [Question(**row) for row in read_rows(prepared)]
    questions = list(read_questions(read_table(name, config=config, split=split), name))
    unreadable = [question for question in questions if not readable(question.answer)]
    if unreadable:
        raise InputError(
            f"{name}: the grader cannot read {len(unreadable)} of {len(questions)} answers, the first of them "
            f"{unreadable[0].answer!r} of question {unreadable[0].id}: prepare_data leaves such questions out"
        )
    return questions


def load_trajectories(
    name: str, *, config: str | None = None, split: str = "train"
) -> tuple[list[Question], list[Trajectory]]:
    """The questions, and every trajectory of theirs, correct or not.

    Raises:
        InputError: if it cannot be found or read, is empty, or lacks a column.
    """
    require_complete(name)
    prepared = Path(name) / TRAJECTORIES
    if prepared.is_file():
        return load_questions(name), [Trajectory(**row) for row in read_rows(prepared)]
    if (Path(name) / QUESTIONS).is_file():
        raise InputError(f"{name} was prepared without trajectories: sample some, or name a rollout data set")
    table = read_table(name, config=config, split=split)
    questions = list(read_questions(table, name))
    return questions, list(read_trajectories(table, questions, name))


def load_texts(name: str) -> Iterator[str]:
    """Everything there is to read in a data set: what a tokenizer is trained on."""
    trajectories: list[Trajectory] = []
    if (Path(name) / QUESTIONS).is_file() and not (Path(name) / TRAJECTORIES).is_file():
        questions = load_questions(name)
    else:
        questions, trajectories = load_trajectories(name)
    yield from (question.question for question in questions)
    yield from (trajectory.text for trajectory in trajectories)


def read_table(name: str, *, config: str | None = None, split: str = "train") -> Dataset:
    """A file or a Hub data set as it is.

    Raises:
        InputError: if it cannot be found or read, or is empty.
    """
    suffix = next((suffix for suffix in _READERS if name.endswith(suffix)), None)
    path = Path(name)
    if suffix is not None and not path.is_file():
        raise InputError(f"dataset_name {name}: there is no such file")
    if suffix is not None and not path.stat().st_size:
        raise InputError(f"dataset_name {name} is empty")
    if suffix is None and path.exists():
        raise InputError(
            f"dataset_name {name} is neither a directory made by prepare_data nor one of {', '.join(_READERS)}"
        )
    try:
        if suffix is not None:
            table = load_dataset(_READERS[suffix], data_files=name, split="train")
        else:
            table = load_dataset(name, config, split=split)
    except DatasetNotFoundError as error:
        raise InputError(f"dataset_name {name}: no such directory or file here, nor data set on the Hub") from error
    except (DatasetGenerationError, ConnectionError, ValueError) as error:
        reason = str(error.__cause__ or error)
        raise InputError(f"dataset_name {name} cannot be read: {' '.join(reason.split())[:300]}") from error
    assert not isinstance(table, DatasetDict)
    if len(table) == 0:
        raise InputError(f"dataset_name {name} is empty")
    return table


def read_questions(table: Dataset, name: str) -> Iterator[Question]:
    """The questions of a table in either shape; those without an `id` are numbered.

    Raises:
        InputError: if a column is missing, a value is not text, or two questions have the same `id`.
    """
    seen: set[str] = set()
    columns = {field: _column(table, name, *aliases) for field, aliases in _ALIASES.items()}
    for number, row in enumerate(table):
        values = {field: row[column] for field, column in columns.items()}
        for field, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values[field] = str(value)
            elif not isinstance(value, str):
                raise InputError(f"{name}, row {number}: {columns[field]} must be text, got {value!r}")
        question = Question(id=str(row.get("id", number)), source=str(row.get("source", name)), **values)
        if question.id in seen:
            raise InputError(f"{name}, row {number}: id {question.id!r} has come before, and samples are counted by it")
        seen.add(question.id)
        yield question


def read_trajectories(table: Dataset, questions: Sequence[Question], name: str) -> Iterator[Trajectory]:
    """The generations of a rollout data set, each with the label its authors gave it.

    Raises:
        InputError: if a column is missing, or there are not as many labels as generations.
    """
    generations, labels = _column(table, name, "generations"), _column(table, name, "labels")
    for number, (row, question) in enumerate(zip(table, questions, strict=True)):
        texts, bits = row[generations], row[labels]
        models = row.get("models") or ["unknown"] * len(texts)
        if not len(texts) == len(bits) == len(models):
            raise InputError(
                f"{name}, row {number}: {len(texts)} generations, {len(bits)} labels and {len(models)} models differ"
            )
        for text, bit, model in zip(texts, bits, models, strict=True):
            yield Trajectory(question.id, text, bool(bit), str(model))


def choose_trajectories(
    questions: Sequence[Question], trajectories: Iterable[Trajectory], num_trajectories: int | None, seed: int
) -> list[tuple[Question, Trajectory]]:
    """K distinct correct trajectories per question, repeated so that K changes their diversity and nothing else.

    Every question keeps as many examples as it has correct trajectories (none for those without), whatever K: the K
    take turns to fill them. The K are drawn by a key of (seed, question), and nested: those for K = 4 contain those
    for K = 2.

    Source: RaML, arXiv 2505.19815, section 4.3. Its code takes the first K and draws the filler at random.

    Raises:
        InputError: if no trajectory is correct.
    """
    correct: dict[str, dict[str, Trajectory]] = defaultdict(dict)
    counts: Counter[str] = Counter()
    for trajectory in trajectories:
        if trajectory.correct:
            correct[trajectory.question_id].setdefault(trajectory.text, trajectory)
            counts[trajectory.question_id] += 1
    if not counts:
        raise InputError("no trajectory is correct: there is nothing to train on")
    chosen: list[tuple[Question, Trajectory]] = []
    for number, question in enumerate(questions):
        distinct = list(correct[question.id].values())
        order = np.random.default_rng([seed, number]).permutation(len(distinct))[:num_trajectories]
        chosen += [(question, distinct[order[turn % len(order)]]) for turn in range(counts[question.id])]
    return chosen


def sft_rows(chosen: Iterable[tuple[Question, Trajectory]], style: str) -> Dataset:
    """Prompt and completion messages: TRL's `SFTTrainer` then takes the loss on the completion only."""
    rows = [
        {
            "prompt": prompt_messages(question.question, style),
            "completion": [{"role": "assistant", "content": trajectory.text}],
        }
        for question, trajectory in chosen
    ]
    return Dataset.from_list(rows)


def grpo_rows(questions: Iterable[Question], style: str) -> Dataset:
    """Prompt messages, and the answer that TRL hands to the reward."""
    rows = [{"prompt": prompt_messages(question.question, style), "answer": question.answer} for question in questions]
    return Dataset.from_list(rows)


def _column(table: Dataset, name: str, *aliases: str) -> str:
    for alias in aliases:
        if alias in table.column_names:
            return alias
    raise InputError(f"{name} has no column {' or '.join(aliases)}: its columns are {', '.join(table.column_names)}")
