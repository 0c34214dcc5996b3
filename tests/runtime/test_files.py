"""Files are whole or not there at all."""

from pathlib import Path

import pyarrow as pa
import pytest

from raml_trl.runtime.files import read_rows, whole_file, write_json, write_rows


def write_half(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("the disk is full")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "old.txt").write_text("whole")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [{"id": "a", "n": 1}, {"id": "ü", "n": None}]
    write_rows(tmp_path / "deep" / "rows.parquet", rows, pa.schema({"id": pa.string(), "n": pa.int32()}))
    assert read_rows(tmp_path / "deep" / "rows.parquet") == rows


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
