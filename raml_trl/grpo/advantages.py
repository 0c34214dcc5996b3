"""Computes advantages over the whole group, or over its selected rollouts only.

TRL computes the advantages over the whole group too, but only after the log-probabilities of all rollouts. Selection
needs the advantages earlier, so this module computes them first. A test checks that its advantages over the whole group
equal TRL's bit for bit.

Shapes: P groups (one per prompt), G rollouts in each group, M of them selected, F reward functions.
"""

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

_EPSILON = 1e-4  # added by TRL to every standard deviation


def total_rewards(rewards_per_func: Tensor, weights: Tensor) -> Tensor:
    """Return the total reward of every rollout: the weighted sum over reward functions, NaN if no function gave one.

    Args:
        rewards_per_func: `(P, G, F)`; NaN where a function returned no reward.
        weights: `(F,)`, TRL's `reward_weights`.

    Returns:
        `(P, G)`.
    """
    return (rewards_per_func * weights).nansum(dim=2).masked_fill(rewards_per_func.isnan().all(dim=2), torch.nan)


def is_mixed(rewards: Tensor) -> Tensor:
    """Return a mask `(P,)`: true for groups with different rewards. NaN is ignored. A group is a row of `rewards`."""
    missing = rewards.isnan()
    return rewards.masked_fill(missing, torch.inf).amin(dim=1) < rewards.masked_fill(missing, -torch.inf).amax(dim=1)


def group_advantages(rewards_per_func: Tensor, weights: Tensor, *, scale: str, aggregation: str) -> Tensor:
    """Return the advantages `(P, G)` over the whole group, as TRL computes them.

    A rollout without a reward has advantage 0.

    Args:
        rewards_per_func: `(P, G, F)`; NaN where a function returned no reward.
        weights: `(F,)`, TRL's `reward_weights`.
        scale: TRL's `scale_rewards`.
        aggregation: TRL's `multi_objective_aggregation`: `sum_then_normalize` (GRPO, arXiv 2402.03300), or
            `normalize_then_sum` (GDPO, arXiv 2601.05242).
    """
    rewards = total_rewards(rewards_per_func, weights)
    if aggregation == "sum_then_normalize":
        return _normalize(rewards, scale).nan_to_num(0.0)
    assert aggregation == "normalize_then_sum", aggregation
    centred = rewards_per_func - rewards_per_func.nanmean(dim=1, keepdim=True)
    normalized = centred / (nanstd(rewards_per_func, dim=1, keepdim=True) + _EPSILON)
    summed = (normalized * weights).nansum(dim=2).masked_fill(rewards.isnan(), torch.nan).flatten()
    advantages = (summed - summed.nanmean()) / (nanstd(summed) + _EPSILON)
    return advantages.nan_to_num(0.0).view_as(rewards)


def recentre_on_subset(rewards: Tensor, mask: Tensor, *, scale: str) -> Tensor:
    """Return advantages `(P, G)` relative to the m selected rollouts of each group instead of all G.

    Rollouts that are not selected get 0.

    Args:
        rewards: `(P, G)`; NaN for a rollout without a reward. Such rollouts are left out of the mean and the standard
            deviation, and get advantage 0, as in TRL.
        mask: `(P, G)`; true for the m selected rollouts of each group.
        scale: TRL's `scale_rewards`. `group` divides by the standard deviation (Bessel-corrected, plus 1e-4) of the m
            selected rewards of the group, `batch` by the standard deviation of all selected rewards of the batch.
            `none` does not divide.

    Source: PODS, arXiv 2504.13818, section 3 (advantages after down-sampling).
    """
    advantages = _normalize(rewards[mask].view(len(rewards), -1), scale)  # (P, M)
    return torch.zeros_like(rewards).masked_scatter(mask, advantages.nan_to_num(0.0))


def _normalize(rewards: Tensor, scale: str) -> Tensor:
    """Centre rewards `(P, M)` on the mean of each group, and divide by the standard deviation that `scale` names."""
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    if scale == "group":
        return centred / (nanstd(rewards, dim=1, keepdim=True) + _EPSILON)
    if scale == "batch":
        return centred / (nanstd(rewards.flatten()) + _EPSILON)
    assert scale == "none", scale
    return centred
