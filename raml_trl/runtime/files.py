"""Reads and writes files. A write replaces the file in one step, so a file is never half-written."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.strict_yaml import StrictLoader

Row = dict[str, Any]
"""A row of a table: its values by column name."""

Settings = dict[str, Any]
"""Settings by name. The values are of types that YAML and JSON can represent."""

_LONGEST_YAML = 2**20  # bytes


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` when the block ends without an error.

    After an error, `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Return a temporary path beside `path` that no other process uses.

    The name contains a random number. A process number would not be unique: processes in two containers that share a
    disk often have the same number.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def is_partial(path: Path) -> bool:
    """Return whether `path` is a temporary file that is being written, or that a killed process has left."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def file_digest(path: Path) -> str:
    """Return a hash of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON.

    Raises:
        ValueError: for NaN and infinity, which JSON cannot represent.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> None:
    """Write `rows` to a Parquet file with the columns of `schema`."""
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a Parquet file."""
    return pq.read_table(path).to_pylist()


def _yaml_fault(error: Exception) -> str:
    """Describe what is wrong with a YAML file in one line, with the line and column of the fault if they are known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def read_yaml(path: Path) -> Settings:
    """Read the mapping in a YAML file.

    Raises:
        InputError: if the file is missing, has more than 1 MiB, is nested more than 50 deep, is not YAML or not a
            mapping, or has a key twice.
    """
    try:
        if path.stat().st_size > _LONGEST_YAML:
            raise InputError(f"config file {path} has {path.stat().st_size:,} bytes: name a YAML file of settings")
        content = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)  # a SafeLoader
    except OSError as error:
        raise InputError(f"config file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, NUL in the path, a number of 5,000 digits
        if isinstance(error, InputError):
            raise
        raise InputError(f"config file {path} is not YAML: {_yaml_fault(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"config file {path} must be a mapping of names to values")
    return content
