"""Curves of the loss of the answer along trajectories, how far the curves descend, and averages over trajectories.

A curve is L(t) for the prefix lengths t = 0 to T, where T is the number of tokens in the trajectory. L(t) is the loss
of the reference answer after the first t tokens: the mean of -log p over the tokens of the answer, in nats. Descent is
the fall of L along the thinking. Once the text states (contains) the answer, the model can copy the answer and L falls
whatever the reasoning was. Descent is therefore measured only up to that place.

The mode of a trajectory says whether it was sampled with thinking or without.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import MeanInterval, mean_interval

Floats = NDArray[np.float64]
Mode = Literal["thinking", "no_thinking"]
Axis = Literal["tokens", "share"]

SHARES = np.linspace(0, 1, 101)
"""Positions along the thinking at which curves are averaged, as fractions of the length of the thinking."""
BAND = (0.1, 0.9)
"""Lower and upper edge of a band around a mean curve, as quantiles over trajectories."""


@dataclass(frozen=True)
class Curve:
    """The loss L of the answer along one trajectory, and the places where parts of the trajectory start and end.

    `number` is the index of the trajectory within its question, from 0. `nll` `(T + 1,)` holds L(t) for t = 0 to T: the
    mean of -log p over the tokens of the answer, in nats, after the first t of the T tokens of the trajectory. The
    places are values of t: the thinking starts at `start` and ends at `end`, the answer is first stated at `stated`
    (None if it never is), and the sentences of the thinking end at `sentences`.
    """

    question_id: str
    number: int
    correct: bool
    mode: Mode
    nll: Floats
    start: int
    end: int
    stated: int | None
    sentences: tuple[int, ...] = ()

    @property
    def thinking(self) -> Floats:
        """L(t) from the start to the end of the thinking, both included, so at least one value."""
        return self.nll[self.start : self.end + 1]

    @property
    def last(self) -> int:
        """The greatest prefix length t, in tokens, up to the end of the thinking, at which the answer is not stated.

        It is less than `start` if the answer is stated before the thinking.
        """
        return self.end if self.stated is None else min(self.end, self.stated - 1)

    @property
    def unstated(self) -> Floats:
        """L(t) within the thinking before the answer is stated; empty if the answer is stated before the thinking."""
        return self.nll[self.start : self.last + 1]

    @property
    def unstated_sentences(self) -> Floats:
        """L(t) at the start of the thinking and after each of its sentences before the answer is stated.

        Sentence ends are used because trajectories tend to reach intermediate results there. The sentence that states
        the answer is left out.
        """
        return self.nll[[self.start, *(t for t in self.sentences if self.start < t <= self.last)]]


@dataclass(frozen=True)
class Descent:
    """How the loss L changes over a stretch of a curve, in nats. `slope` and `change` are negative if L falls.

    - `slope`: by how much the least-squares line rises from the start to the end of the stretch.
    - `change`: L at the end minus L at the start.
    - `area`: the mean of L over the stretch minus L at the start. It is negative if L is on average below its start.
    """

    slope: float
    change: float
    area: float


@dataclass(frozen=True)
class GroupDescent:
    """Mean descent of a group: the right or the wrong trajectories of one mode (with or without thinking).

    - `trajectories`: the number of trajectories in which descent was measured.
    - `questions`: the number of questions that these trajectories belong to.
    - `left_out`: the number of the other trajectories of the group. They have no descent, because they have fewer than
      two values of L before the answer is stated.
    - `slope`, `change`, `area`: means of the fields of `Descent` with these names.
    - `share`: the share of trajectories with a negative slope.

    `slope`, `change`, `area` and `share` are averaged over the trajectories of each question, then over questions. They
    are None if every trajectory of the group was left out.
    """

    mode: Mode
    correct: bool
    trajectories: int
    left_out: int
    questions: int
    slope: MeanInterval | None = None
    change: MeanInterval | None = None
    area: MeanInterval | None = None
    share: MeanInterval | None = None


@dataclass(frozen=True)
class ModeSummary:
    """Averages for a mode (with or without thinking): over the trajectories of each question, then over questions.

    `accuracy` is the share of right trajectories, and `tokens` the mean number of tokens in a trajectory. `first` and
    `final` are the means of the loss L at the start and at the end of the thinking.
    """

    questions: int
    trajectories: int
    accuracy: MeanInterval
    tokens: MeanInterval
    first: MeanInterval
    final: MeanInterval


@dataclass(frozen=True)
class Band:
    """Mean and quantiles of the loss L along the thinking, for the right or the wrong trajectories of one mode.

    `x` lists positions along the thinking. `axis` says whether they are numbers of tokens from its start or fractions
    of its length. For each position, `mean` is the mean of L over `count` trajectories, and `low` and `high` are the
    10 % and the 90 % quantile of L over the same trajectories.
    """

    mode: Mode
    correct: bool
    axis: Axis
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    count: list[int]


def descent(values: Floats) -> Descent | None:
    """Return how the loss L changes over a stretch of a curve, or None if there are fewer than two values.

    `values` `(N,)` holds L along the stretch. `Descent` explains the numbers of the result.
    """
    if len(values) < 2:
        return None
    x = np.linspace(-0.5, 0.5, len(values))
    slope = float(x @ values / (x @ x))
    return Descent(slope, float(values[-1] - values[0]), float(values.mean() - values[0]))


def summarise_descent(
    curves: Sequence[Curve], rng: np.random.Generator, *, by_sentence: bool = False
) -> list[GroupDescent]:
    """Return the mean descent before the answer is stated: one `GroupDescent` for each group of trajectories.

    A group is the right or the wrong trajectories, with or without thinking. Descent is measured on the loss L after
    every token, or after every sentence if `by_sentence` is set. Each value is averaged over the trajectories of a
    question, then over questions. `rng` draws the resamples for the bootstrap intervals.
    """
    rows = []
    for mode, correct, group in _groups(curves):
        stretches = [
            (curve.question_id, descent(curve.unstated_sentences if by_sentence else curve.unstated)) for curve in group
        ]
        by_question: dict[str, list[Descent]] = {}
        for question, stretch in stretches:
            if stretch is not None:
                by_question.setdefault(question, []).append(stretch)
        measured = sum(map(len, by_question.values()))
        row = GroupDescent(mode, correct, measured, len(group) - measured, len(by_question))
        if by_question:  # the means share one random generator, so their order affects the intervals
            row = replace(
                row,
                slope=_mean_over_questions(by_question, lambda own: own.slope, rng),
                change=_mean_over_questions(by_question, lambda own: own.change, rng),
                area=_mean_over_questions(by_question, lambda own: own.area, rng),
                share=_mean_over_questions(by_question, lambda own: float(own.slope < 0), rng),
            )
        rows.append(row)
    return rows


def summarise_modes(curves: Sequence[Curve], rng: np.random.Generator) -> dict[str, ModeSummary]:
    """Summarise the trajectories of each mode (with and without thinking), and return the summaries by mode.

    Each value is averaged over the trajectories of a question, then over questions. `rng` draws the resamples for the
    bootstrap intervals.
    """
    summary: dict[str, ModeSummary] = {}
    for mode in sorted({curve.mode for curve in curves}):
        values: dict[str, list[list[float]]] = {}
        for curve in curves:
            if curve.mode == mode:
                row = [float(curve.correct), float(len(curve.nll) - 1), *map(float, curve.thinking[[0, -1]])]
                values.setdefault(curve.question_id, []).append(row)
        means = np.array([np.mean(rows, axis=0) for rows in values.values()])
        accuracy, tokens, first, final = (mean_interval(column.tolist(), rng) for column in means.T)
        trajectories = sum(map(len, values.values()))
        summary[mode] = ModeSummary(len(values), trajectories, accuracy, tokens, first, final)
    return summary


def bands(curves: Sequence[Curve], axis: Axis) -> list[Band]:
    """Return mean and quantiles of the loss L at positions along the thinking: one `Band` for each group.

    A group is the right or the wrong trajectories, with or without thinking. With `axis` "tokens", a position is a
    number of tokens from the start of the thinking, and only trajectories with at least that many thinking tokens
    contribute. With `axis` "share", a position is a fraction of the thinking, all trajectories of the group contribute,
    and L is interpolated between neighbouring tokens.
    """
    rows = []
    for mode, correct, group in _groups(curves):
        if axis == "share":
            x = SHARES
            columns = list(
                np.array([np.interp(x, np.linspace(0, 1, len(curve.thinking)), curve.thinking) for curve in group]).T
            )
        else:
            x = np.arange(max(len(curve.thinking) for curve in group), dtype=np.float64)
            columns = [
                np.array([curve.thinking[place] for curve in group if place < len(curve.thinking)])
                for place in range(len(x))
            ]
        low, high = np.array([np.quantile(column, BAND) for column in columns]).T
        mean = [float(column.mean()) for column in columns]
        counts = [len(column) for column in columns]
        rows.append(Band(mode, correct, axis, x.tolist(), mean, low.tolist(), high.tolist(), counts))
    return rows


def _mean_over_questions(
    by_question: Mapping[str, Sequence[Descent]], value: Callable[[Descent], float], rng: np.random.Generator
) -> MeanInterval:
    return mean_interval([float(np.mean([value(row) for row in rows])) for rows in by_question.values()], rng)


def _groups(curves: Iterable[Curve]) -> list[tuple[Mode, bool, list[Curve]]]:
    """Split curves into right and wrong trajectories of each mode: thinking comes first, and right before wrong."""
    groups: dict[tuple[Mode, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.mode, curve.correct), []).append(curve)
    return [(*key, groups[key]) for key in sorted(groups, key=lambda key: (key[0] != "thinking", not key[1]))]
