"""Reads the rows of a JSON Lines file or of a JSON array, one at a time.

A line or element that is not a row is yielded as a `Fault`, so that the caller can count it or stop. A file that ends
in the middle of a row raises `CutShort`, because any rows after it are missing as well. A file that is not one table of
rows raises `NotATable`.
"""

import json
import re
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

    def __new__(cls, text: str) -> "ExactFloat":
        number = super().__new__(cls, text)
        number.decimal = Decimal(text)
        return number


FAULTS: dict[str, str] = {
    "line is not JSON": "a line in the middle of the file cannot be parsed",
    "line is not UTF-8": "a line contains bytes that are not text",
    "element is not JSON": "an element of the array cannot be parsed",
    "element is not UTF-8": "an element of the array contains bytes that are not text",
    "not a row of columns": "a number, a string or null in place of a mapping",
    "nested too deeply": "brackets within brackets, more than 100 deep",
    "number is too long": "a whole number of more than 4,300 digits, or an exponent of more than 18 digits",
}
"""The explanation of each reason in a `Fault`."""

_CHUNK_BYTES = 2**16
_LONGEST_ELEMENT = 2**28  # bytes
_EXCERPT_CHARACTERS = 200
_DEEPEST = 100
_BOM = b"\xef\xbb\xbf"
_UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[\[{]\x00|\x00[\[{]")
# A complete string, or the opening quotation mark of one that goes on after the chunk; or a bracket or comma.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_DEPTHS = {"[": 1, "{": 1, "]": -1, "}": -1}
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """A line or element that is not a row: the reason, such as "line is not JSON", and its first 200 characters."""

    reason: str
    excerpt: str


class CutShort(Exception):
    """The data end in the middle of a row, or are damaged. The message says where."""


class NotATable(Exception):
    """The data are not one table of rows. The message says what they are, and the remedy."""


def read_json(file: BufferedIOBase, *, array: bool) -> Iterator[Row | Fault]:
    """Yield each row of a file, and a `Fault` for each line or element that is not a row.

    If `array` is true and the file begins with a bracket, the rows are the elements of one JSON array. Otherwise, each
    line is a row. A byte order mark at the beginning is skipped.

    Raises:
        CutShort: if the file is damaged or incomplete.
        NotATable: if it is not UTF-8 text of rows, or one object over several lines, or more than one array.
    """
    start = file.read(_CHUNK_BYTES).removeprefix(_BOM)
    if _UTF_16.match(start):
        raise NotATable("it is UTF-16 text: convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8")
    if array and start.lstrip()[:1] == b"[":
        yield from _read_array(_Chunks(start, file))
    else:
        yield from read_lines(_lines(start, file))


def read_lines(lines: Iterable[bytes]) -> Iterator[Row | Fault]:
    """Yield the row (a JSON mapping or list) on each line, or a `Fault` if the line has none. Blank lines are skipped.

    Raises:
        CutShort: if the last line has no line end and is not JSON.
        NotATable: if the first line is only the beginning of an object or array.
    """
    first = True
    for line in lines:
        if line.isspace():
            continue
        row = _parse(line, "line")
        if isinstance(row, Fault) and row.reason == "line is not JSON":
            if first and line.endswith(b"\n") and _is_open(line):
                raise NotATable("its first row spans several lines: write one row on each line, or a JSON array")
            if not line.endswith(b"\n"):
                raise CutShort(f"its last line is {row.excerpt!r}")
        yield row
        first = False


def read_array(file: BufferedIOBase) -> Iterator[Row | Fault]:
    """Yield each element of a JSON array that is a row (a mapping or list), and a `Fault` for any other element.

    Memory holds a chunk of the file and one element at a time.

    Raises:
        CutShort: if the array is incomplete, or its brackets do not match.
        NotATable: if something follows the array.
    """
    yield from _read_array(_Chunks(b"", file))


class _Chunks:
    """Reads a file in chunks, after some bytes that have been read already."""

    def __init__(self, start: bytes, file: BufferedIOBase) -> None:
        self.start, self.file = start, file

    def read(self, size: int) -> bytes:
        start, self.start = self.start, b""
        return start or self.file.read(size)


def _read_array(file: _Chunks) -> Iterator[Row | Fault]:
    for element in _elements(file):
        yield _parse(element, "element")


def _elements(file: _Chunks) -> Iterator[bytes]:
    """Yield the text of each element of an array. Elements end at commas and brackets outside strings."""
    buffer, start, scanned, depth, number = b"", 0, 0, -1, 0
    while True:
        for match in _TOKEN.finditer(buffer, scanned):
            token, scanned = match[0], match.end()
            if token == b'"':  # a string that goes on after the buffer
                scanned = match.start()
                break
            if token in (b"[", b"{"):
                depth += 1
                if depth == 0:
                    start = scanned
            elif token in (b"]", b"}"):
                depth -= 1
                if depth < 0:
                    if token == b"}":
                        raise CutShort(f"the array breaks off at row {number}: a bracket does not match")
                    if number or buffer[start : match.start()].strip():
                        yield buffer[start : match.start()].strip()
                    _check_end(buffer[match.end() :], file)
                    return
            elif token == b"," and depth == 0:
                yield buffer[start : match.start()].strip()
                number, start = number + 1, scanned
        else:
            scanned = len(buffer)
        start = max(start, 0) if depth >= 0 else scanned
        buffer, scanned, start = buffer[start:], scanned - start, 0
        # Reading as much again keeps the time proportional to the length of an element.
        more = file.read(max(_CHUNK_BYTES, len(buffer)))
        if not more or len(buffer) > _LONGEST_ELEMENT:
            raise CutShort(f"the array breaks off at row {number}: {_excerpt(buffer.decode(errors='replace'))!r}")
        buffer += more


def _check_end(rest: bytes, file: _Chunks) -> None:
    while rest or (rest := file.read(_CHUNK_BYTES)):
        if rest.strip():
            excerpt = _excerpt(rest.strip().decode(errors="replace"))[:40]
            raise NotATable(f"it goes on after its array, with {excerpt!r}: write one array, or one row a line")
        rest = b""


def _parse(raw: bytes, unit: str) -> Row | Fault:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Fault(f"{unit} is not UTF-8", _excerpt(raw.decode(errors="replace")))
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        return Fault("nested too deeply", _excerpt(text))
    try:
        row = json.loads(text, parse_float=ExactFloat)
    except json.JSONDecodeError:
        return Fault(f"{unit} is not JSON", _excerpt(text))
    except (ValueError, ArithmeticError):  # from `int` and `Decimal`
        return Fault("number is too long", _excerpt(text))
    return row if isinstance(row, (dict, list)) else Fault("not a row of columns", _excerpt(text))


def _depth(text: str) -> int:
    """Return how deeply brackets outside strings are nested."""
    depth = deepest = 0
    for character in _STRING.sub("", text):
        depth += _DEPTHS.get(character, 0)
        deepest = max(deepest, depth)
    return deepest


def _is_open(line: bytes) -> bool:
    """Return whether a line that is not JSON opens more brackets than it closes, as in a pretty-printed object."""
    text = _STRING.sub("", line.decode(errors="replace")).strip()
    balance = sum(_DEPTHS.get(character, 0) for character in text)
    return balance > 0 and text[-1:] in "[{,"


def _lines(start: bytes, file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the lines of a file of which `start` has been read already."""
    *lines, rest = start.split(b"\n")
    yield from (line + b"\n" for line in lines)
    following = file.readline()
    if rest + following:
        yield rest + following
    yield from file


def _excerpt(text: str) -> str:
    return text[:_EXCERPT_CHARACTERS].strip()
