"""The buffered rollouts of a generation as tensors: take rows, bring them from other processes, trim their padding.

A batch is TRL's: a dict of tensors with one row per rollout, and 0-d tensors that hold for all of them. Which rows go
where is decided in `dealing`.

Shapes: W processes, R rows on each, C completion tokens, P prompt tokens (padded).
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.micro_batches import IDLE

Batch = dict[str, Tensor]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Undo TRL's `split_tensor_dict`: rows in order, 0-d tensors as they were."""
    first = batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if value.ndim else value for name, value in first.items()
    }


def take_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """The batch of `rows`, in that order; `IDLE` stands for a row of which no token counts."""
    if (rows == IDLE).any():
        return _with_idle_rows(batch, rows)
    return {
        name: value[torch.as_tensor(rows, device=value.device)] if value.ndim else value
        for name, value in batch.items()
    }


def _with_idle_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """An idle row is the one with the shortest prompt, its completion masked, its log-probs and advantage zero."""
    shortest = int(batch["prompt_mask"].sum(dim=1).argmin())
    taken = take_rows(batch, np.where(rows == IDLE, shortest, rows))
    idle = torch.as_tensor(rows == IDLE, device=taken["advantages"].device)
    for name, value in taken.items():
        if name == "completion_mask" or (value.ndim and value.is_floating_point()):
            taken[name] = value.masked_fill(idle.view(-1, *[1] * (value.ndim - 1)), 0)
    return taken


def exchange_rows(batch: Batch, wanted: Sequence[NDArray[np.int64]], accelerator: Accelerator) -> Batch:
    """The rows that this process wants, in its order, from whichever process has them.

    One all-to-all of the rows as bytes: what is sent is what is wanted elsewhere, and no process ever holds more than
    its own.

    Args:
        batch: of this process, R rows on each.
        wanted: for each process the rows it wants, numbered over all processes; the same on all of them.
        accelerator: of the trainer.
    """
    here, num_rows = accelerator.process_index, batch["advantages"].size(0)
    columns = {name: _padded_alike(name, value, accelerator) for name, value in batch.items() if value.ndim}
    flat = {name: value.reshape(num_rows, -1).contiguous().view(torch.uint8) for name, value in columns.items()}
    owners = [rows // num_rows for rows in wanted]
    sent = np.concatenate([rows[owner == here] for rows, owner in zip(wanted, owners, strict=True)]) - here * num_rows
    outgoing = torch.cat(list(flat.values()), dim=1)[torch.as_tensor(sent, device=accelerator.device)]
    incoming = outgoing.new_empty(len(wanted[here]), outgoing.size(1))
    torch.distributed.all_to_all_single(
        incoming,
        outgoing,
        output_split_sizes=np.bincount(owners[here], minlength=len(wanted)).tolist(),
        input_split_sizes=[int((owner == here).sum()) for owner in owners],
    )
    order = np.argsort(np.argsort(owners[here], kind="stable"))  # they came process by process
    incoming = incoming[torch.as_tensor(order, device=incoming.device)]
    pieces = incoming.split([piece.size(1) for piece in flat.values()], dim=1)
    brought = {
        name: piece.flatten().clone().view(value.dtype).reshape(-1, *value.shape[1:])
        for (name, value), piece in zip(columns.items(), pieces, strict=True)
    }
    return {name: brought.get(name, value) for name, value in batch.items()}


def _padded_alike(name: str, value: Tensor, accelerator: Accelerator) -> Tensor:
    """As wide as on the process where it is widest, padded on the side where TRL pads it."""
    if value.ndim < 2:
        return value
    return accelerator.pad_across_processes(value, dim=1, pad_first=name.startswith("prompt_"))


def split_completions(input_ids: Tensor, attention_mask: Tensor, width: int) -> Batch:
    """The batch that `input_ids` `(R, P + C)` were joined from; `width` is C."""
    return {
        "prompt_ids": input_ids[:, :-width],
        "prompt_mask": attention_mask[:, :-width],
        "completion_ids": input_ids[:, -width:],
        "completion_mask": attention_mask[:, -width:],
    }


def row_lengths(batch: Batch) -> NDArray[np.int64]:
    """`(R,)`: prompt and completion tokens of each row, padding left out."""
    lengths = batch["prompt_mask"].sum(dim=1) + batch["completion_mask"].sum(dim=1)
    return lengths.cpu().numpy()


def num_cells(batch: Batch) -> int:
    """Tokens and padding together: what a forward pass computes."""
    return batch["prompt_ids"].numel() + batch["completion_ids"].numel()


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
