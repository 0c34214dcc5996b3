"""Opens datasets as tables whose rows are read one at a time, and caches rows that are made from them.

A dataset is a JSON Lines file (also gzipped), a JSON array, a Parquet file, a directory written by `prepare_data` or
`sample_trajectories`, or a dataset on the Hub. If a file is truncated, or is a Git LFS pointer instead of the data, the
error message names the file.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from raml_trl.data.columns import RowFormat
from raml_trl.data.json_rows import CutShort, Fault, NotATable, Row, read_json
from raml_trl.data.shards import find_shards, read_shards, shard_path
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.local_names import missing_path, nothing_at
from raml_trl.runtime.runs import is_run, read_record, require_complete

_PACKAGE = Path(__file__).parents[1]
_LFS = b"version https://git-lfs"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_DAMAGES = (CutShort, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid, UnicodeDecodeError, OSError)


@dataclass(frozen=True)
class DataTable:
    """A dataset that can be read from its beginning any number of times.

    Args:
        name: path or Hub name of the dataset.
        read: yields the rows with the columns of the file, or a `Fault` in place of an unreadable row.
        signature: a text that changes when the data change.
        parts: the same rows, divided into several tables that several processes can read at once; empty if undivided.
        checked: True if `prepare_data` or `sample_trajectories` has written, and thus checked, the rows.
        row_format: the settings that say which columns hold the question, the answer and so on.
    """

    name: str
    read: Callable[[], Iterator[Row | Fault]]
    signature: str
    parts: tuple["DataTable", ...] = ()
    checked: bool = False
    row_format: RowFormat = field(default_factory=RowFormat)


class DatasetReference(NamedTuple):
    """A dataset that an option names as `NAME`, `NAME@SPLIT` or `NAME@SPLIT@CONFIG`."""

    name: str
    split: str = "train"
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of an option. Without SPLIT, the split is `train`; without CONFIG, there is none."""
        name, split, config = (*text.split("@"), "", "")[:3]
        return cls(name, split or "train", config or None)

    def open(self) -> DataTable:
        """Open the dataset with `open_table`."""
        return open_table(self.name, config=self.config, split=self.split)


def open_table(name: str, *, config: str | None = None, split: str = "train") -> DataTable:
    """Open a dataset without reading its rows. A dataset on the Hub is downloaded.

    Args:
        name: path or Hub name of the dataset.
        config: configuration of a Hub dataset.
        split: split of a Hub dataset.

    Raises:
        InputError: if the dataset does not exist, is not data, or is the output of an unfinished run. Damaged data are
            found only later: `DataTable.read` then raises this error.
    """
    require_complete(name)
    path = Path(name)
    if (shards := find_shards(path)) is not None:
        kind, paths = shards
        for number, shard in enumerate(paths):
            if shard != shard_path(path, kind, number):
                absent = shard_path(path, kind, number).name
                raise InputError(f"dataset_name {name}: {absent} is missing, but {shard.name} is there: copy it too")
        _check_number(path, paths)
        parts = tuple(
            DataTable(str(shard), partial(_read_checked, [shard]), _signature(shard), checked=True) for shard in paths
        )
        signature = " ".join(part.signature for part in parts)
        return DataTable(name, partial(_read_checked, paths), signature, parts, checked=True)
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    if suffix is not None:
        _check_file(path)
        return DataTable(name, partial(_read_file, path, suffix), _signature(path))
    if path.exists():
        raise InputError(
            f"dataset_name {name} is neither a directory written by prepare_data or sample_trajectories nor a file "
            f"that ends in {', '.join(_SUFFIXES)}"
        )
    missing = missing_path(name)
    if missing is not None:
        raise InputError(f"dataset_name {name}: {missing}")
    dataset = _load_from_hub(name, config, split)
    return DataTable(name, partial(_read_dataset, dataset), str(dataset._fingerprint))


def cached_rows(
    generate: Callable[..., Iterator[dict[str, object]]],
    table: DataTable,
    features: Features,
    *,
    key: Mapping[str, object],
    num_proc: int | None = None,
    **arguments: object,
) -> Dataset:
    """Return a memory-mapped dataset of the rows that `generate` yields, from a cache if possible.

    The rows are generated again when the data of the table, the `key` or the code of this package change. If several
    processes ask for the same rows at once, one process generates them and the others wait.

    Args:
        generate: called as `generate(tables, **arguments)`. With `num_proc`, each process calls it with some of the
            tables, so its rows for one table must not depend on the other tables.
        table: the data; `generate` gets the tables in its field `parts`, or the table itself if `parts` is empty.
        features: the columns of the rows and their types.
        key: values that JSON can express. They must differ for different `arguments`, because the cache identifies the
            rows by `key`, the table and the code.
        num_proc: number of processes that generate the rows.
        arguments: further arguments of `generate`.

    Raises:
        InputError: if `generate` raised it.
    """
    origin = [_code_digest(), generate.__qualname__, table.signature, dict(key)]
    fingerprint = hashlib.blake2b(json.dumps(origin, sort_keys=True).encode(), digest_size=16).hexdigest()
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


def _code_digest() -> str:
    """Return a digest of the source code of this package, so that rows of older code are not taken from the cache."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _signature(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"dataset_name {path}: {nothing_at(path)}")
    with path.open("rb") as file:
        beginning = file.read(len(_LFS))
    if not beginning:
        raise InputError(f"dataset_name {path} is empty")
    if beginning == _LFS:
        raise InputError(
            f"dataset_name {path} is a Git LFS pointer, not the data: download the data with `git lfs pull`"
        )


def _check_number(directory: Path, paths: Sequence[Path]) -> None:
    """Check that the shards in a directory have as many rows as the run that wrote them has recorded."""
    recorded = read_record(directory).get("results", {}).get("questions") if is_run(str(directory)) else None
    if not isinstance(recorded, int):
        return
    try:
        rows = sum(pq.read_metadata(path).num_rows for path in paths)
    except _DAMAGES as error:
        raise _damaged(directory, error) from error
    if rows != recorded:
        raise InputError(
            f"dataset_name {directory} has {rows} rows, but its run wrote {recorded}: a shard is missing or has "
            "changed; copy the directory again, or remove it and run the command that made it again"
        )


def _read_checked(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        try:
            yield from read_shards([path])
        except _DAMAGES as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"dataset_name {path} cannot be read to its end: {reason}; download it again")


def _read_file(path: Path, suffix: str) -> Iterator[Row | Fault]:
    try:
        if suffix == ".parquet":
            yield from read_shards([path])
            return
        with gzip.open(path, "rb") if suffix.endswith(".gz") else path.open("rb") as file:
            yield from read_json(file, array=suffix == ".json")
    except NotATable as error:
        raise InputError(f"dataset_name {path} is not a table: {error}") from error
    except _DAMAGES as error:
        raise _damaged(path, error) from error


def _load_from_hub(name: str, config: str | None, split: str) -> Dataset:
    try:
        dataset = load_dataset(name, config, split=split)
    except DatasetNotFoundError as error:
        raise InputError(
            f"dataset_name {name} is neither a local directory or file nor a dataset on the Hub"
        ) from error
    except (DatasetGenerationError, OSError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"dataset_name {name} cannot be read: {reason[:300]}") from error
    assert isinstance(dataset, Dataset)
    return dataset


def _read_dataset(dataset: Dataset) -> Iterator[Row]:
    for batch in dataset.iter(batch_size=64):
        assert isinstance(batch, dict)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
