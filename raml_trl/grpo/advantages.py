"""Advantages before and after selection.

Those over the whole group are TRL's own; they are worked out here as well because the rows to score must be chosen
before TRL gets to them. A test holds the two equal, bit for bit.

Shapes: P groups (prompts), G rollouts in each, M selected of each, F reward functions.
"""

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

_EPSILON = 1e-4  # TRL's, under every standard deviation


def total_rewards(rewards_per_func: Tensor, weights: Tensor) -> Tensor:
    """`(P, G)`: the weighted sum of `(P, G, F)`; NaN where no function gave a reward."""
    return (rewards_per_func * weights).nansum(dim=2).masked_fill(rewards_per_func.isnan().all(dim=2), torch.nan)


def group_advantages(rewards_per_func: Tensor, weights: Tensor, *, scale: str, aggregation: str) -> Tensor:
    """`(P, G)`: advantages over the whole group, as TRL computes them; 0 where there is no reward.

    Args:
        rewards_per_func: `(P, G, F)`; NaN where a function gave none.
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
    """Advantages over the m selected of each group instead of all G; 0 for the others.

    Args:
        rewards: `(P, G)`; NaN where there is none, which counts for nothing and gets advantage 0, as in TRL.
        mask: `(P, G)`, true for the m selected of each group.
        scale: TRL's `scale_rewards`: `group`, `batch` or `none` divide by the standard deviation (Bessel-corrected,
            plus 1e-4) of the m, of all selected rows of the batch, or by nothing.

    Source: PODS, arXiv 2504.13818, section 3 (advantages after down-sampling).
    """
    advantages = _normalize(rewards[mask].view(len(rewards), -1), scale)  # (P, M)
    return torch.zeros_like(rewards).masked_scatter(mask, advantages.nan_to_num(0.0))


def _normalize(rewards: Tensor, scale: str) -> Tensor:
    """`(P, M)` rewards, centred on their group and divided by what `scale` says."""
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    if scale == "group":
        return centred / (nanstd(rewards, dim=1, keepdim=True) + _EPSILON)
    if scale == "batch":
        return centred / (nanstd(rewards.flatten()) + _EPSILON)
    assert scale == "none", scale
    return centred
