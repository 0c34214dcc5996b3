"""Cuts selected rollouts at a random length, so that the update runs over a prefix of the completion only.

A token survives the cut with a known probability, and its term in the loss is weighted by the inverse of this
probability. The expected loss is therefore that of the whole rollouts, for every loss that is a sum over tokens with
fixed factors.

Let a completion have L tokens, of which the first `minimum` are always kept. Token t survives with probability S(t): it
is 1 for t <= minimum, and falls evenly to `keep` at t = L. One number u per rollout, uniform in [0, 1), decides: the
tokens with S(t) > u survive, which is a prefix, because S never rises.

Source: Horvitz and Thompson, JASA 1952. Shapes: R rows with C completion tokens each, padding included.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.rows import CUT_DRAWS, Batch, loss_mask, per_row

_STREAM = 1  # separates these draws from those of the selection, which have the same seed and step


def draw_cuts(num_groups: int, num_rollouts: int, *, seed: int, step: int) -> NDArray[np.float64]:
    """Draw the number u in [0, 1) that decides where a rollout is cut, for P groups of G rollouts, as `(P, G)`.

    The draws depend only on the seed and the step (the number of the generation), so they are the same for any number
    of processes, and after a resume.
    """
    return np.random.default_rng([seed, step, _STREAM]).random((num_groups, num_rollouts))


def survival(lengths: Tensor, width: int, *, minimum: int, keep: float) -> Tensor:
    """Return the probability `(R, C)` that each token survives if completions are cut at a random length.

    Tokens beyond the length of a row have the probability of the last token.

    Args:
        lengths: `(R,)`: tokens of the completion of each of R rows.
        width: C, the number of tokens to which the completions are padded.
        minimum: number of tokens that always survive.
        keep: probability with which a whole completion survives, if it is longer than `minimum`.
    """
    number = torch.arange(1, width + 1, device=lengths.device)
    beyond = (torch.minimum(number, lengths[:, None]) - minimum).clamp(min=0)
    return 1 - (1 - keep) * beyond / (lengths[:, None] - minimum).clamp(min=1)


def surviving(batch: Batch, *, minimum: int, keep: float) -> Tensor:
    """Return which tokens `(R, C)` of completions survive the cuts that the column `CUT_DRAWS` of the batch draws.

    The other arguments are those of `survival`. Padding survives as the last token of its row does.
    """
    mask = batch["completion_mask"]
    return survival(mask.sum(dim=1), mask.size(1), minimum=minimum, keep=keep) > batch[CUT_DRAWS][:, None]


def cut_completions(batch: Batch, *, minimum: int, keep: float, row_mean: bool, mask_only: bool) -> Batch:
    """Return the batch with every completion cut at its drawn length, and with one advantage per token.

    The advantages are `(R, C)`, for R rows of C completion tokens, padding included.

    The advantage of a token is divided by the probability that the token survives the cut. `num_items_in_batch`, by
    which token-normalised losses divide, stays that of the whole completions. A loss that is a mean over the tokens of
    a row would divide by the number of tokens that are left, so with `row_mean` the advantages are also multiplied by
    the share of the row's tokens that is left.

    Args:
        batch: rows with the column `CUT_DRAWS`.
        minimum: see `survival`.
        keep: see `survival`.
        row_mean: whether the loss is a mean over the tokens of each row.
        mask_only: whether the tokens that are cut run too, and only their loss is masked.
    """
    mask, whole = batch["completion_mask"], loss_mask(batch)
    chances = survival(mask.sum(dim=1), mask.size(1), minimum=minimum, keep=keep)
    survives = surviving(batch, minimum=minimum, keep=keep)
    cut = dict(batch)
    if mask_only:
        cut["tool_mask"] = batch.get("tool_mask", torch.ones_like(mask)) * survives
    else:
        cut["completion_mask"] = mask * survives
    weights = 1 / chances
    if row_mean:
        kept = (whole * survives).sum(dim=1) / whole.sum(dim=1).clamp(min=1)
        weights = weights * kept[:, None]
    advantages = batch["advantages"]
    per_token = advantages if advantages.ndim == 2 else per_row(advantages, mask)
    cut["advantages"] = per_token * weights.to(advantages.dtype)
    del cut[CUT_DRAWS]
    return cut
