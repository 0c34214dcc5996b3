"""Writes and reads datasets as Parquet shards. A killed process leaves no incomplete shard.

A directory contains shards of one kind, such as `questions-00000.parquet`, ... or `trajectories-00000.parquet`, ...
Shards of these two kinds have one row per question. The columns are those of the RaML paper's rollout datasets; a row
of a `trajectories` shard also holds all trajectories of its question. Rows are read one after the other, so the memory
does not grow with the number of rows.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.runs import is_complete, require_directory

logger = logging.getLogger(__name__)

QUESTIONS = "questions"
TRAJECTORIES = "trajectories"
SAMPLES = "samples"
PRUNED = "pruned"

_QUESTION = {"id": pa.string(), "problem": pa.string(), "answer": pa.string(), "source": pa.string()}
SCHEMAS: dict[str, pa.Schema] = {
    QUESTIONS: pa.schema(_QUESTION),
    TRAJECTORIES: pa.schema(
        {
            **_QUESTION,
            "generations": pa.list_(pa.string()),
            "labels": pa.list_(pa.int64()),  # 1 for a correct trajectory, otherwise 0
            "models": pa.list_(pa.string()),
            "num_tokens": pa.list_(pa.int64()),  # null for a trajectory whose tokens were not counted
        }
    ),
    SAMPLES: pa.schema(
        {
            "question_id": pa.string(),
            "sample": pa.int32(),
            "text": pa.string(),
            "correct": pa.bool_(),
            "formatted": pa.bool_(),
            "outcome": pa.string(),
            "vote": pa.int32(),  # the same number for equal answers to a question; null for no readable answer
            "num_tokens": pa.int32(),
            "finished": pa.bool_(),
        }
    ),
    PRUNED: pa.schema(
        {
            "question_id": pa.string(),
            "number": pa.int32(),  # position of the trajectory among those of its question
            "method": pa.string(),
            "setting": pa.string(),  # null for a method without settings
            "text": pa.string(),  # in the prompt's layout, with the forced answer
            "predicted": pa.string(),  # null if the box was not closed
            "tokens_before": pa.int32(),  # tokens of the thinking before pruning
            "tokens_after": pa.int32(),  # tokens of the thinking after pruning
            "num_tokens": pa.int32(),  # tokens of `text`
            "correct": pa.bool_(),
            "leaked": pa.bool_(),
            "nll": pa.float32(),  # negative log-likelihood of the reference answer, in nats per token
        }
    ),
}

_NAME = re.compile(rf"({QUESTIONS}|{TRAJECTORIES}|{SAMPLES})-([0-9]{{5,}})\.parquet")
_NOTES = b"raml_trl"
_BATCH_ROWS = 1_000
_BATCH_CHARACTERS = 2**23
_SHARD_BYTES = 2**28


def shard_path(directory: Path, kind: str, number: int) -> Path:
    """Return the path of shard `number` of a kind, such as `directory/questions-00000.parquet`."""
    return directory / f"{kind}-{number:05d}.parquet"


def find_shards(directory: Path) -> tuple[str, list[Path]] | None:
    """Return the kind of the shards in `directory`, and their paths in order of number; None if there is no shard.

    Raises:
        InputError: if the directory holds shards of two kinds.
    """
    shards: dict[str, list[tuple[int, Path]]] = {}
    if directory.is_dir():
        for path in directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                shards.setdefault(match[1], []).append((int(match[2]), path))
    if len(shards) > 1:
        raise InputError(f"{directory} holds {' and '.join(sorted(shards))}: move one of them to another directory")
    for kind, numbered in shards.items():
        return kind, [path for _, path in sorted(numbered)]
    return None


def write_shard(path: Path, rows: Iterable[Mapping[str, object]], kind: str, notes: Mapping[str, object]) -> None:
    """Write rows as one shard of a kind, with `notes` (values that JSON can express) in its metadata."""
    schema = SCHEMAS[kind].with_metadata({_NOTES: json.dumps(notes)})
    with whole_file(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def read_notes(path: Path) -> dict[str, Any]:
    """Return the notes that `write_shard` put into the metadata of a shard."""
    return json.loads(pq.read_schema(path).metadata[_NOTES])


def write_shards(directory: Path, rows: Iterable[Mapping[str, object]], kind: str) -> int:
    """Write `rows` as shards of a kind, and return the number of shards.

    Each shard but the last has about 256 MiB before compression.
    Earlier shards in `directory` are deleted first. Memory holds one batch of rows at a time.
    """
    _, stale = find_shards(directory) or (kind, [])
    for path in stale:
        path.unlink()
    batches, number = _batches(rows), 0
    batch = next(batches, None)
    while batch is not None:
        path = shard_path(directory, kind, number)
        with whole_file(path) as partial, pq.ParquetWriter(partial, SCHEMAS[kind]) as writer:
            written = 0
            while batch is not None and written < _SHARD_BYTES:
                table = pa.Table.from_pylist(batch, schema=SCHEMAS[kind])
                writer.write_table(table)
                written += table.nbytes
                batch = next(batches, None)
        number += 1
    return number


def read_shards(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the shards in order, with all columns or the given ones. Memory holds a few rows at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()


def merge_shards(paths: Sequence[Path], path: Path, kind: str) -> None:
    """Write the rows of the shards `paths` into the file `path`, with the columns of `SCHEMAS[kind]`.

    A column that a shard lacks is null in its rows.
    """
    empty = SCHEMAS[kind].empty_table()
    with whole_file(path) as partial, pq.ParquetWriter(partial, SCHEMAS[kind]) as writer:
        for shard in paths:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches():
                    table = pa.Table.from_batches([batch.replace_schema_metadata(None)])
                    writer.write_table(pa.concat_tables([empty, table], promote_options="default"))


def is_complete_shard(path: Path) -> bool:
    """Return whether a shard exists and its metadata can be read; if not because of damage, also log a warning."""
    try:
        pq.read_metadata(path)
    except FileNotFoundError:
        return False
    except (pa.ArrowInvalid, OSError) as error:
        logger.warning("%s is damaged (%s) and will be written again", path, " ".join(str(error).split()))
        return False
    return True


def missing_shards(own: Sequence[Path]) -> list[Path]:
    """Return those of the shards of this process that it has to make, because they are missing or damaged.

    The shards may be Parquet files of any kind, in the directory of a run. If another process has completed the run,
    the list is empty: that process removes the shards, so they are missing but need not be made again.
    """
    missing = [path for path in own if not is_complete_shard(path)]
    return [] if missing and is_complete(missing[0].parent) else missing


def require_shards(own: Sequence[Path]) -> None:
    """Refuse to go on if a shard that this process has made is missing or damaged.

    Raises:
        InputError: if such a shard is missing or damaged, unless another process has completed the run.
    """
    for path in missing_shards(own):
        require_directory(path.parent)
        raise InputError(f"{path} was deleted or damaged during the run: run the same command again")


def all_written(paths: Sequence[Path], own: Sequence[Path]) -> bool:
    """Return whether the shards of all processes of a launch are complete.

    Args:
        paths: the shards of all processes.
        own: the shards of this process, which it has made.

    Raises:
        InputError: if one of `own` is missing or damaged, unless another process has completed the run.
    """
    if all(map(is_complete_shard, paths)):
        return True
    require_shards(own)
    return False


def _count_characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_count_characters, value)) if isinstance(value, list) else 1


def _batches(rows: Iterable[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    """Group rows into batches with a limited number of rows and of characters, because trajectories may be long."""
    batch: list[Mapping[str, object]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(map(_count_characters, row.values()))
        if len(batch) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
