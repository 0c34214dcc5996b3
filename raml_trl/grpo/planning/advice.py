"""Compares ways to save time: how long each takes to reach the same signal-to-noise ratio of the gradient.

An update on fewer rollouts or tokens is faster, but noisier. What counts is the time until the mean of several
gradients is as accurate as with all G rollouts. It is proportional to (noise / signal^2) x seconds of a step, where the
noise is the variance of the gradient of a step, and the signal the size of its mean. The options compared here keep the
expected gradient. The exception is `question_selection: mixed`: it avoids groups without a signal, so the signal of its
gradient is larger. Assumptions, stated with the result: the gradients of different rollouts and tokens are uncorrelated
and small compared with their noise; a rollout with advantage A and L tokens has a gradient of size |A| sqrt(L),
divided by L if the loss is a mean over the row; and every token takes the same time.

With these assumptions, cutting completions at random (`token_selection: prefix`) never saves time: if a share q of the
completions is kept whole and the others end at a random place, the noise is multiplied by ln(1/q) / (1 - q). The
seconds are multiplied by (1 + q) / 2, the share of tokens that remain. The product is never below 1. The cut saves
memory.

Shapes: N groups of G rollouts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo.inclusion import inclusion_probabilities
from raml_trl.grpo.planning.step_cost import Split
from raml_trl.grpo.selection import FLOOR, cost_factors

WORTHWHILE = 0.95
"""Largest `Option.time` that is recommended: an option must save at least 5 % of the time."""


@dataclass(frozen=True)
class Groups:
    """Properties of N groups of G rollouts that a run has logged. They determine the noise of the gradient.

    `advantages` `(N, G)`; `lengths` `(N, G)`: completion tokens; `prompt`: number of tokens of every prompt;
    `mean_of_row`: whether the loss is a mean over the tokens of each row.
    """

    advantages: NDArray[np.float64]
    lengths: NDArray[np.int64]
    prompt: int
    mean_of_row: bool

    @property
    def sizes(self) -> NDArray[np.float64]:
        """The norms `(N, G)` of the gradients of the rollouts, up to a common factor."""
        return np.abs(self.advantages) * self.lengths ** (-0.5 if self.mean_of_row else 0.5)

    @property
    def live(self) -> NDArray[np.bool_]:
        """Mask `(N,)`: true for groups that have a gradient."""
        return np.asarray(self.advantages.any(axis=1))


@dataclass(frozen=True)
class Option:
    """A way to save time.

    `settings`: its settings by name. `seconds`: time of a step. `noise`: variance of the gradient of a step, divided by
    the square of its mean. `time`: time until the mean of several gradients has a given signal-to-noise ratio; it is
    `seconds * noise`. The three numbers are relative to an update on all G rollouts that shares prompts and skips
    rollouts without a gradient: for this update, each of them is 1.
    """

    settings: dict[str, object]
    seconds: float
    noise: float
    time: float

    @property
    def name(self) -> str:
        """The settings as text, as in a recipe."""
        return ", ".join(f"{name}: {value}" for name, value in self.settings.items())


def compare_options(groups: Groups, split: Split, groups_per_step: float, *, keep: float, minimum: int) -> list[Option]:
    """Compare the ways to save time, and return them with the smallest `Option.time` first.

    Args:
        groups: groups that a run has logged.
        split: seconds of a step: constant parts, and seconds per token position of the update.
        groups_per_step: number of groups that one process trains on in a step.
        keep: the setting `prefix_keep`, the probability that `token_selection: prefix` keeps a whole completion.
        minimum: the setting `prefix_minimum`, the tokens of a completion that `token_selection: prefix` always keeps.
    """
    fixed = split.generating + split.selecting + split.updating
    of_live = split.updating_per_cell * groups_per_step * float(groups.live.mean())

    def seconds(tokens_of_group: float) -> float:
        return fixed + of_live * tokens_of_group

    everything = np.ones_like(groups.sizes)
    whole_noise, whole = _noise(groups, everything), seconds(_tokens(groups, everything))
    options = []
    for settings, probabilities in _selections(groups):
        noise = _noise(groups, probabilities) / whole_noise
        step = seconds(_tokens(groups, probabilities)) / whole
        options.append(Option(settings, step, noise, noise * step))
    beyond = float(np.maximum(groups.lengths - minimum, 0).sum() / groups.lengths.sum())
    if keep < 1:
        noise = 1 + beyond * (log(1 / keep) / (1 - keep) - 1)
        cut = beyond * (1 - keep) / 2 * float(groups.lengths[groups.live].sum(axis=1).mean())
        step = seconds(_tokens(groups, everything) - cut) / whole
        options.append(Option({"token_selection": "prefix"}, step, noise, noise * step))
    live = float(groups.live.mean())
    step = (fixed + of_live / live * _tokens(groups, everything)) / whole
    options.append(Option({"question_selection": "mixed"}, step, live, live * step))
    return sorted(options, key=lambda option: option.time)


def recommend(options: list[Option]) -> str:
    """Return a sentence that recommends the first option, or training on all G rollouts.

    `options` come from `compare_options`, so the first one has the smallest `Option.time`: the time to the same
    accuracy of the gradient, relative to training on all G rollouts. It is recommended if this time, rounded as
    it is shown, is at most 0.95; otherwise all G rollouts are recommended.
    """
    best = options[0]
    if round(best.time, 2) > WORTHWHILE:
        return (
            f"Recommended: all G rollouts. No option saves {1 - WORTHWHILE:.0%} or more of the time to the same "
            "accuracy of the gradient."
        )
    return f"Recommended: {best.name}, which takes {best.time:.2f} of the time to the same accuracy of the gradient."


def _selections(groups: Groups) -> Iterator[tuple[dict[str, object], NDArray[np.float64]]]:
    """Yield unbiased selections of rollouts, with the probabilities `(N, G)` of the rollouts."""
    num_rollouts = groups.sizes.shape[1]
    yield {"num_generations_update": num_rollouts}, np.ones_like(groups.sizes)
    magnitudes = np.abs(groups.advantages)
    magnitudes = np.maximum(magnitudes, FLOOR * magnitudes.mean(axis=1, keepdims=True))
    magnitudes[~groups.live] = 1
    prompts = np.full_like(groups.lengths, groups.prompt)
    for power in range((num_rollouts - 1).bit_length()):
        selected = 2**power
        settings: dict[str, object] = {"num_generations_update": selected}
        yield settings, np.full_like(groups.sizes, selected / num_rollouts)
        yield settings | {"selection": "importance"}, inclusion_probabilities(magnitudes, selected)
        factors = cost_factors(prompts, groups.lengths, selected, mean_of_row=groups.mean_of_row, shared=True)
        by_cost = inclusion_probabilities(magnitudes * factors, selected)
        yield settings | {"selection": "importance", "selection_cost": "tokens"}, by_cost


def _noise(groups: Groups, probabilities: NDArray[np.float64]) -> float:
    return float((groups.sizes**2 / probabilities).sum())


def _tokens(groups: Groups, probabilities: NDArray[np.float64]) -> float:
    """Return the mean tokens that a group with a gradient runs."""
    tokens = groups.prompt + (probabilities * groups.lengths).sum(axis=1)
    return float(tokens[groups.live].mean())
