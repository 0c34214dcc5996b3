"""Files are either complete or absent."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from raml_trl.runtime.files import read_rows, whole_file, write_json, write_rows


def write_half(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("the disk is full")


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "old.txt").write_text("complete")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "complete"
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]


def test_processes_with_equal_numbers_may_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers that share a disk often have equal process numbers."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "run.json"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [{"id": "a", "n": 1}, {"id": "ü", "n": None}]
    write_rows(tmp_path / "deep" / "rows.parquet", rows, pa.schema({"id": pa.string(), "n": pa.int32()}))
    assert read_rows(tmp_path / "deep" / "rows.parquet") == rows


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
