"""Follows one generation of rollouts through TRL.

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
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.rows import Batch
from raml_trl.grpo.subset import Subset
from raml_trl.runtime.errors import InputError

Row = dict[str, object]
"""A row of the dataset: its prompt, and the columns that reward functions read."""


@dataclass
class Generation:
    """The intermediate results of one generation, the batch of rollouts that TRL samples at once."""

    inputs: list[Row]  # the dataset row of every rollout of this process
    prompt_lengths: Tensor | None = None  # (R,): prompt tokens
    lengths: Tensor | None = None  # (R,): completion tokens
    rewards: list[Tensor] = field(default_factory=list)  # (P * G, F) for each time that rewards were calculated
    early_rewards: Tensor | None = None  # (P * G, F), calculated before TRL asks for them
    subset: Subset | None = None
    rows_to_score: NDArray[np.int64] | None = None  # rows of this process that need log-probs; None for all rows
    tokens_scored: int = 0  # completion tokens of this process whose log-probs were computed
    groups_discarded: int = 0  # groups over all processes that were generated and not kept
    tokens_discarded: int = 0  # completion tokens of this process that were generated and not kept

    def measure(self, prompt_ids: list[list[int]], completion_ids: list[list[int]], device: torch.device) -> None:
        """Set `prompt_lengths` and `lengths`, the numbers of tokens of the prompts and completions of this process.

        Args:
            prompt_ids: the token ids of the prompt of each row of this process.
            completion_ids: the token ids of the completion of each row of this process.
            device: the device of the results.
        """
        self.prompt_lengths, self.lengths = (
            torch.tensor([len(ids) for ids in rows], device=device) for rows in (prompt_ids, completion_ids)
        )


def add_fields(rows: Sequence[Row], extra_fields: Mapping[str, object]) -> None:
    """Add the extra fields that a `rollout_func` returned to `rows`, in place.

    TRL does the same before it asks for rewards. A list has one value per row; any other value is given to every row.
    """
    for name, values in extra_fields.items():
        column = values if isinstance(values, list) else [values] * len(rows)
        for row, value in zip(rows, column, strict=False):
            row[name] = value


class GenerationCounter:
    """Numbers the generations of a run. A generation is the batch of rollouts that TRL samples at once.

    The random draws of a selection depend on this number, among other things. The number depends only on the
    optimizer step and on how many generations this step has made before, so a resumed run continues with the same
    numbers.
    """

    def __init__(self, args: SubsetGRPOConfig, num_iterations: int) -> None:
        self._per_step = -(-args.gradient_accumulation_steps // (args.steps_per_generation * num_iterations))
        self._step, self._index = -1, 0

    def next(self, step: int) -> int:
        """Return the number of the next generation, which is made in optimizer step `step`."""
        self._index = self._index + 1 if step == self._step else 0
        self._step = step
        return step * self._per_step + self._index


def has_all_rows(batch: Batch, generation: Generation, args: SubsetGRPOConfig, accelerator: Accelerator) -> bool:
    """Return whether an overridden `_generate_and_score_completions` kept the groups of G rollouts complete.

    They are complete if the generation has exactly one row for each rollout whose reward was calculated. If they are
    not, the result is False with m = G, and an error with m < G.

    Raises:
        InputError: if the groups are not complete and m < G, because then there are no groups to select from.
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
