"""JSON Lines and arrays, row by row: whole, damaged and cut short."""

import io
import json
from typing import Any

import pytest

from raml_trl.data import json_rows
from raml_trl.data.json_rows import CutShort, Fault, read_array, read_lines

ROWS: list[Any] = [{"a": 1, "b": "x, ] } \\ é"}, [{"from": "human"}, {"nested": [1, [2]]}], {}, {"long": "y" * 300}]


def test_lines() -> None:
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    assert list(read_lines([*lines, b"\n", b"  \n"])) == ROWS
    assert list(read_lines([json.dumps(ROWS[0]).encode()])) == ROWS[:1]  # the last line needs no end


def test_a_bad_line_is_a_fault_and_the_others_stay() -> None:
    lines = [b'{"a": 1}\n', b'{"a": \n', b"\xff\xfe\n", b"7\n", b'{"a": 2}\n']
    first, *faults, last = read_lines(lines)
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert [fault.reason for fault in faults] == ["line is not JSON", "line is not UTF-8", "not a row of columns"]
    assert faults[0] == Fault("line is not JSON", '{"a":')


def test_a_last_line_without_end_is_cut_short() -> None:
    with pytest.raises(CutShort, match=r"""its last line is '\{"a": 2, "b'"""):
        list(read_lines([b'{"a": 1}\n', b'{"a": 2, "b']))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK_CHARACTERS", chunk)
    text = " \n" * (chunk > 8) + json.dumps(ROWS, indent=indent, ensure_ascii=False)
    assert list(read_array(io.StringIO(text))) == ROWS
    assert list(read_array(io.StringIO("[]"))) == []
    assert list(read_array(io.StringIO('[{"a": 1}, 3, "x"]')))[1:] == [
        Fault("not a row of columns", "3"),
        Fault("not a row of columns", '"x"'),
    ]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": ', '[{"a": 1}', "[", '[{"a": 1}, oops]'])
def test_arrays_that_break_off(text: str) -> None:
    with pytest.raises(CutShort, match="the array breaks off at"):
        list(read_array(io.StringIO(text)))
