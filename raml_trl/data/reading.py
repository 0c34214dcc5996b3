"""Questions and their trajectories: read from a table of any shape, and checked.

A row holds a question (`problem` or `question`), its `answer`, and where there are any the `id`, the `source`, and in
the paper's rollout data sets `generations` (texts) with `labels` (1 for a correct one). What `prepare_data` and
`sample_trajectories` write has the same columns.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raml_trl.data.columns import Columns, Reading, ask_for_choice, final_answer, find_columns, find_value
from raml_trl.data.config import TableArguments
from raml_trl.data.json_rows import Fault
from raml_trl.data.key_set import KeySet
from raml_trl.data.records import Question, Reject, Task, Trajectory
from raml_trl.data.tables import DataTable, open_table
from raml_trl.grading.grader import readable
from raml_trl.runtime.errors import InputError


def open_data(arguments: TableArguments) -> DataTable:
    """The table that a recipe names, to be read as it says.

    Raises:
        InputError: as `tables.open_table`.
    """
    table = open_table(arguments.dataset_name, config=arguments.dataset_config, split=arguments.dataset_split)
    reading = arguments.reading
    parts = tuple(replace(part, reading=reading) for part in table.parts)
    return replace(table, reading=reading, signature=f"{table.signature} {reading}", parts=parts)


def read_tasks(table: DataTable) -> Iterator[Task | Reject]:
    """Every row of a table that `where` lets through, in order, as a task or as a reject.

    Questions without an `id` are numbered by their row.

    Raises:
        InputError: if a column is missing, the data are damaged, or there is no row at all.
    """
    columns = table_columns(table)
    source = Path(table.name).name if Path(table.name).exists() else table.name  # no path of this machine
    seen = KeySet()
    for number, row in enumerate(table.read()):
        if isinstance(row, Fault):
            yield Reject(number, row.reason, {"excerpt": row.excerpt})
            continue
        if any(str(find_value(row, column)) != value for column, value in table.reading.where):
            continue
        try:
            task = _task(row, columns, table.reading, number, source)
        except _Unusable as error:
            yield Reject(number, str(error), _shown(row, columns))
            continue
        if not table.checked and not seen.add(task.question.id):
            yield Reject(number, "id has come before", _shown(row, columns))
            continue
        yield task


def table_columns(table: DataTable) -> Columns:
    """Where things stand in a table, by its first row.

    Raises:
        InputError: if a column is missing, or there is no row.
    """
    reading = table.reading
    required = ("question",) if reading.choices else ("question", "answer")
    for row in table.read():
        if not isinstance(row, Fault):
            columns = find_columns(row, reading.columns, table.name, required)
            for column in (*reading.choices, *(column for column, _ in reading.where)):
                if find_value(row, column) is None:
                    raise InputError(f"{table.name} has no column {column}: its first row is without")
            return columns
    raise InputError(f"dataset_name {table.name} is empty: there is no row in it")


def stream_tasks(table: DataTable) -> Iterator[Task]:
    """Every task of a table, none of whose rows may be unusable.

    Raises:
        InputError: also for the first row that is.
    """
    for task in read_tasks(table):
        if isinstance(task, Reject):
            raise InputError(
                f"{table.name}, row {task.row}: {task.reason}, {task.content}: prepare_data leaves such rows out"
            )
        yield task


def stream_questions(table: DataTable) -> Iterator[Question]:
    """Every question of a table, its answer one that can be graded against.

    Raises:
        InputError: also for an answer the grader cannot read.
    """
    for task in stream_tasks(table):
        question = task.question
        if not table.checked and not readable(question.answer):
            raise InputError(
                f"{table.name}: the grader cannot read the answer {question.answer!r} of question {question.id}: "
                "prepare_data leaves such questions out"
            )
        yield question


def load_questions(name: str, *, config: str | None = None, split: str = "train") -> list[Question]:
    """All questions of a data set, as `stream_questions` gives them.

    Raises:
        InputError: if it cannot be found or read, is empty, lacks a column, or has an answer the grader cannot read.
    """
    return list(stream_questions(open_table(name, config=config, split=split)))


def load_texts(name: str) -> Iterator[str]:
    """Everything there is to read in a data set: what a tokenizer is trained on."""
    for task in stream_tasks(open_table(name)):
        yield task.question.question
        yield from (trajectory.text for trajectory in task.trajectories)


class _Unusable(Exception):
    """The reason why a row is no task."""


def _task(row: Any, columns: Columns, reading: Reading, number: int, default_source: str) -> Task:
    question = _text(find_value(row, columns.question), "question")
    given_id, source = find_value(row, columns.id), find_value(row, columns.source)
    identity = str(number if given_id is None else given_id)
    if reading.choices:
        options = [_text(find_value(row, column), "choice") for column in reading.choices]
        question, answer = ask_for_choice(question, options, identity)
    else:
        answer = final_answer(_text(find_value(row, columns.answer), "answer"), reading.answer_form)
    trajectories = tuple(_trajectories(row, columns)) if columns.generations is not None else ()
    return Task(Question(identity, question, answer, default_source if source is None else str(source)), trajectories)


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a whole column of integers with one missing is read as floats
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _Unusable(f"no {what}" if value is None else f"{what} is not text")


def _trajectories(row: Any, columns: Columns) -> Iterator[Trajectory]:
    texts, labels = find_value(row, columns.generations) or [], find_value(row, columns.labels)
    models = find_value(row, columns.models) or ["unknown"] * len(texts)
    num_tokens = find_value(row, columns.num_tokens) or [None] * len(texts)
    if not texts:
        return
    if labels is None:
        raise _Unusable("generations without labels")
    if any(label not in (0, 1) for label in labels):
        unknown = [label for label in labels if label not in (0, 1)]
        raise _Unusable(f"label {unknown[0]!r} is neither 0 nor 1")
    if not len(texts) == len(labels) == len(models) == len(num_tokens):
        raise _Unusable(f"{len(texts)} generations and {len(labels)} labels, models or counts of tokens")
    for text, label, model, tokens in zip(texts, labels, models, num_tokens, strict=True):
        if not isinstance(text, str):
            raise _Unusable("a generation is not text")
        yield Trajectory(text, bool(label), str(model), tokens)


def _shown(row: Any, columns: Columns) -> dict[str, Any]:
    """What a rejects file shows of a row: the question, not its trajectories."""
    values = {name: find_value(row, path) for name, path in vars(columns).items() if name in _SHOWN}
    return {name: str(value)[:_SHOWN_CHARACTERS] for name, value in values.items() if value is not None}


_SHOWN = ("id", "question", "answer", "source")
_SHOWN_CHARACTERS = 2_000
