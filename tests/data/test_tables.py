"""Tests that datasets of every format can be read, and that other files are rejected."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raml_trl.data.json_rows import Fault
from raml_trl.data.shards import QUESTIONS, write_shards
from raml_trl.data.tables import DatasetReference, open_table
from raml_trl.runtime.errors import InputError

ROWS = [{"problem": f"{number}+{number}", "answer": str(2 * number)} for number in range(200)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_every_format_can_be_read_twice(tmp_path: Path, suffix: str) -> None:
    table = open_table(write(tmp_path / f"data.{suffix}", ROWS))
    assert list(table.read()) == ROWS
    assert list(table.read()) == ROWS
    assert not table.checked


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(open_table(str(path)).read()) == ROWS


def test_shards_are_read_in_order_and_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raml_trl.data.shards._SHARD_BYTES", 1)
    monkeypatch.setattr("raml_trl.data.shards._BATCH_ROWS", 15)
    rows = [{**row, "id": str(number), "source": "s"} for number, row in enumerate(ROWS)]
    assert write_shards(tmp_path, rows, QUESTIONS) == 14
    table = open_table(str(tmp_path))
    assert table.checked
    assert list(table.read()) == [row for part in table.parts for row in part.read()]
    assert [row["id"] for row in table.read()] == [str(number) for number in range(200)]
    assert write_shards(tmp_path, rows[:20], QUESTIONS) == 2  # earlier shards are gone
    assert len(list(open_table(str(tmp_path)).read())) == 20


def test_the_signature_changes_with_the_data(tmp_path: Path) -> None:
    name = write(tmp_path / "data.jsonl", ROWS)
    before = open_table(name).signature
    assert open_table(name).signature == before
    write(tmp_path / "data.jsonl", ROWS[1:])
    assert open_table(name).signature != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.jsonl", b'{"problem": "1+1"}\n{"problem": "1+', "cannot be read to its end: its last line"),
        ("a.json", b'[{"problem": "1+1"}, {"problem', "the array breaks off"),
        ("a.jsonl.gz", gzip.compress(b'{"problem": "1+1"}\n' * 1000, mtime=0)[:-20], "cannot be read to its end"),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read to its end"),
        ("a.parquet", b"PAR1 no parquet at all", "cannot be read to its end"),
    ],
)
def test_files_that_are_not_data_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(open_table(str(tmp_path / name)).read())
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_line_in_the_middle_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"problem": "1"}\n{"problem": \n{"problem": "2"}\n')
    assert [isinstance(row, Fault) for row in open_table(str(tmp_path / "a.jsonl")).read()] == [False, True, False]


def test_missing_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such directory or file"):
        open_table(str(tmp_path / "missing.jsonl"))
    with pytest.raises(InputError, match="neither a directory written by prepare_data or sample_trajectories nor"):
        open_table(str(tmp_path))
    with pytest.raises(InputError, match="dataset_name someone/something cannot be read: Couldn't reach"):
        open_table("someone/something")


def test_dataset_reference() -> None:
    assert DatasetReference.parse("org/name") == ("org/name", "train", None)
    assert DatasetReference.parse("org/name@test") == ("org/name", "test", None)
    assert DatasetReference.parse("org/name@test@easy") == ("org/name", "test", "easy")
    assert DatasetReference.parse("org/name@@easy") == ("org/name", "train", "easy")
