"""Curves of the answer's negative log-likelihood along trajectories: descent before the answer is stated, and means.

A curve is L(t) (see `likelihood`) for the prefix lengths t = 0 to T of a trajectory, in nats. Once the text states the
answer, the model can copy it and L falls whatever the reasoning was. Descent is therefore measured before that place.
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
"""Places along the thinking, as shares of its length."""
BAND = (0.1, 0.9)
"""Quantiles over trajectories between which a band is drawn."""


@dataclass(frozen=True)
class Curve:
    """L along one trajectory, `nll` `(T + 1,)`, and the prefix lengths at which something happens in it.

    The thinking takes the tokens from `start` to `end`. `stated` is the first prefix length whose text contains the
    answer, or None. `sentences` are the prefix lengths of the thinking at which a sentence ends.
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
        """L from the start to the end of the thinking, at least one value."""
        return self.nll[self.start : self.end + 1]

    @property
    def last(self) -> int:
        """The last prefix length of the thinking before the answer is stated."""
        return self.end if self.stated is None else min(self.end, self.stated - 1)

    @property
    def unstated(self) -> Floats:
        """The part of `thinking` before the answer is stated."""
        return self.nll[self.start : self.last + 1]

    @property
    def unstated_sentences(self) -> Floats:
        """`unstated` at its start and after each sentence, where a reader would expect an intermediate result."""
        return self.nll[[self.start, *(t for t in self.sentences if self.start < t <= self.last)]]


@dataclass(frozen=True)
class Descent:
    """How L changes over a stretch of a curve, in nats. Negative values of `slope` and `change` mean that L falls.

    `slope` is the slope of the least-squares line, taken over the length of the stretch. `change` is L at the end minus
    L at the start. `area` is the mean of L over the stretch minus L at the start.
    """

    slope: float
    change: float
    area: float


@dataclass(frozen=True)
class GroupDescent:
    """Mean `Descent` of a group of trajectories, and the share of trajectories with a falling slope.

    `left_out` counts the trajectories of the group that state the answer before descent can be measured. The means are
    None if that leaves no trajectory.
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
    """Means for a mode: `accuracy`, `tokens` of a trajectory, and L at the start (`first`) and end (`final`)."""

    questions: int
    trajectories: int
    accuracy: MeanInterval
    tokens: MeanInterval
    first: MeanInterval
    final: MeanInterval


@dataclass(frozen=True)
class Band:
    """Mean of L and the quantiles `BAND` at each place of `x`, over `count` trajectories of a group."""

    mode: Mode
    correct: bool
    axis: Axis
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    count: list[int]


def descent(values: Floats) -> Descent | None:
    """Measure descent over a stretch `(N,)`; None if it has fewer than two places."""
    if len(values) < 2:
        return None
    x = np.linspace(-0.5, 0.5, len(values))
    slope = float(x @ values / (x @ x))
    return Descent(slope, float(values[-1] - values[0]), float(values.mean() - values[0]))


def summarise_descent(
    curves: Sequence[Curve], rng: np.random.Generator, *, by_sentence: bool = False
) -> list[GroupDescent]:
    """Average descent before the answer is stated, by mode and by right or wrong trajectories.

    Descent is measured after every token, or after every sentence. Each value is averaged over the trajectories of a
    question, then over questions.
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
        if by_question:  # the order of the means fixes their random draws
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
    """Average each mode over the trajectories of a question, then over questions."""
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
    """Average L over trajectories along their thinking, by mode and by right or wrong.

    On the axis of tokens, each place counts the trajectories that are long enough. On the axis of shares of the
    thinking, each place counts all of them, interpolated between two tokens.
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
    """Group curves by mode and by right or wrong, with thinking first and right before wrong."""
    groups: dict[tuple[Mode, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.mode, curve.correct), []).append(curve)
    return [(*key, groups[key]) for key in sorted(groups, key=lambda key: (key[0] != "thinking", not key[1]))]
