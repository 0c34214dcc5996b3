"""Reads questions and their trajectories from JSON, JSON Lines or Parquet, and checks every row.

A row has a question (in the column `problem` or `question`) and its `answer`. It may also have an `id`, a `source`, and
trajectories: `generations` is the list of their texts, and `labels` is a list with 1 for each correct trajectory and 0
for each wrong one. The rollout datasets of the RaML paper have these columns, as does the output of `prepare_data` and
`sample_trajectories`. Options can name other columns.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from pathlib import Path

from raml_trl.data.columns import Columns, RowFormat, ask_for_choice, final_answer, find_columns, find_value
from raml_trl.data.config import TableArguments
from raml_trl.data.json_rows import ExactFloat, Fault, Row
from raml_trl.data.records import Question, Reject, Task, Trajectory
from raml_trl.data.tables import DataTable, open_table
from raml_trl.grading.references import unreadable_kind
from raml_trl.runtime.errors import InputError

UNUSABLE: dict[str, str] = {
    "no question": "the question is missing or blank",
    "no answer": "the answer is missing or blank, or the solution has no final answer in the requested form",
    "no choice": "an option of a multiple-choice question is missing",
    "question is not text": "a list, a mapping, true or false",
    "answer is not text": "a list, a mapping, true or false",
    "choice is not text": "a list, a mapping, true or false",
    "id is not text": "a list, a mapping, true or false",
    "source is not text": "a list, a mapping, true or false",
    "question is NaN or infinite": "a number in place of the question that is not finite",
    "answer is NaN or infinite": "a number in place of the answer that is not finite",
    "choice is NaN or infinite": "a number in place of an option that is not finite",
    "question is too small for a number": "a number below 1e-400 in place of the question",
    "answer is too small for a number": "a number below 1e-400 in place of the answer",
    "choice is too small for a number": "a number below 1e-400 in place of an option",
    "half of a surrogate pair": "a text that UTF-8 cannot express",
    "generations is not a list": "one text, or a number, in place of a list of trajectories",
    "labels is not a list": "one label in place of a list",
    "models is not a list": "one name in place of a list",
    "num_tokens is not a list": "one number in place of a list",
    "generations without labels": "trajectories of which it is not known whether they are correct",
    "generations, labels, models or counts of tokens differ in number": "the lists of a row have different lengths",
    "a label is neither 0 nor 1": "a label says whether a trajectory is correct: 0 or 1",
    "a generation is not text": "null, a number, a list or a mapping",
    "a model is not text": "a number, a list or a mapping",
    "a count of tokens is not a whole number": "a text, a fraction, or a number that is negative or too large",
    "id has come before": "two rows have the same id, by which samples are counted",
}
"""The explanation of each reason for which a row cannot be read as a task."""

_ROWS_FOR_COLUMNS = 1_000
_MOST_TOKENS = 2**63
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

    Rows that do not meet the `where` conditions of the recipe are skipped, without a `Reject`. A question without an
    `id` gets the number of its row, counted from 0, as its id.

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
            yield Reject(number, error.reason, _excerpt(row, columns))
            continue
        if not table.checked:
            if task.question.id in ids:
                yield Reject(number, "id has come before", _excerpt(row, columns))
                continue
            ids.add(task.question.id)
        yield task


def table_columns(table: DataTable) -> Columns:
    """Return which column of a table holds the question, which the answer and so on.

    They are found in the first row that has all required columns.

    Required are the question, its answer or its choices, and the columns of the `where` conditions.

    Raises:
        InputError: if none of the first 1,000 rows has all required columns, or there is no row.
    """
    missing: InputError | None = None
    faults: Counter[str] = Counter()
    for row in islice(table.read(), _ROWS_FOR_COLUMNS):
        if isinstance(row, Fault):
            faults[row.reason] += 1
            continue
        try:
            return _columns_of(row, table)
        except InputError as error:
            missing = missing or error
    if missing is not None:
        raise missing
    if faults:
        [(reason, _)] = faults.most_common(1)
        raise InputError(f"dataset_name {table.name} contains no row in its first {faults.total():,} places: {reason}")
    raise InputError(f"dataset_name {table.name} is empty: it contains no row")


def _columns_of(row: Row, table: DataTable) -> Columns:
    row_format = table.row_format
    required = ("question",) if row_format.choices else ("question", "answer")
    columns = find_columns(row, row_format.columns, table.name, required)
    for column in (*row_format.choices, *(column for column, _ in row_format.where)):
        if find_value(row, column) is None:
            raise InputError(f"{table.name} has no column {column}: its first row does not contain it")
    return columns


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


def question_texts(table: DataTable) -> Iterator[str]:
    """Yield the text of each question of a table, without checking answers.

    Raises:
        InputError: if `stream_tasks` raises it.
    """
    return (task.question.question for task in stream_tasks(table))


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
    """A row cannot be read as a task, for a reason that is a key of `UNUSABLE`."""

    def __init__(self, reason: str) -> None:
        assert reason in UNUSABLE, reason
        super().__init__(reason)
        self.reason = reason


def _read_task(row: Row, columns: Columns, row_format: RowFormat, number: int, default_source: str) -> Task:
    text = _read_text(find_value(row, columns.question), "question")
    identity = _read_name(find_value(row, columns.id), "id")
    identity = str(number) if identity is None else identity
    source = _read_name(find_value(row, columns.source), "source")
    if row_format.choices:
        options = [_read_text(find_value(row, column), "choice") for column in row_format.choices]
        text, answer = ask_for_choice(text, options, identity)
    else:
        answer = final_answer(_read_text(find_value(row, columns.answer), "answer"), row_format.answer_form)
    trajectories = tuple(_read_trajectories(row, columns)) if columns.generations is not None else ()
    return Task(Question(identity, text, answer, default_source if source is None else source), trajectories)


def _read_text(value: object, name: str) -> str:
    if isinstance(value, str):
        return _unicode(value)
    if isinstance(value, float):
        return _spell(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _UnusableRow(f"no {name}" if value is None else f"{name} is not text")


def _read_name(value: object, name: str) -> str | None:
    """Return an id or a source as text; None if the row has none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _UnusableRow(f"{name} is not text")
    return _unicode(str(value))


