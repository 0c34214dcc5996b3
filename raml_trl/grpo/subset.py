"""Chooses the rollouts of a generation that are trained on, and restricts the loss to them.

Shapes: P groups (one per prompt) with G rollouts each, over all processes; F reward functions; R rows on this process,
with C completion tokens each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.advantages import group_advantages, recentre_on_subset, total_rewards
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.config_checks import MEAN_OF_ROW_LOSSES, check_weights
from raml_trl.grpo.prefix_cuts import cut_completions, draw_cuts
from raml_trl.grpo.rows import CUT_DRAWS, SELECTED, WEIGHTS, Batch, loss_mask, per_row
from raml_trl.grpo.selection import cost_factors, select_rollouts
from raml_trl.runtime.errors import InputError


@dataclass(frozen=True)
class Subset:
    """Which m of the G rollouts of each of P groups carry gradient.

    All fields are `(P, G)` and equal on every process.
    """

    rewards: Tensor
    from_rewards: Tensor  # advantages over all G that follow from the rewards
    on_subset: Tensor | None  # advantages over the m selected; None with `advantage_scope: group`
    selected: Tensor  # bool
    weights: Tensor | None  # None if all selected rows have weight 1
    cut_draws: Tensor | None = None  # uniform in [0, 1): where completions are cut; None if they are not cut

    @property
    def advantages(self) -> Tensor:
        """The advantages that are trained on, unless a subclass of the trainer changes them."""
        return self.from_rewards if self.on_subset is None else self.on_subset


def choose_subset(
    rewards_per_func: Tensor,
    reward_weights: Tensor,
    prompt_lengths: Tensor,
    lengths: Tensor,
    args: SubsetGRPOConfig,
    *,
    number: int,
    advantages: Tensor | None = None,
    group_weights: NDArray[np.float64] | None = None,
    shares_prompts: bool = False,
) -> Subset:
    """Select m of the G rollouts of each of P groups.

    Args:
        rewards_per_func: `(P * G, F)`: the reward of each of F reward functions, gathered from all processes.
        reward_weights: `(F,)`: TRL's weights of the reward functions.
        prompt_lengths: `(P * G,)`: prompt tokens, gathered from all processes.
        lengths: `(P * G,)`: completion tokens, gathered from all processes.
        args: the trainer's config.
        number: number of this generation, from `GenerationCounter`.
        advantages: `(P * G,)`: the advantages by which strategies select; None for those that follow from the rewards.
        group_weights: `(P,)`: weight of the question of each group; None for 1.
        shares_prompts: whether the selected rollouts of a group share their prompt in the update.
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
    factors = None
    if args.selection_cost == "tokens":
        factors = cost_factors(
            prompt_lengths.view_as(rewards).cpu().numpy(),
            lengths.view_as(rewards).cpu().numpy(),
            args.num_generations_update,
            mean_of_row=args.loss_type in MEAN_OF_ROW_LOSSES,
            shared=shares_prompts,
        ).reshape(pool.shape)
    # RaML: the selection.
    selection = select_rollouts(
        pool.cpu().numpy(),
        (from_rewards if advantages is None else advantages).reshape(pool.shape).float().cpu().numpy(),
        args.num_generations_update * size // group,
        strategy=args.strategy,
        seed=args.seed,
        step=number,
        lengths=lengths.view_as(pool).cpu().numpy(),
        factors=factors,
    )
    # A user's function may draw from other generators than the keyed one, so all use the result of the first process.
    selected = broadcast(torch.from_numpy(selection.mask(size)).view_as(rewards).to(rewards.device))
    on_subset = None
    if args.advantage_scope == "subset":
        on_subset = recentre_on_subset(rewards, selected, scale=args.scale_rewards)
    weights = torch.from_numpy(selection.row_weights(size)).view_as(rewards).to(rewards.device, rewards.dtype)
    weights = broadcast(weights)
    if group_weights is not None:
        weights = weights * torch.from_numpy(group_weights).to(weights)[:, None]
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

    Set the column `SELECTED`; the column `WEIGHTS` if rows are weighted; the column `CUT_DRAWS` if completions are cut;
    and the column `advantages` if `advantage_scope` is `subset`.
    """
    batch[SELECTED] = local_rows(subset.selected, accelerator)
    if subset.weights is not None:
        batch[WEIGHTS] = local_rows(subset.weights, accelerator)
    if subset.cut_draws is not None:
        batch[CUT_DRAWS] = local_rows(subset.cut_draws, accelerator)
    if subset.on_subset is not None:
        batch["advantages"] = local_rows(subset.on_subset, accelerator)


def restrict_loss(batch: Batch, args: SubsetGRPOConfig, accelerator: Accelerator) -> Batch:
    """Return the batch of this process with a loss over the selected rows, or over prefixes of them if they are cut.

    With m = G, whole completions and no weights, the batch is unchanged.

    The advantages are multiplied by the row weights, and are 0 in rows that are not selected. `num_items_in_batch`, the
    number of tokens that TRL's token-normalised losses divide by, becomes the number of tokens of the selected
    rows or, if rows are weighted, m/G of the number of tokens of all rows.
    """
    if args.fraction < 1 or WEIGHTS in batch:
        batch = _restrict_to_selected(batch, args, accelerator)
    if CUT_DRAWS in batch:
        row_mean = args.loss_type in MEAN_OF_ROW_LOSSES
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
    """Check that the advantages of the batch are those that follow from the rewards of all G rollouts.

    A subclass may change them in an override, unless `advantage_scope: subset` would replace them.

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


def local_rows(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the values for the R rows of this process, as `(R,)`.

    `values` is `(P, G)`: one value for each rollout of all processes, in P groups of G.
    """
    return values.reshape(accelerator.num_processes, -1)[accelerator.process_index]


def row_advantages(batch: Batch) -> Tensor:
    """Return one advantage per row: if advantages are per token, the mean absolute value over the loss mask."""
    advantages = batch["advantages"]
    if advantages.ndim == 1:
        return advantages
    mask = loss_mask(batch)
    return (advantages.abs() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
