"""Follows one generation of rollouts through TRL, and chooses the subset that is trained on.

A generation is the batch of rollouts that TRL samples at once. TRL's method `_generate_and_score_completions` calls
other methods to sample the rollouts and to compute log-probabilities and rewards, and then computes advantages. Our
trainer wraps these methods, and a `Generation` carries results from one method to the next.

Shapes: P groups (one per prompt) with G rollouts each, over all processes; F reward functions; R rows on this process,
with C completion tokens each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.advantages import group_advantages, recentre_on_subset, total_rewards
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.config_checks import ROW_MEAN_LOSSES, check_weights
from raml_trl.grpo.prefix_cuts import cut_completions, draw_cuts
from raml_trl.grpo.rows import CUT_DRAWS, SELECTED, WEIGHTS, Batch, loss_mask, per_row
from raml_trl.grpo.selection import select_rollouts
from raml_trl.runtime.errors import InputError

Row = dict[str, object]
"""A row of the dataset: its prompt, and the columns that reward functions read."""


@dataclass(frozen=True)
class Subset:
    """Which m of G rollouts of every group carry gradient. All fields are `(P, G)` and equal on every process."""

    rewards: Tensor
    from_rewards: Tensor  # advantages over all G that follow from the rewards
    on_subset: Tensor | None  # advantages over the m selected; None with `advantage_scope: group`
    selected: Tensor  # bool
    weights: Tensor | None  # None if all selected rows have weight 1
    cut_draws: Tensor | None = None  # uniform in [0, 1): where completions are cut; None if they are not cut

    @property
    def advantages(self) -> Tensor:
        """The advantages that are trained on if no override changes them."""
        return self.from_rewards if self.on_subset is None else self.on_subset


@dataclass
class Generation:
    """The intermediate results of a generation while TRL is making it."""

    inputs: list[Row]  # the dataset row of every rollout of this process
    lengths: Tensor | None = None  # (R,): completion tokens
    rewards: list[Tensor] = field(default_factory=list)  # (P * G, F) for each time that rewards were calculated
    early_rewards: Tensor | None = None  # (P * G, F), calculated before TRL asks for them
    subset: Subset | None = None
    rows_to_score: NDArray[np.int64] | None = None  # rows of this process that need log-probs; None for all rows
    tokens_scored: int = 0  # completion tokens of this process whose log-probs were computed

    def add_fields(self, extra_fields: Mapping[str, object]) -> None:
        """Add the extra fields that a `rollout_func` returned to the inputs, as TRL does before it asks for rewards."""
        for name, values in extra_fields.items():
            column = values if isinstance(values, list) else [values] * len(self.inputs)
            for row, value in zip(self.inputs, column, strict=False):
                row[name] = value


class GenerationCounter:
    """Numbers the generations of a run. The number is part of the key for random selection.

    A number depends only on the optimizer step and on how many generations this step has made before, so a resumed run
    continues with the same numbers.
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
    rewards_per_func: Tensor,
    reward_weights: Tensor,
    lengths: Tensor,
    args: SubsetGRPOConfig,
    *,
    number: int,
    advantages: Tensor | None = None,
) -> Subset:
    """Select m of the G rollouts of every group.

    Args:
        rewards_per_func: `(P * G, F)`, gathered from all processes.
        reward_weights: `(F,)`, TRL's.
        lengths: `(P * G,)`: completion tokens, gathered from all processes.
        args: the trainer's config.
        number: number of this generation, from `GenerationCounter`.
        advantages: `(P * G,)`: the advantages by which strategies select; None for those that follow from the rewards.
    """
    group = args.num_generations
    rewards_per_func = rewards_per_func.view(-1, group, rewards_per_func.size(-1))
    reward_weights = reward_weights.to(rewards_per_func.device)
    rewards = total_rewards(rewards_per_func, reward_weights)  # (P, G)
    from_rewards = group_advantages(
        rewards_per_func, reward_weights, scale=args.scale_rewards, aggregation=args.multi_objective_aggregation
    )
    # `selection_scope: batch` treats the whole generation batch as one group.
    pool = rewards.view(1, -1) if args.selection_scope == "batch" else rewards
    size = pool.size(1)
    # RaML: the selection.
    selection = select_rollouts(
        pool.cpu().numpy(),
        (from_rewards if advantages is None else advantages).reshape(pool.shape).float().cpu().numpy(),
        args.num_generations_update * size // group,
        strategy=args.strategy,
        seed=args.seed,
        step=number,
        lengths=lengths.view_as(pool).cpu().numpy(),
    )
    # A user's function may draw from other generators than the keyed one, so all use the result of the first process.
    selected = broadcast(torch.from_numpy(selection.mask(size)).view_as(rewards).to(rewards.device))
    on_subset = None
    if args.advantage_scope == "subset":
        on_subset = recentre_on_subset(rewards, selected, scale=args.scale_rewards)
    weights = torch.from_numpy(selection.row_weights(size)).view_as(rewards).to(rewards.device, rewards.dtype)
    weights = broadcast(weights)
    if not args.weighs:
        if bool((weights[selected] == 1).all()):
            weights = None
        else:
            check_weights(args)
    cut_draws = None
    if args.token_selection == "prefix":
        cut_draws = torch.from_numpy(draw_cuts(*rewards.shape, seed=args.seed, step=number)).to(rewards.device)
    return Subset(rewards, from_rewards, on_subset, selected, weights, cut_draws)


