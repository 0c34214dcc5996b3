"""Rows of JSON Lines files and of JSON arrays, read in a stream.

A line or element that is not a row becomes a `Fault`, which the reader counts or refuses. A file that ends in the
middle of a row raises `CutShort`, since more than that row is missing.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from io import BufferedIOBase
from typing import TypeAlias

import ijson

Row: TypeAlias = dict[str, object] | list[object]
"""The columns of a row, by name or by position."""

_CHUNK_BYTES = 2**16
_EXCERPT_CHARACTERS = 200
_NOT_A_ROW = "not a row of columns"


@dataclass(frozen=True)
class Fault:
    """A line or element that is not a row: the reason, and the beginning of its text."""

    reason: str
    excerpt: str


class CutShort(Exception):
    """The data end in the middle of a row, or are damaged; the message gives the place."""


def read_lines(lines: Iterable[bytes]) -> Iterator[Row | Fault]:
    """Yield the mapping or list of each line, and a `Fault` for every other line that is not blank.

    Raises:
        CutShort: if the last line has no line end and is not JSON.
    """
    for line in lines:
        if line.isspace():
            continue
        try:
            row = json.loads(line)
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
    """Yield the elements of a JSON array that are mappings or lists, and a `Fault` for every other element.

    Memory holds a chunk of the file and one element.

    Raises:
        CutShort: if the array is damaged or incomplete.
    """
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
    """Replace each Decimal by a float, as `json` reads it; ijson's own `use_float` rejects integers over 64 bits."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _reason(error: ijson.JSONError) -> str:
    """The parser's message and the text around the place, without the arrow that it draws below."""
    [message] = error.args
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return " ".join(text.partition("(right here)")[0].split())


def _excerpt(text: str) -> str:
    return text[:_EXCERPT_CHARACTERS].strip()
