"""Chooses the questions of a generation: more often those whose groups are likely to be mixed.

A group is mixed if its rewards differ. Only mixed groups have advantages other than 0, so rollouts for other groups are
generated in vain. For every question the number of mixed groups is counted, where older groups count less: with each
new group of the question, earlier counts are multiplied by `FORGETTING`. The estimated chance of a mixed group is the
mean of the Beta posterior with a uniform prior. A question is drawn with a probability proportional to its chance plus
a floor, so that no question is given up. With `question_weights`, a question that was drawn with probability p gets the
weight P / (N p), where P of N questions are drawn for a generation. Because p depends only on earlier generations, the
expected gradient is that of all questions.

The draw is systematic (see `inclusion`), without replacement, and keyed by the seed and the number of the generation.
So it is the same for any number of processes, and after a resume. The first pass over the data keeps the order of TRL.

`refill` draws other questions in the place of groups that were not mixed: by their chances if `question_selection` is
`mixed`, otherwise with equal probabilities.

Shapes: N questions in the dataset; P groups of G rollouts in a generation, over all processes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from raml_trl.grpo.advantages import is_mixed, total_rewards
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.generation import Generation
from raml_trl.grpo.inclusion import inclusion_probabilities, systematic_draw
from raml_trl.grpo.refill import Refiller, Rollouts, groups_to_generate
from raml_trl.grpo.resuming import BufferResumingTrainer
from raml_trl.grpo.rows import Batch
from raml_trl.runtime.errors import InputError
from raml_trl.training.completeness import Progress

QUESTION = "raml/question"
"""The column that we add to the dataset: the number of the question, from 0."""
FORGETTING = 0.99
_STREAM = 2  # separates these draws from others with the same seed and step


class MixedCounts:
    """Counts, for each of N questions, how often its groups were mixed, that is, had rewards that differ.

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
        """Return for each of N questions, as `(N,)`, the estimated chance that its next group is mixed."""
        chances: NDArray[np.float64] = (self.mixed + 1) / (self.groups + 2)
        return chances

    def add(self, questions: NDArray[np.int64], rewards: NDArray[np.floating]) -> None:
        """Count the groups of a generation.

        Args:
            questions: `(P,)`: the number of the question of each of P groups.
            rewards: `(P, G)`: the rewards of the G rollouts of each group; NaN for a rollout without a reward.
        """
        mixed = is_mixed(torch.from_numpy(rewards)).numpy()
        for question, group, is_group_mixed in zip(questions, rewards, mixed, strict=True):
            self.groups[question] = FORGETTING * self.groups[question] + 1
            self.mixed[question] = FORGETTING * self.mixed[question] + is_group_mixed
            self.seen[question] += 1
            self.rewards[question] = np.nan if np.isnan(group).all() else np.nanmean(group)

    def table(self) -> list[dict[str, object]]:
        """Return a row per question.

        It has the number of the question, its number of groups, the chance that its next group is mixed, whether any
        group was mixed, and the mean reward of the last group.
        """
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
    chances: NDArray[np.float64], number: int, *, floor: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw P of N questions, none of them twice.

    The probability of a question is proportional to its chance plus `floor`, and is capped at 1.

    Args:
        chances: `(N,)`: the chance that the next group of each question is mixed, from `MixedCounts.chances`.
        number: P, at most N.
        floor: added to every chance.
        rng: generator for the random numbers of the systematic draw, and for the order of the result.

    Returns:
        `(P,)`: the numbers of the questions, in random order; `(P,)`: the probability of each of them.
    """
    order = rng.permutation(len(chances))
    [probabilities] = inclusion_probabilities(chances[None, order] + floor, number)
    [drawn] = systematic_draw(probabilities[None], rng.random((1, 1)), number)
    shuffled = rng.permutation(np.flatnonzero(drawn))
    return order[shuffled], probabilities[shuffled]


class QuestionChoosing(BufferResumingTrainer):
    """A `GRPOTrainer` that chooses the questions of a generation, if `question_selection` or `refill` ask for it."""

    args: SubsetGRPOConfig
    model: Any
    num_generations: int
    train_dataset: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._question_counts: MixedCounts | None = None
        self._earlier_generations = 0  # of sessions whose micro-batches `_step` does not count
        self._question_weights: NDArray[np.float64] | None = None
        """`(P,)`: the weights of the questions of this generation; None for 1."""
        chosen = self.args.question_selection != "all"
        if not chosen and not self.args.refill:
            return
        setting = (
            f"question_selection is {self.args.question_selection!r}" if chosen else f"refill is {self.args.refill}"
        )
        if not isinstance(self.train_dataset, Dataset):
            raise InputError(
                f"{setting}, which needs a dataset with numbered rows, not {type(self.train_dataset).__name__}: load "
                f"it without streaming, or use {'question_selection: all' if chosen else 'refill: 0'}"
            )
        if self.args.remove_unused_columns:
            raise InputError(
                f"{setting}, which needs a column with the number of the question, but remove_unused_columns is true: "
                "use remove_unused_columns: false"
            )
        groups = int(self.args.generation_batch_size or 0) // self.num_generations
        if groups > len(self.train_dataset):
            raise InputError(
                f"{setting}, and a generation has {groups} questions, but the dataset only {len(self.train_dataset)}: "
                "use more questions or a smaller generation_batch_size"
            )
        if self.args.refill:
            self._check_refill(groups)
        numbers = list(range(len(self.train_dataset)))
        self.train_dataset = self.train_dataset.add_column(QUESTION, numbers)
        self._question_counts = MixedCounts(len(numbers))

    @property
    def question_table(self) -> list[dict[str, object]] | None:
        """The result of `MixedCounts.table`; None if `question_selection` is `all` and `refill` is 0."""
        return None if self._question_counts is None else self._question_counts.table()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        if self._question_counts is not None and self.args.question_selection == "mixed" and self.model.training:
            # in place, because our trainer has kept the list to calculate rewards early
            inputs[:] = self._chosen_rows(inputs, self._question_counts)
        batch: Batch = super()._generate_and_score_completions(inputs)
        return batch

    def _chosen_rows(self, inputs: list[dict[str, Any]], counts: MixedCounts) -> list[dict[str, Any]]:
        """Return the rows of this process, each question G times, as TRL's sampler repeats them."""
        group, rows = self.num_generations, len(inputs)
        num_groups = rows * self.accelerator.num_processes // group
        self._question_weights = None
        # RaML: on the first pass over the data, every question comes once, in the order of TRL's sampler.
        if (self._generation + 1) * num_groups <= len(counts.seen):
            return inputs
        questions, chances = draw_questions(
            counts.chances(), num_groups, floor=self.args.question_floor, rng=self._keyed_rng()
        )
        if self.args.question_weights:
            self._question_weights = num_groups / (len(counts.seen) * chances)
        first = self.accelerator.process_index * rows
        return [dict(self.train_dataset[int(questions[(first + row) // group])]) for row in range(rows)]

    def _keyed_rng(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.args.seed, self._generation, *more, _STREAM])

    @property
    def _generation(self) -> int:
        """The number of the generation that is being made, from 0."""
        return self._earlier_generations + self._step // self._steps_of_generation

    @property
    def _steps_of_generation(self) -> int:
        """The number of micro-batches that train on one generation."""
        return int(self.args.steps_per_generation or 1) * self.num_iterations

    def _check_refill(self, groups: int) -> None:
        largest = 2 * groups_to_generate(groups, self.num_generations, self.accelerator.num_processes)
        if largest > len(self.train_dataset):
            raise InputError(
                f"refill is {self.args.refill}, which draws other questions for up to {groups} groups and needs "
                f"{largest} questions, but the dataset has {len(self.train_dataset)}: use more questions, a smaller "
                "generation_batch_size, or refill: 0"
            )
        images = {"image", "images"} & set(self.train_dataset.column_names)
        if self.tools or self.environment_factories is not None or images:
            raise InputError(
                f"refill is {self.args.refill}, but rollouts with tools, environments or images are not replaced: use "
                "refill: 0"
            )

    def _refill(
        self,
        generation: Generation,
        generate: Callable[[list[Any]], Rollouts],
        prompts: list[Any],
        generated: Rollouts,
    ) -> Rollouts:
        """Replace groups without a signal; see `refill.Refiller`."""

        def other_rows(number: int, round_: int) -> list[dict[str, Any]]:
            taken = self.accelerator.gather(self._questions(generation.inputs)).unique().cpu().numpy()
            others = np.setdiff1d(np.arange(len(self._question_counts.seen)), taken)
            mixed = self.args.question_selection == "mixed"
            chances = self._question_counts.chances()[others] if mixed else np.ones(len(others))
            drawn, _ = draw_questions(chances, number, floor=self.args.question_floor, rng=self._keyed_rng(round_))
            return [dict(self.train_dataset[int(question)]) for question in others[drawn]]

        def total(rewards: Tensor) -> Tensor:
            rewards = rewards.view(-1, self.num_generations, rewards.size(-1))
            return total_rewards(rewards, self.reward_weights.to(rewards.device))

        refiller = Refiller(
            self.accelerator,
            self.num_generations,
            generate,
            self._calculate_rewards,
            total,
            other_rows,
            self._pending_extra_logs,
            (self._metrics["train"], self._pending_metrics),
        )
        return refiller.refill(generation, prompts, generated, rounds=self.args.refill)

    def _questions(self, inputs: list[dict[str, Any]]) -> Tensor:
        return torch.tensor([row[QUESTION] for row in inputs], device=self.accelerator.device)

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any, **named: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, *args, **named)
        if self._question_counts is not None and self.model.training:
            questions = self.accelerator.gather(self._questions(inputs)).view(-1, self.num_generations)[:, 0]
            per_func = rewards.view(-1, self.num_generations, rewards.size(-1))
            totals = total_rewards(per_func, self.reward_weights.to(rewards.device))
            self._question_counts.add(questions.cpu().numpy(), totals.double().cpu().numpy())
        return rewards

    def _progress(self) -> Progress:
        counts, started = self._question_counts, -(-self._step // self._steps_of_generation)
        generations = {"earlier": self._earlier_generations, "all": self._earlier_generations + started}
        chosen = {} if counts is None else {"questions": counts.state(), "generations": generations}
        return super()._progress() | chosen

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        if "generations" in progress and not self.args.ignore_data_skip:  # `_step` counts the others
            self._earlier_generations = progress["generations"]["earlier"]

    def _restore_totals(self, progress: Progress) -> None:
        super()._restore_totals(progress)
        if self._question_counts is not None and "questions" in progress:
            self._question_counts.restore(progress["questions"])
            self._earlier_generations = progress["generations"]["all"]
