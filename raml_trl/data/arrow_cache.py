"""Rows made once and kept on disk as Arrow, whatever their number: a cache, keyed by what they are made from."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from raml_trl.data.tables import Table
from raml_trl.runtime.errors import InputError

_PACKAGE = Path(__file__).parents[1]


def cached_rows(
    generate: Callable[..., Iterator[dict[str, Any]]],
    table: Table,
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


def _code() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
