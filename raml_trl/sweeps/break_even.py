"""Where a small share of selected rollouts is ahead in time of a larger one: how cheap generation must be for that.

A step of the arm that selects more of its rollouts costs 1, of which a share f is generation. One of the other costs
f x + (1 - f) y, where x is the ratio of their rollouts and y that of the rows they train on. The two are level where
that is the ratio of the steps that they need for the same value of the metric; as x > y, a smaller f favours the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from raml_trl.render.tables import markdown_table
from raml_trl.sweeps.claims import Arm, Comparison, arm_trials
from raml_trl.sweeps.learning_curves import Trial, mean_steps_to


@dataclass(frozen=True)
class BreakEven:
    """Of two arms, `fewer` selects the smaller share of its rollouts.

    `share` is the f below which `fewer` is ahead: 0 or less is nowhere, 1 or more everywhere. `low` and `high` are its
    extremes where one seed is left out. All of them, and `allowed`, are None where an arm is there before its first
    evaluation.
    """

    fewer: Arm
    more: Arm
    metric: str
    level: float
    """The lower one of the two values that the arms end with, means over seeds."""
    allowed: float | None
    """What a step of `fewer` may cost, one of `more` being 1."""
    measured: float
    """What it costs, by the medians over trials."""
    share: float | None
    low: float | None
    high: float | None


def break_evens(comparisons: Iterable[Comparison], sweeps: Mapping[str, Sequence[Trial]]) -> list[BreakEven]:
    """Of the comparisons in time whose arms generate, and select different shares: others know no such point.

    Raises:
        InputError: as `claims.arm_trials`.
    """
    return [break_even(one, sweeps) for one in comparisons if one.measure == "equal_seconds" and _turns(one, sweeps)]


def _turns(comparison: Comparison, sweeps: Mapping[str, Sequence[Trial]]) -> bool:
    arms = [list(arm_trials(arm, sweeps, comparison.metric).values()) for arm in (comparison.higher, comparison.lower)]
    return all(trials[0].step_rollouts for trials in arms) and len({*map(_selected_share, arms)}) > 1


def break_even(comparison: Comparison, sweeps: Mapping[str, Sequence[Trial]]) -> BreakEven:
    """Where the two arms of `comparison` are level, over the seeds that both have.

    Raises:
        InputError: as `claims.arm_trials`.
    """
    metric = comparison.metric
    arms = [(arm, arm_trials(arm, sweeps, metric)) for arm in (comparison.higher, comparison.lower)]
    (fewer, own), (more, others) = sorted(arms, key=lambda one: _selected_share(list(one[1].values())))
    seeds = sorted(own.keys() & others.keys())

    def measure(seeds: Sequence[int]) -> tuple[float, float | None, float | None]:
        return _share([own[seed] for seed in seeds], [others[seed] for seed in seeds], metric)

    level, allowed, share = measure(seeds)
    without = [measure([seed for seed in seeds if seed != left_out])[2] for left_out in seeds]
    known = [one for one in without if one is not None]
    costs = [median(one.step_seconds for one in trials.values()) for trials in (own, others)]
    whole = share is not None and len(known) == len(without)
    low, high = (min(known), max(known)) if whole else (None, None)
    return BreakEven(fewer, more, metric, level, allowed, costs[0] / costs[1], share, low, high)


def _selected_share(trials: Sequence[Trial]) -> float:
    return trials[0].step_rows / trials[0].step_rollouts


def _share(fewer: Sequence[Trial], more: Sequence[Trial], metric: str) -> tuple[float, float | None, float | None]:
    """The level that both reach, what a step of `fewer` may cost, and the share of generation where it costs that."""
    level = min(float(np.mean([trial.curve(metric)[-1] for trial in trials])) for trials in (fewer, more))
    needed, allowed_steps = (mean_steps_to(trials, metric, level) for trials in (fewer, more))
    if needed is None or allowed_steps is None:
        return level, None, None
    allowed = allowed_steps / needed
    x = fewer[0].step_rollouts / more[0].step_rollouts
    y = fewer[0].step_rows / more[0].step_rows
    return level, allowed, (allowed - y) / (x - y)


def break_even_table(found: Sequence[BreakEven]) -> str:
    """A line for each pair, as Markdown."""
    rows = [["fewer", "more", "level", "a step of fewer may cost", "costs here", "ahead where generation is less than"]]
    for one in found:
        allowed = "-" if one.allowed is None else f"{one.allowed:.2f}"
        level = f"{one.metric} {one.level:.3f}"
        rows.append([str(one.fewer), str(one.more), level, allowed, f"{one.measured:.2f}", _told(one)])
    return markdown_table(rows)


def _told(one: BreakEven) -> str:
    if one.share is None:
        return "not known: reached before the first evaluation"
    told = "nowhere" if one.share <= 0 else "everywhere" if one.share >= 1 else f"{one.share:.0%} of a step"
    return told if one.low is None or one.high is None else f"{told} ({one.low:.0%} to {one.high:.0%})"
