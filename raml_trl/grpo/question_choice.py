"""Chooses the questions of a generation: more often those whose groups are likely to be mixed.

A group is mixed if its rewards differ. Only mixed groups have advantages other than 0, so rollouts for other groups are
generated in vain. For every question the number of mixed groups is counted, where older groups count less: with each
new group of the question, earlier counts shrink by `FORGETTING`. The estimated chance of a mixed group is the mean of
the Beta posterior with a uniform prior. A question is drawn with a probability proportional to its chance plus a floor,
so that no question is given up.

The draw is systematic (see `selection`), without replacement, and keyed by the seed and the number of the generation.
So it is the same for any number of processes, and after a resume. The first pass over the data keeps the order of TRL.

Shapes: N questions in the dataset; P groups of G rollouts in a generation, over all processes.
"""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.resuming import BufferResumingTrainer
from raml_trl.grpo.rows import Batch
from raml_trl.grpo.selection import inclusion_probabilities, systematic_draw
from raml_trl.runtime.errors import InputError
from raml_trl.training.completeness import Progress

QUESTION = "raml/question"
"""The column that we add to the dataset: the number of the question, from 0."""
FORGETTING = 0.99
_STREAM = 2  # separates these draws from others with the same seed and step


class MixedCounts:
    """Counts how often the groups of each question were mixed.

    Attributes:
        groups: `(N,)`: number of groups of each question, where older groups count less.
        mixed: `(N,)`: number of mixed groups, counted in the same way.
        seen: `(N,)`: number of groups, each counted once.
        rewards: `(N,)`: mean reward of the last group; NaN for a question that was never drawn.
    """

    def __init__(self, num_questions: int) -> None:
        self.groups = np.zeros(num_questions)
        self.mixed = np.zeros(num_questions)
        self.seen = np.zeros(num_questions, dtype=np.int64)
        self.rewards = np.full(num_questions, np.nan)

    def chances(self) -> NDArray[np.float64]:
        """Return the estimated chance `(N,)` that the next group of each question is mixed."""
        chances: NDArray[np.float64] = (self.mixed + 1) / (self.groups + 2)
        return chances

    def add(self, questions: NDArray[np.int64], rewards: NDArray[np.floating]) -> None:
        """Count the groups of a generation.

        Args:
            questions: `(P,)`: the question of each group.
            rewards: `(P, G)`; NaN for a rollout without a reward.
        """
        for question, group in zip(questions, rewards, strict=True):
            values = group[~np.isnan(group)]
            mixed = len(values) > 0 and values.max() > values.min()
            self.groups[question] = FORGETTING * self.groups[question] + 1
            self.mixed[question] = FORGETTING * self.mixed[question] + mixed
            self.seen[question] += 1
            self.rewards[question] = values.mean() if len(values) else np.nan

    def table(self) -> list[dict[str, object]]:
        """Return a row per question: its number, its groups, those that were mixed, and what the last one showed."""
        chances = self.chances()
        return [
            {
                "question": question,
                "groups": int(self.seen[question]),
                "chance_of_mixed": round(float(chances[question]), 4),
                "ever_mixed": bool(self.mixed[question] > 0),
                "last_mean_reward": None if np.isnan(self.rewards[question]) else float(self.rewards[question]),
            }
            for question in range(len(self.seen))
        ]

    def state(self) -> dict[str, Tensor]:
        """Return the counts, to store them in a checkpoint."""
        return {name: torch.from_numpy(values.copy()) for name, values in vars(self).items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the counts from `state`, the result of the method `state`."""
        for name, values in state.items():
            setattr(self, name, values.numpy().copy())


def draw_questions(
    chances: NDArray[np.float64], number: int, *, floor: float, seed: int, generation: int
) -> NDArray[np.int64]:
    """Draw different questions, each with a probability proportional to its chance plus `floor`.

    Args:
        chances: `(N,)`, from `MixedCounts.chances`.
        number: P, at most N.
        floor: added to every chance.
        seed: seed of the run.
        generation: number of the generation.

    Returns:
        `(P,)`: the questions in random order.
    """
    rng = np.random.default_rng([seed, generation, _STREAM])
    order = rng.permutation(len(chances))
    probabilities = inclusion_probabilities(chances[None, order] + floor, number)
    drawn = order[systematic_draw(probabilities, rng.random((1, 1)), number)[0]]
    return rng.permutation(drawn)


class QuestionChoosing(BufferResumingTrainer):
    """A `GRPOTrainer` that chooses the questions of a generation, if `question_selection` is `mixed`."""

    args: SubsetGRPOConfig
    model: Any
    num_generations: int
    train_dataset: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._question_counts: MixedCounts | None = None
        if self.args.question_selection == "all":
            return
        if not isinstance(self.train_dataset, Dataset):
            raise InputError(
                f"question_selection is 'mixed', which needs a dataset with numbered rows, not "
                f"{type(self.train_dataset).__name__}: load it without streaming, or use question_selection: all"
            )
        groups = int(self.args.generation_batch_size or 0) // self.num_generations
        if groups > len(self.train_dataset):
            raise InputError(
                f"question_selection is 'mixed', and a generation has {groups} questions, but the dataset only "
                f"{len(self.train_dataset)}: use more questions or a smaller generation_batch_size"
            )
        numbers = list(range(len(self.train_dataset)))
        self.train_dataset = self.train_dataset.add_column(QUESTION, numbers)
        self._question_counts = MixedCounts(len(numbers))

    @property
    def question_table(self) -> list[dict[str, object]] | None:
        """The counts of every question, from `MixedCounts.table`; None if questions are not chosen."""
        return None if self._question_counts is None else self._question_counts.table()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        if self._question_counts is not None and self.model.training:
            # in place, because our trainer has kept the list to calculate rewards early
            inputs[:] = self._chosen_rows(inputs, self._question_counts)
        batch: Batch = super()._generate_and_score_completions(inputs)
        return batch

    def _chosen_rows(self, inputs: list[dict[str, Any]], counts: MixedCounts) -> list[dict[str, Any]]:
        """Return the rows of this process, each question G times, as TRL's sampler repeats them."""
        group, rows = self.num_generations, len(inputs)
        num_groups = rows * self.accelerator.num_processes // group
        generation = self._step // (int(self.args.steps_per_generation or 1) * self.num_iterations)
        # RaML: on the first pass over the data, every question comes once, in the order of TRL's sampler.
        if (generation + 1) * num_groups <= len(counts.seen):
            return inputs
        questions = draw_questions(
            counts.chances(), num_groups, floor=self.args.question_floor, seed=self.args.seed, generation=generation
        )
        first = self.accelerator.process_index * rows
        return [dict(self.train_dataset[int(questions[(first + row) // group])]) for row in range(rows)]

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any, **named: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, *args, **named)
        if self._question_counts is not None and self.model.training:
            local = torch.tensor([row[QUESTION] for row in inputs], device=self.accelerator.device)
            questions = self.accelerator.gather(local).view(-1, self.num_generations)[:, 0]
            weighted = rewards * self.reward_weights.to(rewards.device)
            totals = weighted.nansum(dim=1).masked_fill(rewards.isnan().all(dim=1), torch.nan)
            self._question_counts.add(
                questions.cpu().numpy(), totals.view(-1, self.num_generations).double().cpu().numpy()
            )
        return rewards

    def _progress(self) -> Progress:
        counts = self._question_counts
        return super()._progress() | ({} if counts is None else {"questions": counts.state()})

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        if self._question_counts is not None and "questions" in progress:
            self._question_counts.restore(progress["questions"])
