"""Forms the micro-batches of a process from the rows of buffered rollouts.

Buffered rollouts are those that TRL keeps in memory to train on. The module `micro_batches` decides which process runs
which rows in which micro-batch; `exchange` brings rows from other processes, `padding` trims the padding of rows, and
`images` gives every row its pixels. If a process has no row left for a micro-batch, it runs a placeholder, called an
idle row and numbered `IDLE`.

Shapes: W processes with R rows each. A row has P prompt tokens and C completion tokens, padding included. In a
micro-batch each process has N rows.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.exchange import exchange_rows
from raml_trl.grpo.images import split_pixels, stack_pixels
from raml_trl.grpo.micro_batches import IDLE, deal_micro_batches
from raml_trl.grpo.packing.dealing import RowTokens, deal_groups
from raml_trl.grpo.row_rules import RowRules
from raml_trl.grpo.rows import LOSS_ROWS, SELECTED, Batch, take_rows
from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)


class RowTable(NamedTuple):
    """The properties of the rows of all processes, by which `micro_batches` assigns rows to micro-batches.

    `selected`: whether the row is selected. `live`: whether the row is trained on if it is selected. `prompts`: a
    number that is equal for rows with the same prompt. `prompt_lengths`, `completion_lengths`: tokens without padding.
    All fields are `(W, R)`: W processes, and R rows of each.
    """

    selected: NDArray[np.bool_]
    live: NDArray[np.bool_]
    prompts: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    completion_lengths: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`(W, R)`: number of tokens of each row, without padding."""
        return self.prompt_lengths + self.completion_lengths

    @property
    def row_cells(self) -> int:
        """Number of token positions of a row that TRL has padded to the longest prompt and the longest completion."""
        return int(self.prompt_lengths.max() + self.completion_lengths.max())

    @property
    def tokens(self) -> RowTokens:
        """The prompts and token counts of the rows of all processes, as `packing.dealing` takes them."""
        prefixes = np.maximum(self.prompt_lengths - 1, 0)
        return RowTokens(self.prompts.ravel(), prefixes.ravel(), self.completion_lengths.ravel())


def gather_row_table(batch: Batch, live: Tensor, accelerator: Accelerator) -> RowTable:
    """Gather the row table from all processes.

    Args:
        batch: the batch of this process.
        live: `(R,)`; true for rows that are trained on if they are selected.
        accelerator: the trainer's.
    """
    prompts = torch.from_numpy(prompt_numbers(batch)).to(accelerator.device)
    lengths = [batch[name].sum(dim=1) for name in ("prompt_mask", "completion_mask")]
    columns = torch.stack([batch[SELECTED].long(), live.long(), prompts, *lengths], dim=1)
    table = accelerator.gather(columns).view(-1, *columns.shape).cpu().numpy()  # (W, R, 5)
    return RowTable(table[..., 0] == 1, table[..., 1] == 1, table[..., 2], table[..., 3], table[..., 4])


def prompt_numbers(batch: Batch) -> NDArray[np.int64]:
    """Return a number for each row `(R,)` that depends only on the tokens of its prompt."""
    ids, masks = batch["prompt_ids"].cpu().numpy(), batch["prompt_mask"].cpu().numpy() != 0
    digests = [blake2b(row[mask].tobytes(), digest_size=8).digest() for row, mask in zip(ids, masks, strict=True)]
    return np.frombuffer(b"".join(digests), dtype=np.int64).copy()


def deal_rows(
    table: RowTable,
    live: NDArray[np.bool_],
    args: SubsetGRPOConfig,
    rules: RowRules,
    *,
    keep_unselected: bool,
    runs_unused: bool = False,
) -> list[NDArray[np.int64]]:
    """Assign the rows of a generation to processes and micro-batches: by whole groups, by length, or in order.

    Args:
        table: the properties of the rows of all processes.
        live: `(W, R)`; false for rows to skip if `rules.skip_zero_advantage` is true.
        args: the trainer's config.
        rules: whether groups stay together, whether rows are sorted by length, and whether `live` is used.
        keep_unselected: whether rows that are not selected run too, for a loss that masks them.
        runs_unused: used if groups stay together: whether a micro-batch without rows runs an idle row, as DeepSpeed
            requires. Otherwise such a micro-batch stays empty.

    Returns:
        The micro-batches of the generation, each `(W, N)`: for every process the numbers of its N rows. An idle row has
        the number `IDLE`.

    Raises:
        InputError: if rows keep their order, and the selected rows cannot be cut into micro-batches of equal size.
    """
    num_micro_batches, window = args.steps_per_generation, args.bucketing_window
    if rules.whole_groups:
        limit = args.max_tokens_per_micro_batch or args.per_device_train_batch_size * table.row_cells
        micro_batches = deal_groups(
            table.selected,
            table.tokens,
            num_micro_batches,
            live=live if rules.skip_zero_advantage else None,
            window=window,
            limit=limit,
            keep_unselected=keep_unselected,
            runs_unused=runs_unused,
        )
        largest = max(table.tokens.count(rows[rows != IDLE]) for part in micro_batches for rows in part)
        if largest > limit:
            _warn_large(limit)
        return micro_batches
    if not rules.length_bucketing and table.selected.sum() % (len(table.selected) * num_micro_batches):
        raise InputError(
            f"{table.selected.sum()} of {table.selected.size} rollouts are selected, which cannot be cut into "
            f"{num_micro_batches} micro-batches of equal size on {len(table.selected)} processes: use a data loader "
            "that yields per_device_train_batch_size x steps_per_generation rows, as TRL's does"
        )
    return deal_micro_batches(
        table.selected,
        num_micro_batches,
        window=window,
        lengths=table.lengths if rules.length_bucketing else None,
        live=live if rules.skip_zero_advantage else None,
        keep_unselected=keep_unselected,
    )


