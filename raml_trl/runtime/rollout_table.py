"""Names the columns that we add to the table of completions which TRL logs in a GRPO run, and reads them.

The names have a prefix, so that they differ from the names of columns that a user's reward function adds.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import Row, read_rows

SELECTED = "raml/selected"
"""Whether the rollout is one of the m of G that carry gradient; None in evaluation."""
CORRECT = "raml/correct"
"""Whether the answer is correct, according to our reward function."""
FORMATTED = "raml/formatted"
"""Whether the answer is in the requested place, according to our reward function."""


def read_rollouts(path: Path) -> list[Row]:
    """Read all rows of a table of completions.

    Raises:
        InputError: if the file cannot be read. TRL writes it in place, so it is incomplete while a run writes it, and
            stays incomplete if the run is killed then.
    """
    try:
        return read_rows(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def column_name(columns: Mapping[str, object], name: str) -> str:
    """Return `name`, or the name without prefix if the table has no column of this name.

    Older versions wrote the names without prefix. If a table has both names, the one with prefix is meant, because a
    user's reward function may add a column such as `correct`.
    """
    return name if name in columns else name.removeprefix("raml/")


def read_flag(value: object) -> bool | None:
    """Return a boolean, or the number 0 or 1, as a boolean; None for any other value."""
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
