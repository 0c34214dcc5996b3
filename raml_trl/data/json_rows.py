"""Rows of JSON, one after the other: JSON Lines, or the elements of one array that need not fit into memory.

A single line that is no row is handed on as a `Fault`, for the reader to count or to refuse. What ends in the middle
of a row raises `CutShort`: more than that row is missing.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

_CHUNK_CHARACTERS = 2**20
_EXCERPT_CHARACTERS = 200
_NO_ROW = "not a row of columns"
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Fault:
    """What stands where a row should, and why it is none."""

    reason: str
    excerpt: str


class CutShort(Exception):
    """The data end in the middle of a row; the message shows where."""


def read_lines(lines: Iterable[bytes]) -> Iterator[Any]:
    """A mapping or a list for every line that holds one, and a `Fault` for every other that is not empty.

    Raises:
        CutShort: if the last line has no end and is not JSON.
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
            yield row if isinstance(row, (dict, list)) else Fault(_NO_ROW, _excerpt(line.decode()))


def read_array(file: TextIO) -> Iterator[Any]:
    """A mapping or a list for every element of the array in `file` that is one, and a `Fault` for every other.

    Memory holds a chunk of the file, or its longest element.

    Raises:
        CutShort: if it is damaged, or ends before the array does.
    """
    decoder = json.JSONDecoder()
    text, position = file.read(_CHUNK_CHARACTERS).lstrip(_SPACE)[1:], 0
    while True:
        while position < len(text) and text[position] in _SPACE + ",":
            position += 1
        if text.startswith("]", position):
            return
        try:
            row, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            chunk = file.read(max(_CHUNK_CHARACTERS, len(text) - position))
            if not chunk:
                raise CutShort(f"the array breaks off at {_excerpt(text[position:])!r}") from error
            text, position = text[position:] + chunk, 0
        else:
            yield row if isinstance(row, (dict, list)) else Fault(_NO_ROW, _excerpt(text[position:end]))
            position = end


def _excerpt(text: str) -> str:
    return text[:_EXCERPT_CHARACTERS].strip()