@cache
def _warn_large(limit: int) -> None:
    logger.warning(
        "a micro-batch has more than %d tokens, the limit of max_tokens_per_micro_batch, because a row is longer, or "
        "because the rows of an optimizer step do not fit into its micro-batches. To get more micro-batches, divide "
        "per_device_train_batch_size and multiply gradient_accumulation_steps by the same factor",
        limit,
    )


def mark_loss_rows(micro_batches: Sequence[Batch], table: RowTable) -> None:
    """Store under the key `LOSS_ROWS` the number of rows that the loss of a micro-batch must divide by.

    This is the number of selected rows that a micro-batch of one process has before rows are moved or skipped. Only
    micro-batches that now have a different number of rows get the key.
    """
    rows = float(table.selected.sum()) / (len(table.selected) * len(micro_batches))
    for micro_batch in micro_batches:
        if len(micro_batch["advantages"]) != rows:
            micro_batch[LOSS_ROWS] = torch.tensor(rows, dtype=torch.float64)


def take_micro_batches(
    batch: Batch,
    micro_batches: Sequence[NDArray[np.int64]],
    accelerator: Accelerator,
    *,
    mask_unselected: bool,
    trim: Callable[[Batch], Batch],
) -> list[Batch]:
    """Return the micro-batches of this process.

    Args:
        batch: the batch of this process, with a column `SELECTED`.
        micro_batches: each `(W, N)`: for every process the numbers of its rows, or `IDLE`. Rows are numbered over all
            processes: row r is on process r // R.
        accelerator: the trainer's.
        mask_unselected: whether to mask the loss of rows that are not selected.
        trim: function that trims padding; it is applied to every micro-batch.
    """
    batch = split_pixels(batch)
    here, num_rows = accelerator.process_index, len(batch[SELECTED])
    wanted = [np.concatenate([part[process] for part in micro_batches]) for process in range(len(micro_batches[0]))]
    own = [part[here] for part in micro_batches]
    if all((rows[rows != IDLE] // num_rows == process).all() for process, rows in enumerate(wanted)):
        own = [np.where(rows == IDLE, IDLE, rows - here * num_rows) for rows in own]
    else:
        # RaML: rows move between processes if a process has too few, or so that all have similar numbers of tokens.
        needed = [rows[rows != IDLE] for rows in wanted]
        needed = [  # a process that has only idle rows still needs one real row to copy
            rows if len(rows) else np.array([process * num_rows]) for process, rows in enumerate(needed)
        ]
        batch = exchange_rows(batch, needed, accelerator)
        positions = np.where(wanted[here] == IDLE, IDLE, np.cumsum(wanted[here] != IDLE) - 1)
        own = np.split(positions, np.cumsum([len(rows) for rows in own])[:-1])
    selected = batch.pop(SELECTED)
    if mask_unselected:
        mask = selected.unsqueeze(1).expand_as(batch["completion_mask"])
        batch["tool_mask"] = mask.to(batch["completion_mask"].dtype) * batch.get("tool_mask", 1)
    return [stack_pixels(trim(take_rows(batch, rows))) for rows in own]


def rows_to_score(mask: Tensor, accelerator: Accelerator) -> NDArray[np.int64]:
    """Return the numbers of the rows of this process for which `mask` `(R,)` is true.

    Row 0 is appended as often as needed to get equally many numbers on every process. Every process computes
    log-probabilities for the same number of rows (at least one), because a forward pass may be a collective operation.
    """
    own: NDArray[np.int64] = mask.nonzero().flatten().cpu().numpy()
    most = int(accelerator.gather(torch.tensor(len(own), device=mask.device)).max())
    return np.concatenate([own, np.zeros(max(most, 1) - len(own), dtype=np.int64)])


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


def num_cells(batch: Batch, *, packed: bool = False) -> int:
    """Count the cells of a batch: the token positions that a forward pass computes.

    Padding counts, unless `packed` is true. Then the cells are the tokens of a packed row, which holds each prompt once
    and has no padding.
    """
    if packed and len(batch["prompt_ids"]):
        lengths = [batch[name].sum(dim=1).cpu().numpy() for name in ("prompt_mask", "completion_mask")]
        tokens = RowTokens(prompt_numbers(batch), lengths[0] - 1, lengths[1])
        return tokens.count(np.flatnonzero(lengths[1]))
    return batch["prompt_ids"].numel() + batch["completion_ids"].numel()


def join_completions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Join prompts and completions into `input_ids` and `attention_mask`, both `(R, P + C)`."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
