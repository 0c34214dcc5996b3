"""Files that are whole or not there at all."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and leaves `path` as it was when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether `path` is what a killed `whole_file` left."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def remove_partials(directory: Path) -> None:
    """Take away what killed runs left in `directory`; nobody may be writing there."""
    for path in directory.iterdir():
        if is_partial(path):
            path.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused, since JSON has neither."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` as Parquet."""
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file."""
    return pq.read_table(path).to_pylist()
