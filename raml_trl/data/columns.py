"""Finds the columns of a table that hold the question, its answer and so on.

A column is found under one of its usual names, such as `problem` for the question, unless the recipe names the
column. In place of a name, a recipe may give the path of a value in a nested row: keys and list positions, joined by
dots. The path `1.ground_truth.value` means `row[1]["ground_truth"]["value"]` for a row that is a list, and
`row["1"]["ground_truth"]["value"]` for a row that is a mapping.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from string import ascii_uppercase
from typing import Literal

import numpy as np

from raml_trl.data.json_rows import Row
from raml_trl.grading.boxes import extract_box
from raml_trl.runtime.errors import InputError

AnswerForm = Literal["plain", "boxed", "hashes"]

_ALIASES: dict[str, tuple[str, ...]] = {
    "question": ("problem", "question", "Problem", "Question"),
    "answer": ("answer", "Answer", "final_answer"),
    "id": ("id", "ID", "unique_id"),
    "source": ("source",),
    "generations": ("generations",),
    "labels": ("labels",),
    "models": ("models",),
    "num_tokens": ("num_tokens",),
}
_HASHES = re.compile(r".*####(.*)", re.DOTALL)


@dataclass(frozen=True)
class Columns:
    """Where rows have the question, the answer and so on: a column or the path of a nested field; None if nowhere."""

    question: str | None = None
    answer: str | None = None
    id: str | None = None
    source: str | None = None
    generations: str | None = None
    labels: str | None = None
    models: str | None = None
    num_tokens: str | None = None


@dataclass(frozen=True)
class RowFormat:
    """The settings of a recipe that say how to read a row.

    Args:
        columns: the columns that the recipe names. The other columns are found by their usual names.
        answer_form: what the answer column contains: only the answer (`plain`), or a solution with the answer in its
            last box (`boxed`) or after `####` (`hashes`).
        choices: columns with the options of a multiple-choice question, the correct option first.
        where: conditions `(column, value)`. Only rows that meet all of them are read.
    """

    columns: Columns = Columns()
    answer_form: AnswerForm = "plain"
    choices: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()


def find_columns(row: Row, given: Columns, name: str, required: Sequence[str] = ("question", "answer")) -> Columns:
    """Return the columns of a table: those that the recipe names, and those found under a usual name.

    Args:
        row: the first row of the table.
        given: the columns that the recipe names.
        name: name of the table in error messages.
        required: the fields of `Columns` that must be found.

    Raises:
        InputError: if a required column is not found, or the table lacks a column that the recipe names.
    """
    present = list(row) if isinstance(row, dict) else [str(position) for position in range(len(row))]
    paths: dict[str, str | None] = {}
    for field in fields(Columns):
        path: str | None = vars(given)[field.name]
        if path is not None and path not in present and path.partition(".")[0] not in present:
            raise InputError(f"{name} has no {field.name}_column {path}: its columns are {_join(present)}")
        known = (alias for alias in _ALIASES[field.name] if alias in present)
        paths[field.name] = path or next(known, None)
        if paths[field.name] is None and field.name in required:
            raise InputError(
                f"{name} has no column {' or '.join(_ALIASES[field.name])}: its columns are {_join(present)}; "
                f"set {field.name}_column of prepare_data to the right one"
            )
    return Columns(**paths)


def find_value(row: object, path: str | None) -> object:
    """Return the value in `row` at `path` (a column name, or keys joined by dots), or None if there is no value."""
    if path is None:
        return None
    if isinstance(row, dict) and path in row:
        return row[path]
    for step in path.split("."):
        if isinstance(row, dict):
            row = row.get(step)
        elif isinstance(row, list) and step.isdecimal() and int(step) < len(row):
            row = row[int(step)]
        else:
            return None
    return row


def final_answer(text: str, form: AnswerForm) -> str:
    r"""Return the answer that the text of an answer column contains, or an empty string if it contains none.

    With `plain`, that is the whole text. With `boxed`, it is the content of the last `\boxed{}`, for solutions as in
    MATH. With `hashes`, it is the text after the last `####`, for solutions as in GSM8K.
    """
    if form == "hashes":
        match = _HASHES.fullmatch(text)
        return match[1].strip() if match else ""
    if form == "boxed":
        return extract_box(text) or ""
    return text.strip()


def ask_for_choice(question: str, options: Sequence[str], key: str) -> tuple[str, str]:
    """Return a question followed by its options as lettered lines, and the letter of the correct option.

    Args:
        options: the options, the correct one first. They are listed in a pseudo-random order.
        key: the text from which this order is computed, such as the id of the question.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(options)).tolist()
    lines = [f"({letter}) {options[place].strip()}" for letter, place in zip(ascii_uppercase, order, strict=False)]
    return f"{question.strip()}\n\n" + "\n".join(lines), ascii_uppercase[order.index(0)]


def _join(columns: Iterable[str]) -> str:
    return ", ".join(columns)