def write_subset(batch: Batch, subset: Subset, accelerator: Accelerator) -> None:
    """Write the subset into the batch of this process, which TRL will shuffle and buffer.

    Set `SELECTED`; `WEIGHTS` if rows are weighted; `CUT_DRAWS` if completions are cut; and `advantages` if
    `advantage_scope` is `subset`.
    """
    batch[SELECTED] = local_rows(subset.selected, accelerator)
    if subset.weights is not None:
        batch[WEIGHTS] = local_rows(subset.weights, accelerator)
    if subset.cut_draws is not None:
        batch[CUT_DRAWS] = local_rows(subset.cut_draws, accelerator)
    if subset.on_subset is not None:
        batch["advantages"] = local_rows(subset.on_subset, accelerator)


def restrict_loss(batch: Batch, args: SubsetGRPOConfig, accelerator: Accelerator) -> Batch:
    """Return the batch of this process with a loss over the selected rows only, and over prefixes if they are cut.

    With m = G and whole completions, the batch is unchanged.

    The advantages are multiplied by the row weights, and are 0 in rows that are not selected. `num_items_in_batch`, the
    number of tokens that TRL's token-normalised losses divide by, becomes the number of tokens of the selected
    rows or, if rows are weighted, m/G of the number of tokens of all rows.
    """
    if args.fraction < 1:
        batch = _restrict_to_selected(batch, args, accelerator)
    if CUT_DRAWS in batch:
        row_mean = args.loss_type in ROW_MEAN_LOSSES and args.loss_type != "dr_grpo"
        masks = args.subset_mode == "mask"
        batch = cut_completions(
            batch, minimum=args.prefix_minimum, keep=args.prefix_keep, row_mean=row_mean, mask_only=masks
        )
    return batch


def _restrict_to_selected(batch: Batch, args: SubsetGRPOConfig, accelerator: Accelerator) -> Batch:
    selected, advantages = batch[SELECTED], batch["advantages"]
    advantages = advantages.masked_fill(~per_row(selected, advantages), 0)
    tokens = loss_mask(batch).sum(dim=1)
    sums = accelerator.gather(torch.stack([tokens.sum(), (tokens * selected).sum()])).view(-1, 2).sum(dim=0)
    every_token, selected_tokens = sums.unbind()
    items = batch["num_items_in_batch"]
    # RaML: token-normalised losses divide by the tokens of the selected rows. If rows are weighted, their sum estimates
    # m/G of the sum over all G rollouts, so the loss is divided by m/G of the tokens of all G rollouts instead.
    if WEIGHTS in batch:
        advantages, items = advantages * per_row(batch[WEIGHTS], advantages), items * args.fraction
    elif items == every_token:
        items = selected_tokens
    else:  # a subclass counts in another way
        items = items * (selected_tokens / every_token.clamp(min=1))
    return batch | {"advantages": advantages, "num_items_in_batch": items}


def check_advantages(batch: Batch, subset: Subset, accelerator: Accelerator, overrides: Sequence[str]) -> None:
    """Check that the advantages of the batch are those over all G that follow from the rewards.

    An override may change them, unless `advantage_scope: subset` would replace them.

    Args:
        batch: the batch of this process.
        subset: the subset, chosen by these advantages.
        accelerator: the trainer's.
        overrides: overrides of `_generate_and_score_completions`, which may change the advantages.

    Raises:
        InputError: if an override has changed advantages that `advantage_scope: subset` would replace.
        RuntimeError: if the advantages differ although there is no override.
    """
    ours, theirs = local_rows(subset.from_rewards, accelerator), batch["advantages"]
    if theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-4, atol=1e-6):
        return
    if not overrides:
        raise RuntimeError("this release of TRL computes advantages in a way that raml_trl does not know")
    if subset.on_subset is not None:
        raise InputError(
            f"{', '.join(overrides)} changes the advantages, which advantage_scope 'subset' would replace: use "
            "advantage_scope: group"
        )


def has_all_rows(batch: Batch, generation: Generation, args: SubsetGRPOConfig, accelerator: Accelerator) -> bool:
    """Return whether a generation of an overridden `_generate_and_score_completions` consists of whole groups of G.

    It does if it has exactly one row for each rollout whose reward was calculated.

    Raises:
        InputError: if it does not, and m < G: then there are no groups to select from.
    """
    rows = torch.tensor([len(batch["advantages"])], device=accelerator.device)
    sizes, rewarded = accelerator.gather(rows).tolist(), [len(rewards) for rewards in generation.rewards]
    if rewarded == [sum(sizes)] and set(sizes) == {len(generation.inputs)}:
        return True
    if args.fraction < 1:
        raise InputError(
            f"a generation has {sum(sizes)} rollouts, but rewards were calculated for {rewarded or 'none'}, so the "
            "override of _generate_and_score_completions leaves no groups to select from: set num_generations_update "
            "to num_generations"
        )
    return False


def row_advantages(batch: Batch) -> Tensor:
    """Return one advantage per row `(R,)`; for advantages per token, the mean absolute value over the loss mask."""
    advantages = batch["advantages"]
    if advantages.ndim == 1:
        return advantages
    mask = loss_mask(batch)
    return (advantages.abs() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def local_rows(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the values `(R,)` for the rows of this process, from values `(P, G)` for the rows of all processes."""
    return values.reshape(accelerator.num_processes, -1)[accelerator.process_index]
