"""Which columns of a table hold what: the names that are known, or those that a recipe gives.

A column may be a path into a nested row: `1.ground_truth.value` is element 1 of a list (or column `1`), and so on down.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

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
    """The column, or path, of everything that a row may hold; None where it does not."""

    question: str | None = None
    answer: str | None = None
    id: str | None = None
    source: str | None = None
    generations: str | None = None
    labels: str | None = None
    models: str | None = None
    num_tokens: str | None = None


@dataclass(frozen=True)
class Reading:
    """How the rows of a table are to be understood, where that does not show.

    `choices`: columns of the options of a multiple-choice question, the right one first. `where`: only rows in which
    these columns have these values.
    """

    columns: Columns = Columns()
    answer_form: AnswerForm = "plain"
    choices: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()


def find_columns(row: Any, given: Columns, name: str, required: Sequence[str] = ("question", "answer")) -> Columns:
    """`given`, and for what it does not say the names that `row`, the first of the table `name`, is found to use.

    Raises:
        InputError: if one of `required` is not found, or a column that was given is not there.
    """
    present = list(row) if isinstance(row, dict) else [str(position) for position in range(len(row))]
    found: dict[str, str | None] = {}
    for field in fields(Columns):
        path: str | None = vars(given)[field.name]
        if path is not None and path not in present and path.partition(".")[0] not in present:
            raise InputError(f"{name} has no {field.name}_column {path}: its columns are {_listed(present)}")
        known = (alias for alias in _ALIASES[field.name] if alias in present)
        found[field.name] = path or next(known, None)
        if found[field.name] is None and field.name in required:
            raise InputError(
                f"{name} has no column {' or '.join(_ALIASES[field.name])}: its columns are {_listed(present)}; "
                f"prepare_data takes another as {field.name}_column"
            )
    return Columns(**found)


def find_value(row: Any, path: str | None) -> Any:
    """What stands at `path` of `row`; None where nothing does."""
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
    r"""The answer alone, out of a column that holds a whole solution: what stands in its last `\boxed{}` (MATH), or
    after its last `####` (GSM8K). Empty where there is none.
    """
    if form == "hashes":
        match = _HASHES.fullmatch(text)
        return match[1].strip() if match else ""
    if form == "boxed":
        return extract_box(text) or ""
    return text.strip()


def ask_for_choice(question: str, options: Sequence[str], key: str) -> tuple[str, str]:
    """A multiple-choice question with its options in an order drawn by `key`, and the letter of the first of them."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(options)).tolist()
    lines = [f"({letter}) {options[place].strip()}" for letter, place in zip(ascii_uppercase, order, strict=False)]
    return f"{question.strip()}\n\n" + "\n".join(lines), ascii_uppercase[order.index(0)]


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)
