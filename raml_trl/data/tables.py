"""Rows of a file or a Hub data set, one after the other, in memory that does not grow with their number.

JSON Lines (also gzipped), a JSON array, Parquet, a directory made by `prepare_data` or `sample_trajectories`, or the
name of a data set on the Hub. What is no data at all (a Git LFS pointer, a file cut short) is refused and named.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
from datasets import Dataset, Features, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from raml_trl.data.columns import Reading
from raml_trl.data.json_rows import CutShort, read_array, read_lines
from raml_trl.data.shards import find_shards, read_shards
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import require_complete

_PACKAGE = Path(__file__).parents[1]
_LFS = b"version https://git-lfs"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_DAMAGES = (CutShort, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid, UnicodeDecodeError, OSError)


@dataclass(frozen=True)
class DataTable:
    """A data set that can be read from its beginning any number of times.

    `read` gives rows as they were written, a mapping or a list of values, or a `json_rows.Fault`. `signature` changes
    when the data do. `parts` are the same rows again, for several processes to read at once. `checked` says that
    `prepare_data` or `sample_trajectories` wrote them. `reading` is how its rows are understood.
    """

    name: str
    read: Callable[[], Iterator[Any]]
    signature: str
    parts: tuple["DataTable", ...] = ()
    checked: bool = False
    reading: Reading = field(default_factory=Reading)


def open_table(name: str, *, config: str | None = None, split: str = "train") -> DataTable:
    """Find a data set, without reading more of it than its beginning.

    Raises:
        InputError: if it cannot be found, is plainly no data, or is the run of a command that is not complete. `read`
            raises it where the data turn out to be damaged.
    """
    require_complete(name)
    path = Path(name)
    if (found := find_shards(path)) is not None:
        _, shards = found
        parts = tuple(DataTable(str(one), partial(read_shards, [one]), _signature(one), checked=True) for one in shards)
        signature = " ".join(part.signature for part in parts)
        return DataTable(name, partial(read_shards, shards), signature, parts, checked=True)
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    if suffix is not None:
        _check_file(path)
        return DataTable(name, partial(_read_file, path, suffix), _signature(path))
    if path.exists():
        raise InputError(
            f"dataset_name {name} is neither a directory made by prepare_data or sample_trajectories nor one of "
            f"{', '.join(_SUFFIXES)}"
        )
    dataset = _from_hub(name, config, split)
    return DataTable(name, partial(_read_dataset, dataset), str(dataset._fingerprint))


def cached_rows(
    generate: Callable[..., Iterator[dict[str, Any]]],
    table: DataTable,
    features: Features,
    *,
    key: Mapping[str, Any],
    num_proc: int | None = None,
    **arguments: Any,
) -> Dataset:
    """What `generate(tables, **arguments)` yields for a list of tables, memory-mapped.

    It is made anew when the table's data, `key` (JSON) or the code of this package change. Several processes divide the
    table's parts among them, so `generate` must treat every table by itself. Of several that ask for the same rows at
    once, one makes them and the others wait.

    Raises:
        InputError: which `generate` raised.
    """
    made_from = [_code(), generate.__qualname__, table.signature, dict(key)]
    fingerprint = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16).hexdigest()
    tables = list(table.parts or (table,))
    try:
        return Dataset.from_generator(
            generate,
            features=features,
            gen_kwargs={"tables": tables, **arguments},
            num_proc=min(num_proc, len(tables)) if num_proc and num_proc > 1 else None,
            fingerprint=fingerprint,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


class DatasetReference(NamedTuple):
    """A dataset as options refer to it: `NAME`, `NAME@SPLIT` or `NAME@SPLIT@CONFIG`."""

    name: str
    split: str = "train"
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split the text at its `@`; an empty part takes its default."""
        name, split, config = (*text.split("@"), "", "")[:3]
        return cls(name, split or "train", config or None)

    def open(self) -> DataTable:
        """Open the dataset as `open_table` does."""
        return open_table(self.name, config=self.config, split=self.split)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"dataset_name {path}: there is no such file")
    with path.open("rb") as file:
        beginning = file.read(len(_LFS))
    if not beginning:
        raise InputError(f"dataset_name {path} is empty")
    if beginning == _LFS:
        raise InputError(
            f"dataset_name {path} cannot be read: it is a Git LFS pointer, not the data; fetch them with `git lfs pull`"
        )


def _signature(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _read_file(path: Path, suffix: str) -> Iterator[Any]:
    try:
        if suffix == ".parquet":
            yield from read_shards([path])
            return
        with gzip.open(path, "rb") if suffix.endswith(".gz") else path.open("rb") as file:
            if suffix == ".json" and file.peek(1).lstrip()[:1] == b"[":
                yield from read_array(file)
            else:
                yield from read_lines(file)
    except _DAMAGES as error:
        reason = " ".join(str(error).split())
        raise InputError(f"dataset_name {path} cannot be read to its end: {reason}; fetch it again") from error


def _from_hub(name: str, config: str | None, split: str) -> Dataset:
    try:
        dataset = load_dataset(name, config, split=split)
    except DatasetNotFoundError as error:
        raise InputError(f"dataset_name {name}: no such directory or file here, nor data set on the Hub") from error
    except (DatasetGenerationError, ConnectionError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"dataset_name {name} cannot be read: {reason[:300]}") from error
    assert isinstance(dataset, Dataset)
    return dataset


def _read_dataset(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for batch in dataset.iter(batch_size=64):
        assert isinstance(batch, dict)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _code() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
