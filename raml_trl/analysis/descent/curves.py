"""The answer's negative log-likelihood along trajectories: descent before the answer is stated, means with bands.

A curve is L(t) for the prefix lengths t = 0 to T of a trajectory (`likelihood`), in nats. Once the answer stands in the
text it can be copied, and L falls whatever was thought: so descent is measured before that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import bootstrap_interval

Floats = NDArray[np.float64]
Mode = Literal["thinking", "no_thinking"]
Axis = Literal["tokens", "share"]

SHARES = np.linspace(0, 1, 101)
"""Places along the thinking, as shares of its length."""
BAND = (0.1, 0.9)
"""Quantiles over trajectories."""


@dataclass(frozen=True)
class Curve:
    """L along one trajectory, `nll` `(T + 1,)`, and the prefix lengths at which something happens in it.

    Thinking takes the tokens from `start` to `end`; `stated` is the first prefix that holds the answer, or None;
    `sentences` are those prefixes of the thinking that end with a sentence.
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
        """L from the first prefix of the thinking to the last, one value at least."""
        return self.nll[self.start : self.end + 1]

    @property
    def last(self) -> int:
        """The last prefix of the thinking in which the answer does not yet stand."""
        return self.end if self.stated is None else min(self.end, self.stated - 1)

    @property
    def unstated(self) -> Floats:
        """`thinking`, as far as the answer does not yet stand in the text."""
        return self.nll[self.start : self.last + 1]

    @property
    def unstated_sentences(self) -> Floats:
        """`unstated` at its beginning and after each of its sentences: inside one, nobody would be asked."""
        return self.nll[[self.start, *(t for t in self.sentences if self.start < t <= self.last)]]


@dataclass(frozen=True)
class Descent:
    """How L falls over a stretch of a curve; what is less than 0 of `slope` and `change` is a fall.

    `slope` is that of the least-squares line, in nats over the whole stretch; `change` is L at its end less L at its
    beginning; `area` is the mean of L over it less L at its beginning.
    """

    slope: float
    change: float
    area: float


def descent(values: Floats) -> Descent | None:
    """The descent over a stretch `(N,)`; None if it has less than two places."""
    if len(values) < 2:
        return None
    x = np.linspace(-0.5, 0.5, len(values))
    slope = float(x @ values / (x @ x))
    return Descent(slope, float(values[-1] - values[0]), float(values.mean() - values[0]))


def summarise_descent(
    curves: Sequence[Curve], rng: np.random.Generator, *, by_sentence: bool = False
) -> list[dict[str, Any]]:
    """Descent before the answer is stated, for each mode, of right and wrong trajectories; after tokens or sentences.

    Every value is a mean over questions, each that of its trajectories, with a 95 % interval over questions: `slope`,
    `change` and `area` as `Descent` has them, and `share`, of trajectories whose slope falls. `left_out` counts those
    that state the answer before there is anything to measure.
    """
    rows = []
    for mode, correct, group in _groups(curves):
        stretches = [(one.question_id, one.unstated_sentences if by_sentence else one.unstated) for one in group]
        found = [(question, one) for question, values in stretches if (one := descent(values)) is not None]
        row: dict[str, Any] = {"mode": mode, "correct": correct, "trajectories": len(found)}
        row |= {"left_out": len(group) - len(found), "questions": len({question for question, _ in found})}
        for name in ("slope", "change", "area", "share") if found else ():
            value = {question: [] for question, _ in found}  # type: dict[str, list[float]]
            for question, one in found:
                value[question].append(float(one.slope < 0) if name == "share" else getattr(one, name))
            row[name] = _mean_interval([float(np.mean(ones)) for ones in value.values()], rng)
        rows.append(row)
    return rows


def summarise_modes(curves: Sequence[Curve], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """For each mode: `accuracy`, `tokens` of a trajectory, and `first` and `final` L of its thinking.

    Means over questions, each that of its trajectories, with 95 % intervals over questions.
    """
    summary: dict[str, dict[str, Any]] = {}
    for mode in sorted({curve.mode for curve in curves}):
        values: dict[str, list[list[float]]] = {}
        for curve in curves:
            if curve.mode == mode:
                first, final = curve.thinking[0], curve.thinking[-1]
                row = [float(curve.correct), float(len(curve.nll) - 1), float(first), float(final)]
                values.setdefault(curve.question_id, []).append(row)
        means = np.array([np.mean(rows, axis=0) for rows in values.values()])
        summary[mode] = {"questions": len(values), "trajectories": sum(map(len, values.values()))}
        for name, column in zip(("accuracy", "tokens", "first", "final"), means.T, strict=True):
            summary[mode][name] = _mean_interval(column.tolist(), rng)
    return summary


def bands(curves: Sequence[Curve], axis: Axis) -> list[dict[str, Any]]:
    """Mean and the quantiles `BAND` of L over trajectories, along their thinking, by mode and right or wrong.

    Over tokens, each place has the trajectories that reach it, `count` of them; over shares of the length of the
    thinking, it has all, read off between two tokens.
    """
    rows = []
    for mode, correct, group in _groups(curves):
        if axis == "share":
            x = SHARES
            columns = list(
                np.array([np.interp(x, np.linspace(0, 1, len(one.thinking)), one.thinking) for one in group]).T
            )
        else:
            x = np.arange(max(len(one.thinking) for one in group), dtype=np.float64)
            columns = [
                np.array([one.thinking[place] for one in group if place < len(one.thinking)]) for place in range(len(x))
            ]
        low, high = np.array([np.quantile(column, BAND) for column in columns]).T
        rows.append(
            {"mode": mode, "correct": correct, "axis": axis, "x": x.tolist()}
            | {"mean": [float(column.mean()) for column in columns], "low": low.tolist(), "high": high.tolist()}
            | {"count": [len(column) for column in columns]}
        )
    return rows


def _mean_interval(values: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    low, high = bootstrap_interval(values, rng)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def _groups(curves: Iterable[Curve]) -> list[tuple[Mode, bool, list[Curve]]]:
    """Curves by mode and right or wrong, in an order of their own."""
    groups: dict[tuple[Mode, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.mode, curve.correct), []).append(curve)
    return [(*key, groups[key]) for key in sorted(groups, key=lambda key: (key[0] != "thinking", not key[1]))]
