"""Follows one generation of rollouts through TRL, and chooses the subset that is trained on.

A generation is the batch of rollouts that TRL samples at once. One method of TRL makes it: it calls other methods to
sample the rollouts and to compute log-probabilities and rewards, and then computes advantages. Our trainer overrides
these methods, and a `Generation` carries results from one to the next.

Shapes: P groups (one per prompt) with G rollouts each, over all processes; F reward functions; R rows on this process,
with C completion tokens each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.advantages import group_advantages, recentre_on_subset, total_rewards
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.rows import Batch
from raml_trl.grpo.selection import select_rollouts

Row = dict[str, object]
"""A row of the dataset: its prompt, and the columns that reward functions read."""


@dataclass(frozen=True)
class Subset:
    """Which m of G rollouts of every group carry gradient. All fields are `(P, G)` and equal on every process."""

    rewards: Tensor
    advantages: Tensor
    selected: Tensor  # bool
    weights: Tensor | None  # None if all selected rows have weight 1


@dataclass
class Generation:
    """The intermediate results of a generation while TRL is making it."""

    inputs: list[Row]  # the dataset row of every rollout of this process
    lengths: Tensor | None = None  # (R,): completion tokens
    rewards_per_func: Tensor | None = None  # (P * G, F)
    subset: Subset | None = None
    rows_to_score: NDArray[np.int64] | None = None  # rows of this process that need log-probs; None for all rows
    tokens_scored: int = 0  # completion tokens of this process whose log-probs were computed

    def reward_inputs(self, extra_fields: Mapping[str, object]) -> list[Row]:
        """Return the inputs, with the extra fields that a `rollout_func` returned, as TRL passes them to rewards."""
        rows = [dict(row) for row in self.inputs]
        for name, values in extra_fields.items():
            for row, value in zip(rows, values if isinstance(values, list) else [values] * len(rows), strict=False):
                row[name] = value
        return rows


class GenerationCounter:
    """Numbers the generations of a run. The number is part of the key for random selection.

    A number depends only on the optimizer step and on how many generations were made in this step before, so a resumed
    run continues with the same numbers.
    """

    def __init__(self, args: SubsetGRPOConfig, num_iterations: int) -> None:
        self._per_step = -(-args.gradient_accumulation_steps // (args.steps_per_generation * num_iterations))
        self._step, self._index = -1, 0

    def next(self, step: int) -> int:
        """Return the number of the next generation, which is made in optimizer step `step`."""
        self._index = self._index + 1 if step == self._step else 0
        self._step = step
        return step * self._per_step + self._index


def choose_subset(
    rewards_per_func: Tensor, reward_weights: Tensor, lengths: Tensor, args: SubsetGRPOConfig, *, number: int
) -> Subset:
    """Select m of the G rollouts of every group.

    Args:
        rewards_per_func: `(P * G, F)`, gathered from all processes.
        reward_weights: `(F,)`, TRL's.
        lengths: `(P * G,)`: completion tokens, gathered from all processes.
        args: the trainer's config.
        number: number of this generation, from `GenerationCounter`.
    """
    group = args.num_generations
    rewards_per_func = rewards_per_func.view(-1, group, rewards_per_func.size(-1))
    reward_weights = reward_weights.to(rewards_per_func.device)
    rewards = total_rewards(rewards_per_func, reward_weights)  # (P, G)
    advantages = group_advantages(
        rewards_per_func, reward_weights, scale=args.scale_rewards, aggregation=args.multi_objective_aggregation
    )
    # `selection_scope: batch` treats the whole generation batch as one group.
    pool = rewards.view(1, -1) if args.selection_scope == "batch" else rewards
    size = pool.size(1)
    # RaML: the selection.
    selection = select_rollouts(
        pool.cpu().numpy(),
        advantages.view_as(pool).cpu().numpy(),
        args.num_generations_update * size // group,
        strategy=args.strategy,
        seed=args.seed,
        step=number,
        lengths=lengths.view_as(pool).cpu().numpy(),
    )
    # A function of the user may draw from other generators than the keyed one, so the first process decides.
    selected = broadcast(torch.from_numpy(selection.mask(size)).view_as(rewards).to(rewards.device))
    if args.advantage_scope == "subset":
        advantages = recentre_on_subset(rewards, selected, scale=args.scale_rewards)
    weights = torch.from_numpy(selection.row_weights(size)).view_as(rewards).to(rewards.device, rewards.dtype)
    weights = broadcast(weights)
    if not args.weighs:
        if bool((weights[selected] == 1).all()):
            weights = None
        else:
            args.check_weights()
    return Subset(rewards, advantages, selected, weights)


def write_subset(batch: Batch, subset: Subset, args: SubsetGRPOConfig, accelerator: Accelerator) -> None:
    """Write the subset into the batch of this process, which TRL will shuffle and buffer.

    Sets `selected`, `advantages`, `weights` (if rows are weighted) and `num_items_in_batch`, the number of tokens that
    TRL's token-normalised losses divide by.
    """
    batch["selected"] = local_rows(subset.selected, accelerator)
    batch["advantages"] = local_rows(subset.advantages, accelerator)
    if subset.weights is not None:
        batch["weights"] = local_rows(subset.weights, accelerator)
        batch["advantages"] = batch["advantages"] * batch["weights"]
    # RaML: token-normalised losses divide by the tokens of the selected rows. If rows are weighted, their sum estimates
    # m/G of the sum over all G rollouts, so the loss is divided by m/G of the tokens of all G rollouts instead.
    if subset.weights is not None:
        batch["num_items_in_batch"] = batch["num_items_in_batch"] * args.fraction
    else:
        selected_tokens = (loss_mask(batch) * batch["selected"].unsqueeze(1)).sum()
        batch["num_items_in_batch"] = accelerator.gather(selected_tokens).sum()


def check_advantages(batch: Batch, subset: Subset, accelerator: Accelerator) -> None:
    """Check that TRL's advantages over all G equal ours, from which the subset was chosen.

    Raises:
        RuntimeError: if they differ.
    """
    if not torch.allclose(batch["advantages"], local_rows(subset.advantages, accelerator), rtol=1e-4, atol=1e-6):
        raise RuntimeError("this release of TRL computes advantages in a way that raml_trl does not know")


def loss_mask(batch: Batch) -> Tensor:
    """Return a mask `(R, C)`: 1 for the completion tokens that enter TRL's loss, otherwise 0."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def local_rows(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the values `(R,)` for the rows of this process, from values `(P, G)` for the rows of all processes."""
    return values.reshape(accelerator.num_processes, -1)[accelerator.process_index]
