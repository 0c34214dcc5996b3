"""Tests that JSON Lines files and JSON arrays, complete, damaged or cut short, are read row by row."""

import io
import json
import tracemalloc
from decimal import Decimal

import pytest

from raml_trl.data import json_rows
from raml_trl.data.json_rows import CutShort, ExactFloat, Fault, read_array, read_lines

ROWS: list[object] = [{"a": 1, "b": "x, ] } \\ é"}, [{"from": "human"}, {"nested": [1, [2]]}], {}, {"long": "y" * 300}]
NUMBERS = {"integer": 3, "negative": -2.5e-3, "large": 10**30, "whole": 2.0, "infinite": float("1e400"), "none": None}


def test_lines_without_a_fault() -> None:
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    assert list(read_lines([*lines, b"\n", b"  \n"])) == ROWS
    assert list(read_lines([json.dumps(ROWS[0]).encode()])) == ROWS[:1]  # the last line needs no line end


def test_a_bad_line_is_a_fault_and_the_other_lines_are_read() -> None:
    lines = [b'{"a": 1}\n', b'{"a": \n', b"\xff\xfe\n", b"7\n", b'{"a": 2}\n']
    first, *faults, last = read_lines(lines)
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert [fault.reason for fault in faults] == ["line is not JSON", "line is not UTF-8", "not a row of columns"]
    assert faults[0] == Fault("line is not JSON", '{"a":')


def test_an_incomplete_last_line_is_cut_short() -> None:
    with pytest.raises(CutShort, match=r"""its last line is '\{"a": 2, "b'"""):
        list(read_lines([b'{"a": 1}\n', b'{"a": 2, "b']))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK_BYTES", chunk)
    text = " \n" * (chunk > 8) + json.dumps(ROWS, indent=indent, ensure_ascii=False)
    assert list(read_array(io.BytesIO(text.encode()))) == ROWS
    assert list(read_array(io.BytesIO(b"[]"))) == []
    assert list(read_array(io.BytesIO('[{"a": 1}, 3, "\N{LATIN SMALL LETTER E WITH ACUTE}", 0.5]'.encode())))[1:] == [
        Fault("not a row of columns", "3"),
        Fault("not a row of columns", '"\N{LATIN SMALL LETTER E WITH ACUTE}"'),
        Fault("not a row of columns", "0.5"),
    ]


def test_numbers_are_those_of_json() -> None:
    text = json.dumps([NUMBERS, [NUMBERS]]).replace("Infinity", "1e400")
    rows = list(read_array(io.BytesIO(text.encode())))
    assert rows == json.loads(text)
    for value, number in zip(rows[0].values(), NUMBERS.values(), strict=True):
        assert isinstance(value, type(number))


@pytest.mark.parametrize("number", ["1e-07", "12.50", "1e23", "0.1000000000000000055511151231257827", "-3E+2", "2.0"])
def test_a_decimal_keeps_its_exact_value(number: str) -> None:
    [of_line] = read_lines([f'{{"a": {number}}}'.encode()])
    [of_array] = read_array(io.BytesIO(f'[{{"a": {number}}}]'.encode()))
    for row in (of_line, of_array):
        assert isinstance(row, dict)
        value = row["a"]
        assert isinstance(value, ExactFloat)
        assert (value, value.decimal) == (float(number), Decimal(number))


def test_an_array_is_not_held_in_memory() -> None:
    file = io.BytesIO(b"[" + b", ".join([json.dumps({"a": "x" * 10_000}).encode()] * 1_000) + b"]")  # 10 MB
    tracemalloc.start()
    assert sum(1 for _ in read_array(file)) == 1_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"a": 1}, {"a": ', "row 1: "),
        ('[{"a": 1}', "row 0: "),
        ("[", "row 0: "),
        ('[{"a": 1}, {"a": 2}}, {}]', "row 1: a bracket does not match"),
        ('[{"a": 1}, {"a": "x}]', "row 1: "),
    ],
)
def test_arrays_that_break_off(text: str, place: str) -> None:
    with pytest.raises(CutShort, match=f"the array breaks off at {place}"):
        list(read_array(io.BytesIO(text.encode())))
