"""Handles the tensors of buffered rollouts: takes rows, exchanges rows between processes, trims padding.

Buffered rollouts are those that TRL keeps in memory to train on. A batch has TRL's format: a dict whose tensors have
one row per rollout, or are 0-d and apply to all rows. The module `micro_batches` decides which rows go where. If a
process has no row left for a micro-batch, it runs a placeholder, called an idle row and numbered `IDLE`.

Shapes: W processes with R rows each. A row has P prompt tokens and C completion tokens, padding included. In a
micro-batch each process has N rows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.micro_batches import IDLE

Batch = dict[str, Tensor]


class RowTable(NamedTuple):
    """The properties of the rows of all processes from which `micro_batches` decides which rows go where.

    `selected`: whether the row is selected. `live`: whether the row is trained on if it is selected. `lengths`: tokens
    of the row, without padding. All fields are `(W, R)`.
    """

    selected: NDArray[np.bool_]
    live: NDArray[np.bool_]
    lengths: NDArray[np.int64]


def gather_row_table(batch: Batch, live: Tensor, accelerator: Accelerator) -> RowTable:
    """Gather the row table from all processes.

    Args:
        batch: the batch of this process.
        live: `(R,)`; true for rows that are trained on if they are selected.
        accelerator: the trainer's.
    """
    lengths = torch.from_numpy(row_lengths(batch)).to(accelerator.device)
    columns = torch.stack([batch["selected"].long(), live.long(), lengths], dim=1)
    table = accelerator.gather(columns).view(-1, len(live), 3).cpu().numpy()  # (W, R, 3)
    return RowTable(table[..., 0] == 1, table[..., 1] == 1, table[..., 2])


def take_micro_batches(
    batch: Batch,
    micro_batches: Sequence[NDArray[np.int64]],
    accelerator: Accelerator,
    *,
    mask_unselected: bool,
    trim: Callable[[Batch], Batch],
) -> list[Batch]:
    """Return the micro-batches of this process.

    Each has a 0-d tensor `idle`, which is true if the micro-batch contains only idle rows, on every process.

    Args:
        batch: the batch of this process, with a column `selected`.
        micro_batches: each `(W, N)`: for every process the numbers of its rows, or `IDLE`. Rows are numbered over all
            processes: row r is on process r // R.
        accelerator: the trainer's.
        mask_unselected: whether to mask the loss of rows that are not selected.
        trim: function that trims padding; it is applied to every micro-batch.
    """
    here, num_rows = accelerator.process_index, len(batch["selected"])
    wanted = [np.concatenate([part[process] for part in micro_batches]) for process in range(len(micro_batches[0]))]
    own = [part[here] for part in micro_batches]
    if all((rows[rows != IDLE] // num_rows == process).all() for process, rows in enumerate(wanted)):
        own = [np.where(rows == IDLE, IDLE, rows - here * num_rows) for rows in own]
    else:
        # RaML: rows move between processes if a process has too few, or to give all processes about as many tokens.
        needed = [rows[rows != IDLE] for rows in wanted]
        needed = [  # a process that has only idle rows still needs one real row to copy
            rows if len(rows) else np.array([process * num_rows]) for process, rows in enumerate(needed)
        ]
        batch = exchange_rows(batch, needed, accelerator)
        positions = np.where(wanted[here] == IDLE, IDLE, np.cumsum(wanted[here] != IDLE) - 1)
        own = np.split(positions, np.cumsum([len(rows) for rows in own])[:-1])
    batch = dict(batch)
    selected = batch.pop("selected")
    if mask_unselected:
        mask = selected.unsqueeze(1).expand_as(batch["completion_mask"])
        batch["tool_mask"] = mask.to(batch["completion_mask"].dtype) * batch.get("tool_mask", 1)
    taken = [trim(take_rows(batch, rows)) for rows in own]
    for micro_batch, rows in zip(taken, micro_batches, strict=True):
        micro_batch["idle"] = torch.tensor(bool((rows == IDLE).all()))
    return taken


def rows_to_score(mask: Tensor, accelerator: Accelerator) -> NDArray[np.int64]:
    """Return the rows of this process for which `mask` is true, padded with row 0 to the same number on every process.

    `mask` is `(R,)`. Every process computes log-probabilities for the same number of rows (at least one), since a
    forward pass may be a collective operation.
    """
    own: NDArray[np.int64] = mask.nonzero().flatten().cpu().numpy()
    most = int(accelerator.gather(torch.tensor(len(own), device=mask.device)).max())
    return np.concatenate([own, np.zeros(max(most, 1) - len(own), dtype=np.int64)])


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Concatenate the rows of batches from TRL's `split_tensor_dict`. All of them have the same 0-d tensors."""
    first = batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if value.ndim else value for name, value in first.items()
    }


