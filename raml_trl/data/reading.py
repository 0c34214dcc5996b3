"""Reads questions and their trajectories from JSON, JSON Lines or Parquet, and checks every row.

A row has a question (in the column `problem` or `question`) and its `answer`. It may also have an `id`, a `source`, and
trajectories: `generations` is the list of their texts, and `labels` is a list with 1 for each correct trajectory and 0
for each wrong one. The rollout datasets of the RaML paper have these columns, as does the output of `prepare_data` and
`sample_trajectories`. Options can name other columns.
"""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from math import isfinite
from pathlib import Path

from raml_trl.data.columns import Columns, RowFormat, ask_for_choice, final_answer, find_columns, find_value
from raml_trl.data.config import TableArguments
from raml_trl.data.json_rows import ExactFloat, Fault, Row
from raml_trl.data.records import Question, Reject, Task, Trajectory
from raml_trl.data.tables import DataTable, open_table
from raml_trl.grading.references import unreadable_kind
from raml_trl.runtime.errors import InputError

_EXCERPT_COLUMNS = ("id", "question", "answer", "source")
_EXCERPT_CHARACTERS = 2_000
_SMALLEST_EXPONENT = -400  # smaller numbers are zero as floats


def open_data(arguments: TableArguments) -> DataTable:
    """Open the dataset that `arguments` name, to be read in the row format that `arguments` give.

    Raises:
        InputError: if the dataset does not exist, is not data, or is the output of an unfinished run.
    """
    table = open_table(arguments.dataset_name, config=arguments.dataset_config, split=arguments.dataset_split)
    row_format = arguments.row_format
    parts = tuple(replace(part, row_format=row_format) for part in table.parts)
    return replace(table, row_format=row_format, signature=f"{table.signature} {row_format}", parts=parts)


def read_tasks(table: DataTable) -> Iterator[Task | Reject]:
    """Yield, in order, a `Task` for each usable row of a table and a `Reject` for each row that cannot be used.

    Only rows that meet the `where` conditions of the recipe are read. A question without an `id` gets the number
    of its row, counted from 0, as its id.

    Raises:
        InputError: if a required column is missing, the data are damaged, or there is no row.
    """
    columns = table_columns(table)
    source = Path(table.name).name if Path(table.name).exists() else table.name  # no local path in the data
    ids: set[str] = set()
    for number, row in enumerate(table.read()):
        if isinstance(row, Fault):
            yield Reject(number, row.reason, {"excerpt": row.excerpt})
            continue
        if any(str(find_value(row, column)) != value for column, value in table.row_format.where):
            continue
        try:
            task = _read_task(row, columns, table.row_format, number, source)
        except _UnusableRow as error:
            yield Reject(number, str(error), _excerpt(row, columns))
            continue
        if not table.checked:
            if task.question.id in ids:
                yield Reject(number, "id has come before", _excerpt(row, columns))
                continue
            ids.add(task.question.id)
        yield task


def table_columns(table: DataTable) -> Columns:
    """Return the columns of a table, which are found in its first row.

    Raises:
        InputError: if a required column is missing, or there is no row.
    """
    row_format = table.row_format
    required = ("question",) if row_format.choices else ("question", "answer")
    for row in table.read():
        if not isinstance(row, Fault):
            columns = find_columns(row, row_format.columns, table.name, required)
            for column in (*row_format.choices, *(column for column, _ in row_format.where)):
                if find_value(row, column) is None:
                    raise InputError(f"{table.name} has no column {column}: its first row does not contain it")
            return columns
    raise InputError(f"dataset_name {table.name} is empty: it contains no row")


def stream_tasks(table: DataTable) -> Iterator[Task]:
    """Yield each row of a table as a task.

    Raises:
        InputError: if a row is not usable, a required column is missing, the data are damaged, or there is no row.
    """
    for task in read_tasks(table):
        if isinstance(task, Reject):
            raise InputError(
                f"{table.name}, row {task.row}: {task.reason}, {task.content}: prepare_data leaves such rows out"
            )
        yield task


def stream_questions(table: DataTable) -> Iterator[Question]:
    """Yield each question of a table.

    Raises:
        InputError: if the grader cannot read an answer, or `stream_tasks` raises it.
    """
    for task in stream_tasks(table):
        question = task.question
        if not table.checked and (kind := unreadable_kind(question.answer)):
            raise InputError(
                f"{table.name}: the grader cannot read the answer {question.answer!r} of question {question.id} "
                f"({kind}): prepare_data leaves such questions out"
            )
        yield question