def _unicode(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _UnusableRow("half of a surrogate pair") from error
    return text


def _spell(value: float, name: str) -> str:
    """Return the digits of a number without an exponent, and without a decimal point if it is an integer.

    A column of integers with a missing value is read as floats.
    """
    if not math.isfinite(value):
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
    if not all(isinstance(label, int | float) and label in (0, 1) for label in labels):
        raise _UnusableRow("a label is neither 0 nor 1")
    if not len(texts) == len(labels) == len(models) == len(num_tokens):
        raise _UnusableRow("generations, labels, models or counts of tokens differ in number")
    for text, label, model, tokens in zip(texts, labels, models, num_tokens, strict=True):
        if not isinstance(text, str):
            raise _UnusableRow("a generation is not text")
        if not isinstance(model, str | None):
            raise _UnusableRow("a model is not text")
        yield Trajectory(_unicode(text), bool(label), _unicode(model or "unknown"), _read_count(tokens))


def _read_count(value: object) -> int | None:
    """Return a number of tokens; None if it was not counted."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not 0 <= value < _MOST_TOKENS:  # type: ignore[operator]  # a number
        raise _UnusableRow("a count of tokens is not a whole number")
    return int(value)  # type: ignore[call-overload]  # a number


def _read_list(value: object, name: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _UnusableRow(f"{name} is not a list")
    return value


def _excerpt(row: Row, columns: Columns) -> dict[str, str]:
    """Return the values of a row that `rejects.jsonl` shows: id, question, answer and source, but no trajectories."""
    values = {name: find_value(row, path) for name, path in vars(columns).items() if name in _EXCERPT_COLUMNS}
    return {name: str(value)[:_EXCERPT_CHARACTERS] for name, value in values.items() if value is not None}
