"""From the buffered rollouts of a generation to the micro-batches that are trained on: cut, bucket, trim.

A batch is TRL's: a dict of tensors with one row per rollout, and 0-d tensors that hold for all of them. Nothing here
changes an optimizer step, only what it costs: rows move between the micro-batches of one step, and padding goes.

Shapes: R rows, C completion tokens, P prompt tokens (padded).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = dict[str, Tensor]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Undo TRL's `split_tensor_dict`: rows in order, 0-d tensors as they were."""
    first = batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if value.ndim else value for name, value in first.items()
    }


def take_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """The batch of `rows`, in that order."""
    return {
        name: value[torch.as_tensor(rows, device=value.device)] if value.ndim else value
        for name, value in batch.items()
    }


def deal_rows(selected: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Deal the rows of all processes so that each has as many selected ones as any other, and as many rows as before.

    A process keeps its own rows as far as its share goes; what it has too many of fills up the others.

    Args:
        selected: `(W, R)`, for W processes of R rows each; the number selected is a multiple of W.

    Returns:
        `(W, R)`: rows of each process, as indices into all W * R.
    """
    num_processes, num_rows = selected.shape
    dealt: list[list[int]] = [[] for _ in range(num_processes)]
    for kind in (selected, ~selected):
        share, remainder = divmod(int(kind.sum()), num_processes)
        assert remainder == 0, (share, remainder)
        owned = [np.flatnonzero(own) + process * num_rows for process, own in enumerate(kind)]
        surplus = [int(row) for own in owned for row in own[share:]]
        for hand, own in zip(dealt, owned, strict=True):
            missing = share - len(own[:share])
            hand += [*own[:share].tolist(), *surplus[:missing]]
            del surplus[:missing]
    return np.array(dealt)


def cut_micro_batches(
    rows: NDArray[np.int64], num_micro_batches: int, *, lengths: NDArray[np.int64] | None = None, window: int = 1
) -> list[NDArray[np.int64]]:
    """Cut `rows` `(R,)` into micro-batches of equal size, in order.

    With `lengths` `(R,)`, the rows of every `window` consecutive micro-batches (those of one optimizer step) are
    sorted by length first, longest first, so that rows that share a micro-batch waste little padding on each other.
    """
    assert len(rows) % num_micro_batches == 0, (len(rows), num_micro_batches)
    assert num_micro_batches % window == 0, (num_micro_batches, window)
    if lengths is not None:
        order = np.arange(len(rows)).reshape(num_micro_batches // window, -1)
        order = np.take_along_axis(order, np.argsort(-lengths[order], axis=1, kind="stable"), axis=1)
        rows = rows[order.ravel()]
    return np.split(rows, num_micro_batches)


def row_lengths(batch: Batch) -> NDArray[np.int64]:
    """`(R,)`: prompt and completion tokens of each row, padding left out."""
    lengths = batch["prompt_mask"].sum(dim=1) + batch["completion_mask"].sum(dim=1)
    return lengths.cpu().numpy()


def trim_padding(batch: Batch, *, multiple: int | None = None) -> Batch:
    """Cut prompts (padded on the left) and completions (on the right) to the longest of this batch.

    Args:
        batch: with the masks `prompt_mask` `(R, P)` and `completion_mask` `(R, C)`; every tensor of two dimensions is
            as wide as one of them, or has width 1.
        multiple: keep widths a multiple of this (TRL's `pad_to_multiple_of`).
    """
    prompt_width, completion_width = batch["prompt_mask"].size(1), batch["completion_mask"].size(1)
    prompt = _kept_width(batch["prompt_mask"].flip(1), multiple)
    completion = _kept_width(batch["completion_mask"], multiple)
    trimmed = dict(batch)
    for name, value in batch.items():
        if value.ndim < 2 or value.size(1) == 1:
            continue
        if name.startswith("prompt_"):
            assert value.size(1) == prompt_width, (name, value.shape)
            trimmed[name] = value[:, prompt_width - prompt :]
        else:
            assert value.size(1) == completion_width, (name, value.shape)
            trimmed[name] = value[:, :completion]
    return trimmed


def _kept_width(mask: Tensor, multiple: int | None) -> int:
    """Columns up to the last that any row uses, at least one, rounded up to `multiple`."""
    used = mask.any(dim=0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    if multiple is not None:
        width = -(-width // multiple) * multiple
    return min(width, mask.size(1))
