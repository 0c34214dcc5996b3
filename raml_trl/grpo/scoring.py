"""Computes log-probabilities before training, but only those of rollouts that will be trained on.

Shapes: R rows on this process, with P prompt tokens and C completion tokens each.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.batching import join_completions, num_cells, prompt_numbers, row_lengths
from raml_trl.grpo.images import image_inputs, split_pixels, stack_pixels
from raml_trl.grpo.micro_batches import cut_for_scoring
from raml_trl.grpo.row_rules import RowRules
from raml_trl.grpo.rows import Batch, take_rows

Scores = tuple[Tensor, Tensor | None, Tensor | None]
"""The result of TRL's `_get_per_token_logps_and_entropies`: log-probabilities, entropies and router loss."""


def score_rows(
    score: Callable[..., Scores],
    batch: Batch,
    rows: NDArray[np.int64],
    max_rows: int,
    *,
    rules: RowRules,
    trim: Callable[[Batch], Batch],
) -> tuple[Tensor, int, int]:
    """Return log-probabilities `(R, C)`, the number of token positions run, and the number of completion tokens scored.

    R is the number of rows of this process, and C the number of tokens to which their completions are padded. The token
    positions include prompts and padding. Rows that are not scored have NaN, which TRL reads as a log-probability that
    is not available.

    Args:
        score: TRL's `_get_per_token_logps_and_entropies`, to which the model is already bound.
        batch: prompts, completions and images of all rows of this process.
        rows: numbers of the rows to score.
        max_rows: maximum number of rows of a call. If `rules` puts rows of similar length together, a call with short
            rows may have more.
        rules: whether rows of similar length, or rows with the same prompt, are scored together.
        trim: function that trims padding; it is applied to the rows of every call.
    """
    if rules.whole_groups:
        rows = rows[np.argsort(prompt_numbers(batch)[rows], kind="stable")]
        parts = cut_for_scoring(rows, row_lengths(batch), max_rows, bucketing=False)
    else:
        parts = cut_for_scoring(rows, row_lengths(batch), max_rows, bucketing=rules.length_bucketing)
    ids = batch["completion_ids"]
    logps, cells, tokens = torch.full(ids.shape, torch.nan, device=ids.device), 0, 0
    batch = split_pixels(batch)
    for rows in parts:
        part = stack_pixels(trim(take_rows(batch, rows)))
        width = part["completion_ids"].size(1)
        scores, _, _ = score(*join_completions(part), width, **image_inputs(part))
        logps[rows] = 0.0  # the loss may use a larger width, and a mask does not help: 0 * NaN is NaN
        logps[rows, :width] = scores.to(logps.dtype)
        cells, tokens = cells + num_cells(part, packed=rules.whole_groups), tokens + int(part["completion_mask"].sum())
    return logps, cells, tokens
