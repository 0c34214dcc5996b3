"""Reads the rows of a JSON Lines file or of a JSON array, one at a time.

A line or element that is not a row is yielded as a `Fault`, so that the caller can count it or stop. A file that ends
in the middle of a row raises `CutShort`, because any rows after it are missing as well.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from io import BufferedIOBase
from typing import TypeAlias

Row: TypeAlias = dict[str, object] | list[object]
"""A row: a mapping from column names to values, or a list of values whose positions are the columns."""


class ExactFloat(float):
    """A number with a decimal point or an exponent. `decimal` is its exact value, which a float may round."""

    decimal: Decimal

    def __new__(cls, text: str | Decimal) -> "ExactFloat":
        number = super().__new__(cls, text)
        number.decimal = Decimal(text)
        return number


_CHUNK_BYTES = 2**16
_EXCERPT_CHARACTERS = 200
_NOT_A_ROW = "not a row of columns"


@dataclass(frozen=True)
class Fault:
    """A line or element that is not a row, with the reason and the first 200 characters of its text."""

    reason: str
    excerpt: str


class CutShort(Exception):
    """The data end in the middle of a row, or are damaged. The message says where."""


def read_lines(lines: Iterable[bytes]) -> Iterator[Row | Fault]:
    """Yield the row (a JSON mapping or list) on each line, or a `Fault` if the line has none. Blank lines are skipped.

    Raises:
        CutShort: if the last line has no line end and is not JSON.
    """
    for line in lines:
        if line.isspace():
            continue
        try:
            row = json.loads(line, parse_float=ExactFloat)
        except UnicodeDecodeError:
            yield Fault("line is not UTF-8", _excerpt(line.decode(errors="replace")))
        except json.JSONDecodeError as error:
            excerpt = _excerpt(line.decode(errors="replace"))
            if not line.endswith(b"\n"):
                raise CutShort(f"its last line is {excerpt!r}") from error
            yield Fault("line is not JSON", excerpt)
        else:
            yield row if isinstance(row, (dict, list)) else Fault(_NOT_A_ROW, _excerpt(line.decode()))


def read_array(file: BufferedIOBase) -> Iterator[Row | Fault]:
    """Yield each element of a JSON array that is a row (a mapping or list), and a `Fault` for any other element.

    Memory holds a chunk of the file and one element at a time.

    Raises:
        CutShort: if the array is damaged or incomplete.
    """
    import ijson  # here, because trainers that read no files need not have it

    number = 0
    try:
        for element in ijson.items(file, "item", buf_size=_CHUNK_BYTES):
            row = _plain(element)
            if isinstance(row, (dict, list)):
                yield row
            else:
                yield Fault(_NOT_A_ROW, _excerpt(json.dumps(row, ensure_ascii=False)))
            number += 1
    except ijson.JSONError as error:
        raise CutShort(f"the array breaks off at row {number}: {_reason(error)}") from error


def _plain(value: object) -> object:
    """Replace each Decimal by an `ExactFloat`. ijson's own `use_float` rejects integers over 64 bits."""
    if isinstance(value, Decimal):
        return ExactFloat(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _reason(error: Exception) -> str:
    """Return ijson's message and its excerpt of the text around the error, without the arrow that marks the place."""
    [message] = error.args
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return " ".join(text.partition("(right here)")[0].split())


def _excerpt(text: str) -> str:
    return text[:_EXCERPT_CHARACTERS].strip()
