"""The batch sizes of a recipe: how many rollouts, rows and cells a step and a micro-batch have.

A row is a rollout in a micro-batch. A cell is one token position that a forward pass computes, padding included.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal


@dataclass(frozen=True)
class Geometry:
    """The settings that determine how a generation batch is cut into micro-batches.

    Except for `num_processes`, they are fields of `SubsetGRPOConfig`. If the trainer decides whether a setting is on,
    the field has its decision. Batch sizes and numbers of steps are those of one process, as in `SubsetGRPOConfig`.
    """

    num_processes: int
    per_device_train_batch_size: int
    steps_per_generation: int
    gradient_accumulation_steps: int
    num_iterations: int
    num_generations: int
    num_generations_update: int
    selection: str
    selection_scope: Literal["group", "batch"]
    subset_mode: Literal["drop", "mask"]
    length_bucketing: bool
    skip_zero_advantage: bool
    shared_prompts: bool = False
    max_tokens_per_micro_batch: int | None = None
    selection_cost: Literal["rows", "tokens"] = "rows"
    mean_of_row: bool = False
    """Whether the loss is a mean over the tokens of each row; it matters for `selection_cost: tokens`."""
    prefix: tuple[int, float] | None = None
    """`prefix_minimum` and `prefix_keep`; None if completions are not cut, or if the tokens that are cut run too."""

    @property
    def fraction(self) -> float:
        """The share of rollouts that carry gradient, m/G."""
        return self.num_generations_update / self.num_generations

    @property
    def rows_per_micro_batch(self) -> float:
        """Number of rows in a micro-batch of one process, on average."""
        rollouts = self.per_device_train_batch_size
        return rollouts if self.subset_mode == "mask" else rollouts * self.fraction

    @property
    def packs(self) -> bool:
        """Whether rows are packed: without padding, and with each prompt once per micro-batch."""
        return self.shared_prompts and self.length_bucketing

    def most_cells(self, prompt: int, completion: int) -> int:
        """Return the number of token positions that the largest micro-batch runs, padding included.

        Every rollout is assumed to have `prompt` prompt tokens and `completion` completion tokens.
        """
        if not self.packs:
            return ceil(self.rows_per_micro_batch * (prompt + completion))
        limit = self.max_tokens_per_micro_batch or self.per_device_train_batch_size * (prompt + completion)
        return max(prompt - 1 + completion, min(limit, self.packed_cells(prompt, completion)))

    def packed_cells(self, prompt: int, completion: int) -> int:
        """Return the number of token positions of a generation batch of one process, packed into one micro-batch.

        Every rollout is assumed to have `prompt` prompt tokens and `completion` completion tokens.
        """
        rollouts = self.per_device_train_batch_size * self.steps_per_generation
        rows = self.rows_per_micro_batch * self.steps_per_generation
        return ceil(rollouts / self.num_generations) * (prompt - 1) + ceil(rows) * completion

    @property
    def rollouts(self) -> int:
        """Number of rollouts in a generation batch, on all processes."""
        return self.num_processes * self.per_device_train_batch_size * self.steps_per_generation

    @property
    def rollouts_per_step(self) -> float:
        """Number of new rollouts per optimizer step, on all processes.

        It is an average if several steps train on the same rollouts.
        """
        return self.rollouts * self.generations_per_step / self.num_iterations

    @property
    def rows_per_step(self) -> float:
        """Number of rows that one optimizer step of TRL's trainer runs, on all processes.

        With `num_iterations` > 1, a rollout is a row in each of several steps.
        """
        return self.rollouts * self.generations_per_step

    @property
    def generations_per_step(self) -> float:
        """Number of generation batches that one optimizer step trains on.

        It is less than 1 if several optimizer steps share a batch. With `num_iterations` > 1, each pass over a batch
        counts as another batch.
        """
        return self.gradient_accumulation_steps / self.steps_per_generation
