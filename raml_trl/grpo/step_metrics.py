"""Computes the metrics that the trainer logs in addition to TRL's.

Shapes: P groups (one per prompt) with G rollouts each, over all processes; R rows on this process.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raml_trl.grpo.advantages import is_mixed
from raml_trl.grpo.batching import num_cells, row_lengths
from raml_trl.grpo.generation import Generation
from raml_trl.grpo.ledger import Ledger, speedup
from raml_trl.grpo.row_rules import RowRules
from raml_trl.grpo.rows import Batch, loss_mask
from raml_trl.runtime.rollout_table import CORRECT, column_name, read_flag

logger = logging.getLogger(__name__)


def count_generation(
    ledger: Ledger, accelerator: Accelerator, batch: Batch, generation: Generation, trained: Tensor, *, refill: bool
) -> dict[str, float]:
    """Add the rows and completion tokens of a generation, over all processes, to the ledger; return them as metrics.

    Args:
        ledger: counts the work of the run so far.
        accelerator: the trainer's.
        batch: the batch of this process.
        generation: the intermediate results of the generation, with the rollouts that were selected.
        trained: `(R, C)`; true for the completion tokens that will be trained on, of the R rows of this process.
        refill: whether the setting `refill` is on. Then the metrics include the number of groups that it has replaced.
    """
    trained_tokens = (loss_mask(batch) * trained).sum().long()
    tokens_scored = torch.tensor(generation.tokens_scored, device=trained.device)
    # not by `completion_mask`, which can leave out completions that were cut off
    generated_tokens = generation.lengths.sum() + generation.tokens_discarded
    sums = torch.stack([trained.any(dim=1).sum(), generated_tokens, tokens_scored, trained_tokens])
    rows, generated, scored, tokens = accelerator.reduce(sums).tolist()
    selected = int(generation.subset.selected.sum())
    rewards = generation.subset.rewards
    mixed = int(is_mixed(rewards).sum())
    ledger.count(
        rollouts=rewards.numel() + generation.groups_discarded * rewards.size(1),
        selected=selected,
        trained=rows,
        tokens_generated=generated,
        tokens_scored=scored,
        tokens_trained=tokens,
    )
    return ({"refill/groups": generation.groups_discarded} if refill else {}) | {
        "rows/selected": selected,
        "rows/trained": rows,
        "tokens/generated": generated,
        "tokens/scored": scored,
        "tokens/trained": tokens,
        "tokens/per_mixed_group": generated / mixed if mixed else float("nan"),
    }


def count_update(batch: Batch, cells_all: int, rules: RowRules) -> dict[str, int]:
    """Count the token positions and tokens that this process runs for a micro-batch, by their names in the ledger.

    Args:
        batch: the micro-batch.
        cells_all: the token positions, padding included, of a micro-batch of all G rollouts as TRL pads them.
        rules: whether rows are packed, so that each prompt counts once in a micro-batch, and there is no padding.
    """
    cells = num_cells(batch, packed=rules.whole_groups)
    tokens = int(row_lengths(batch).sum())  # a shared prompt counts for every row
    return {
        "cells_updating_all": cells_all,
        "cells_updating": cells,
        "cells_padding": 0 if rules.whole_groups else cells - tokens,
        "tokens_updating": tokens,
    }


def selection_metrics(
    rewards: NDArray[np.floating], selected: NDArray[np.bool_], correct: NDArray[np.bool_] | None
) -> dict[str, float]:
    """Return the shares of groups with and without a training signal, before and after selection.

    Args:
        rewards: `(P, G)`, for P groups of G rollouts.
        selected: `(P, G)`; true for selected rollouts.
        correct: `(P, G)`; true for correct rollouts. None if no reward function reports which rollouts are correct.
    """
    everything = np.ones_like(selected)
    metrics = {
        f"selection/{name}_same_reward": same_value_fraction(rewards, rows)
        for name, rows in (("group", everything), ("selected", selected))
    }
    if correct is not None:
        for name, rows in (("groups", everything), ("selected", selected)):
            metrics |= {f"{name}/{outcome}": share for outcome, share in group_outcomes(correct, rows).items()}
    return metrics


def time_metrics(ledger: Ledger, fraction: float) -> dict[str, float]:
    """Return the seconds of each phase since the last call, and the speed-up of the run so far.

    The speed-up is that over training on all G rollouts with TRL's padding. `fraction` is m/G.
    """
    seconds = {f"seconds/{phase}": spent for phase, spent in ledger.lap().items()}
    speed = speedup(ledger, fraction)
    return seconds | {"speedup/ceiling": speed["ceiling"], "speedup/estimated": speed["estimated"]}


def same_value_fraction(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Return the share of groups whose values marked by `mask` are all equal. NaN values do not count.

    Both arguments are `(P, G)`, for P groups of G rollouts. Groups in which the mask marks nothing are left out. If no
    group remains, the share is NaN.
    """
    mask = mask & ~np.isnan(values)
    least = np.where(mask, values, np.inf).min(axis=1)
    most = np.where(mask, values, -np.inf).max(axis=1)
    counted = np.any(mask, axis=1)
    return float(np.mean(np.equal(least, most)[counted])) if counted.any() else float("nan")


def group_outcomes(correct: NDArray[np.bool_], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Return the shares of groups in which all, some or none of the rollouts marked by `mask` are correct.

    Both arguments are `(P, G)`, for P groups of G rollouts. Groups in which the mask marks nothing are left out. If no
    group remains, the shares are NaN.
    """
    size = mask.sum(axis=1)
    right = (correct & mask).sum(axis=1)
    groups = np.stack([right == size, (right > 0) & (right < size), right == 0])[:, size > 0]
    shares = groups.mean(axis=1) if groups.size else np.full(3, np.nan)
    return dict(zip(("all_right", "mixed", "all_wrong"), shares.tolist(), strict=True))


def latest_correct(columns: Mapping[str, Sequence[object]], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return which rollouts of the last generation are correct, as `(P, G)`; None if no reward function reports it.

    The column `raml/correct` of our reward function is read. If there is none, a column `correct` of a user's reward
    function is read, provided that it has only booleans, 0 and 1 for this generation.

    Args:
        columns: the columns that TRL's table of completions has in addition to its own. Reward functions add columns
            with TRL's `log_extra`.
        shape: P and G, the number of groups and the number of rollouts in each.
    """
    size = shape[0] * shape[1]
    name = column_name(columns, CORRECT)
    values = list(columns.get(name, ()))[-size:]
    if len(values) < size:
        return None
    flags = [read_flag(value) for value in values]
    if None in flags:
        _warn_unreadable(name)
        return None
    return np.array(flags, dtype=bool).reshape(shape)


@cache
def _warn_unreadable(column: str) -> None:
    logger.warning(
        "the column %s that a reward function logs is not read as correctness, because it has values other than True, "
        "False, 0 and 1: groups/* and selected/* are not logged",
        column,
    )


class OptimizerClock(TrainerCallback):
    """Adds the time of the optimizer step, which runs outside `training_step`, to that of the phase `updating`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.ledger.enter("updating")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.ledger.leave()