def load_questions(name: str, *, config: str | None = None, split: str = "train") -> list[Question]:
    """Return all questions of a dataset.

    Args:
        name: path or Hub name of the dataset.
        config: configuration of a Hub dataset.
        split: split of a Hub dataset.

    Raises:
        InputError: if the dataset does not exist, is damaged or empty, lacks a column, or contains an answer that the
            grader cannot read.
    """
    return list(stream_questions(open_table(name, config=config, split=split)))


def load_texts(name: str) -> Iterator[str]:
    """Yield the texts of all questions and trajectories of the dataset `name`, as training data for a tokenizer."""
    for task in stream_tasks(open_table(name)):
        yield task.question.question
        yield from (trajectory.text for trajectory in task.trajectories)


class _UnusableRow(Exception):
    """A row cannot be read as a task. The message gives the reason."""


def _read_task(row: Row, columns: Columns, row_format: RowFormat, number: int, default_source: str) -> Task:
    text = _read_text(find_value(row, columns.question), "question")
    given_id, source = find_value(row, columns.id), find_value(row, columns.source)
    identity = str(number if given_id is None else given_id)
    if row_format.choices:
        options = [_read_text(find_value(row, column), "choice") for column in row_format.choices]
        text, answer = ask_for_choice(text, options, identity)
    else:
        answer = final_answer(_read_text(find_value(row, columns.answer), "answer"), row_format.answer_form)
    trajectories = tuple(_read_trajectories(row, columns)) if columns.generations is not None else ()
    return Task(Question(identity, text, answer, default_source if source is None else str(source)), trajectories)


def _read_text(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _spell(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _UnusableRow(f"no {name}" if value is None else f"{name} is not text")


def _spell(value: float, name: str) -> str:
    """Return the digits of a number without an exponent, and without a decimal point if it is an integer.

    A column of integers with a missing value is read as floats.
    """
    if not isfinite(value):
        raise _UnusableRow(f"{name} is NaN or infinite")
    decimal = value.decimal if isinstance(value, ExactFloat) else Decimal(repr(value))
    if decimal and decimal.adjusted() < _SMALLEST_EXPONENT:
        raise _UnusableRow(f"{name} is too small for a number")
    return str(int(decimal)) if decimal == decimal.to_integral_value() else format(decimal, "f")


def _read_trajectories(row: Row, columns: Columns) -> Iterator[Trajectory]:
    texts = _read_list(find_value(row, columns.generations), "generations")
    if not texts:
        return
    given_labels = find_value(row, columns.labels)
    if given_labels is None:
        raise _UnusableRow("generations without labels")
    labels = _read_list(given_labels, "labels")
    models = _read_list(find_value(row, columns.models), "models") or ["unknown"] * len(texts)
    num_tokens = _read_list(find_value(row, columns.num_tokens), "num_tokens") or [None] * len(texts)
    for label in labels:
        if label not in (0, 1):
            raise _UnusableRow(f"label {label!r} is neither 0 nor 1")
    if not len(texts) == len(labels) == len(models) == len(num_tokens):
        raise _UnusableRow(f"{len(texts)} generations and {len(labels)} labels, models or counts of tokens")
    for text, label, model, tokens in zip(texts, labels, models, num_tokens, strict=True):
        if not isinstance(text, str):
            raise _UnusableRow("a generation is not text")
        if not isinstance(tokens, (int, float, type(None))):
            raise _UnusableRow("a count of tokens is not a number")
        yield Trajectory(text, bool(label), str(model), None if tokens is None else int(tokens))


def _read_list(value: object, name: str) -> list[object]:
    if not value:
        return []
    if not isinstance(value, list):
        raise _UnusableRow(f"{name} is not a list")
    return value


def _excerpt(row: Row, columns: Columns) -> dict[str, str]:
    """Return the values of a row that `rejects.jsonl` shows: id, question, answer and source, but no trajectories."""
    values = {name: find_value(row, path) for name, path in vars(columns).items() if name in _EXCERPT_COLUMNS}
    return {name: str(value)[:_EXCERPT_CHARACTERS] for name, value in values.items() if value is not None}
