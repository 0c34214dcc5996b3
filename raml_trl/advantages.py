"""Advantages re-centred on the selected rollouts. TRL computes those over the whole group; nothing here repeats it."""

import torch
from torch import Tensor
from trl.trainer.utils import nanstd


def recentre_on_subset(rewards: Tensor, mask: Tensor, *, scale: str) -> Tensor:
    """Advantages over the m selected of each group instead of all G; 0 for the others.

    Args:
        rewards: `(P, G)`; NaN where there is none, which counts for nothing and gets advantage 0, as in TRL.
        mask: `(P, G)`, true for the m selected of each group.
        scale: TRL's `scale_rewards`: `group`, `batch` or `none` divide by the standard deviation (Bessel-corrected,
            plus 1e-4) of the m, of all selected rows of the batch, or by nothing.

    Source: PODS, arXiv 2504.13818, section 3 (advantages after down-sampling).
    """
    selected = rewards[mask].view(len(rewards), -1)  # (P, M)
    advantages = selected - selected.nanmean(dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (nanstd(selected, dim=1, keepdim=True) + 1e-4)
    elif scale == "batch":
        advantages = advantages / (nanstd(selected) + 1e-4)
    return torch.zeros_like(rewards).masked_scatter(mask, advantages.nan_to_num(0.0))