def take_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Return a batch of `rows` in the given order; `IDLE` becomes a row that has no token in the loss."""
    if (rows == IDLE).any():
        return _with_idle_rows(batch, rows)
    return {
        name: value[torch.as_tensor(rows, device=value.device)] if value.ndim else value
        for name, value in batch.items()
    }


def _with_idle_rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Replace `IDLE` by a copy of the row with the shortest prompt: completion masked, log-probs and advantage 0."""
    shortest = int(batch["prompt_mask"].sum(dim=1).argmin())
    taken = take_rows(batch, np.where(rows == IDLE, shortest, rows))
    idle = torch.as_tensor(rows == IDLE, device=taken["advantages"].device)
    for name, value in taken.items():
        if name == "completion_mask" or (value.ndim and value.is_floating_point()):
            taken[name] = value.masked_fill(idle.view(-1, *[1] * (value.ndim - 1)), 0)
    return taken


def exchange_rows(batch: Batch, wanted: Sequence[NDArray[np.int64]], accelerator: Accelerator) -> Batch:
    """Return the rows that this process wants, in the order it wants them, from the processes that hold them.

    One all-to-all operation sends the rows as bytes. A process receives only the rows that it wants, so no process
    ever holds the rows of all processes.

    Args:
        batch: the batch of this process.
        wanted: for each process the rows that it wants, numbered over all processes. Every process passes the same
            list.
        accelerator: the trainer's.
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
    order = np.argsort(np.argsort(owners[here], kind="stable"))  # rows arrive ordered by their sender
    incoming = incoming[torch.as_tensor(order, device=incoming.device)]
    pieces = incoming.split([piece.size(1) for piece in flat.values()], dim=1)
    received = {
        name: piece.flatten().clone().view(value.dtype).reshape(-1, *value.shape[1:])
        for (name, value), piece in zip(columns.items(), pieces, strict=True)
    }
    return {name: received.get(name, value) for name, value in batch.items()}


def _padded_alike(name: str, value: Tensor, accelerator: Accelerator) -> Tensor:
    """Pad a column to its largest width on any process, on the side on which TRL pads it."""
    if value.ndim < 2:
        return value
    return accelerator.pad_across_processes(value, dim=1, pad_first=name.startswith("prompt_"))


def split_completions(input_ids: Tensor, attention_mask: Tensor, width: int) -> Batch:
    """Split `input_ids` and `attention_mask`, both `(R, P + C)`, into prompts and completions; `width` is C."""
    return {
        "prompt_ids": input_ids[:, :-width],
        "prompt_mask": attention_mask[:, :-width],
        "completion_ids": input_ids[:, -width:],
        "completion_mask": attention_mask[:, -width:],
    }


def row_lengths(batch: Batch) -> NDArray[np.int64]:
    """Return the number of tokens `(R,)` of each row: prompt and completion, without padding."""
    lengths = batch["prompt_mask"].sum(dim=1) + batch["completion_mask"].sum(dim=1)
    return lengths.cpu().numpy()


def num_cells(batch: Batch) -> int:
    """Count the cells of a batch: the token positions that a forward pass computes, padding included."""
    return batch["prompt_ids"].numel() + batch["completion_ids"].numel()


def join_completions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Join prompts and completions into `input_ids` and `attention_mask`, both `(R, P + C)`."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)


def trim_padding(batch: Batch, *, multiple: int | None = None) -> Batch:
    """Trim prompts (padded on the left) and completions (padded on the right) to the longest of this batch.

    Args:
        batch: a batch with `prompt_mask` `(R, P)` and `completion_mask` `(R, C)`. Every other two-dimensional tensor
            has width P, C or 1.
        multiple: round widths up to a multiple of this (TRL's `pad_to_multiple_of`).
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
    """Return the number of columns to keep: up to the last one that any row uses, rounded up to `multiple`."""
    used = mask.any(dim=0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    if multiple is not None:
        width = -(-width // multiple) * multiple
    return min(width, mask.size(1))
