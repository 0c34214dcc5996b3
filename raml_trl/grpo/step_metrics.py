"""Metrics that the trainer logs beside TRL's own, and the bookkeeping around them.

Shapes: P groups (prompts), G rollouts in each, over all processes; R rows on this process.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raml_trl.grpo.batching import Batch
from raml_trl.grpo.generation import Generation, loss_mask
from raml_trl.grpo.ledger import Ledger, speedup


def count_generation(
    ledger: Ledger, accelerator: Accelerator, batch: Batch, generation: Generation, trained: Tensor
) -> dict[str, float]:
    """Count the rows and completion tokens of a generation over all processes, and return them as metrics.

    Args:
        ledger: of the run.
        accelerator: of the trainer.
        batch: of this process, R rows.
        generation: with its subset.
        trained: `(R,)`: the rows that will run.
    """
    trained_tokens = (loss_mask(batch) * trained.unsqueeze(1)).sum().long()
    tokens_scored = torch.tensor(generation.tokens_scored, device=trained.device)
    sums = torch.stack([trained.sum(), batch["completion_mask"].sum(), tokens_scored, trained_tokens])
    rows, generated, scored, tokens = accelerator.reduce(sums).tolist()
    selected = int(generation.subset.selected.sum())
    ledger.count(
        rollouts=generation.subset.selected.numel(),
        selected=selected,
        trained=rows,
        tokens_generated=generated,
        tokens_scored=scored,
        tokens_trained=tokens,
    )
    return {
        "rows/selected": selected,
        "rows/trained": rows,
        "tokens/generated": generated,
        "tokens/scored": scored,
        "tokens/trained": tokens,
    }


def selection_metrics(
    rewards: NDArray[np.floating], selected: NDArray[np.bool_], correct: NDArray[np.bool_] | None
) -> dict[str, float]:
    """Return the shares of groups with and without a training signal, before and after selection.

    Args:
        rewards: `(P, G)`.
        selected: `(P, G)`.
        correct: `(P, G)`, or None if no reward function reports which rollouts are correct.
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
    """Return the seconds of each phase since the last optimizer step, and the speed-up over the run so far."""
    seconds = {f"seconds/{phase}": spent for phase, spent in ledger.lap().items()}
    speed = speedup(ledger, fraction)
    return seconds | {"speedup/ceiling": speed["ceiling"], "speedup/estimated": speed["estimated"]}


def same_value_fraction(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Return the share of groups whose masked values `(P, G)` are all equal.

    Groups with an empty mask do not count; NaN if no other group remains.
    """
    least = np.where(mask, values, np.inf).min(axis=1)
    most = np.where(mask, values, -np.inf).max(axis=1)
    counted = np.any(mask, axis=1)
    return float(np.mean(np.equal(least, most)[counted])) if counted.any() else float("nan")


def group_outcomes(correct: NDArray[np.bool_], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Return the shares of groups whose masked rollouts `(P, G)` are all, partly or not at all correct.

    Groups with an empty mask do not count; NaN if no other group remains.
    """
    size = mask.sum(axis=1)
    right = (correct & mask).sum(axis=1)
    groups = np.stack([right == size, (right > 0) & (right < size), right == 0])[:, size > 0]
    shares = groups.mean(axis=1) if groups.size else np.full(3, np.nan)
    return dict(zip(("all_right", "mixed", "all_wrong"), shares.tolist(), strict=True))


def latest_correct(column: Sequence[bool], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the last P * G values of TRL's `correct` column as `(P, G)`, or None if it holds fewer.

    A reward function fills this column through TRL's `log_extra`; see `rewards.make_reward`.
    """
    size = shape[0] * shape[1]
    return np.array(list(column)[-size:], dtype=bool).reshape(shape) if len(column) >= size else None


@contextmanager
def discarded_metrics(metrics: MutableMapping[str, list[float]]) -> Iterator[None]:
    """Replace the metrics appended in the `with` block by NaN, which TRL leaves out of its means.

    For a micro-batch whose rows do not count: its entropy and clip ratios are means over no token.
    """
    before = {name: len(values) for name, values in metrics.items()}
    yield
    for name, values in metrics.items():
        if len(values) > before.get(name, 0):
            values[-1] = float("nan")


class OptimizerClock(TrainerCallback):
    """Charges the optimizer step, which runs outside of `training_step`, to the phase `updating`."""

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
