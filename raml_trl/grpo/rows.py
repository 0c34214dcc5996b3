"""Takes rows out of a batch in TRL's format, with all columns that a subclass has added."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.micro_batches import IDLE

Batch = dict[str, Any]
"""The batch of R rows that TRL trains on. Its columns are tensors `(R, ...)` and lists with one entry per row. Other
values hold for all rows: 0-d tensors and None."""

# Keys that we add to batches; the prefix keeps them apart from the keys of TRL and of subclasses.
SELECTED = "raml/selected"
"""`(R,)`, bool: whether the row is selected."""
WEIGHTS = "raml/weights"
"""`(R,)`: weight of the row in the loss, if rows have different weights."""
CUT_DRAWS = "raml/cut_draws"
"""`(R,)`: the number in [0, 1) that decides where the completion is cut, if completions are cut; see `prefix_cuts`."""
LOSS_ROWS = "raml/loss_rows"
"""0-d tensor: the number by which a mean over rows must divide, in a micro-batch with another number of rows."""


def is_column(value: Any) -> bool:
    """Return whether a value of a batch has an entry for every row. Other values hold for all rows."""
    return value.ndim > 0 if isinstance(value, Tensor) else isinstance(value, list)


def take_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Return a batch of the rows with the numbers `rows`, in this order.

    Where `rows` has the number `IDLE`, the result has a row without a token in the loss. Pixels must already be split
    by row: see `images.split_pixels`.
    """
    if (rows == IDLE).any():
        return _with_idle_rows(batch, rows)
    return {name: _take(value, rows) if is_column(value) else value for name, value in batch.items()}


def _take(column: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(column, Tensor):
        return column[torch.as_tensor(rows, device=column.device)]
    return [column[row] for row in rows]


def _with_idle_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Replace `IDLE` by a copy of the row with the shortest prompt: completion masked, log-probs and advantage 0."""
    shortest = int(batch["prompt_mask"].sum(dim=1).argmin())
    taken = take_rows(batch, np.where(rows == IDLE, shortest, rows))
    for name, value in taken.items():
        if name == "completion_mask" or (isinstance(value, Tensor) and value.ndim and value.is_floating_point()):
            idle = torch.as_tensor(rows == IDLE, device=value.device)
            taken[name] = value.masked_fill(idle.view(-1, *[1] * (value.ndim - 1)), 0)
    return taken


def has_advantage(advantages: Tensor) -> Tensor:
    """Return a mask `(R,)`: true for rows with an advantage other than 0.

    `advantages` is `(R,)` for R rows, or `(R, C)` if each of the C tokens of a row has its own advantage.
    """
    return advantages.ne(0).view(len(advantages), -1).any(dim=1)


def loss_mask(batch: Batch) -> Tensor:
    """Return a mask `(R, C)` for R rows with C completion tokens: 1 for tokens that enter TRL's loss, otherwise 0."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return `values`, one per row, with as many dimensions as `like`, so that each multiplies one row of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
