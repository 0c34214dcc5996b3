"""Computes how cheap generation must be, so that training on a smaller share of the rollouts takes less time.

An arm is one setting of a sweep, run with several seeds. Of two arms, `more` selects the larger share m/G of its
rollouts and `fewer` the smaller share. Let a step of `more` cost 1: its generation costs f, its update 1 - f. A step of
`fewer` then costs f x + (1 - f) y. Here x is the number of rollouts that a step of `fewer` generates, divided by the
same number for `more`; y is the same ratio of the selected rows. To reach the same value of the metric, `more` needs s
times as many steps as `fewer`. Both arms therefore take the same time (they break even) if f x + (1 - f) y = s. Since
`fewer` selects the smaller share, x > y. So `fewer` is faster if f is smaller than the solution of this equation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raml_trl.render.tables import markdown_table
from raml_trl.sweeps.claims import Arm, ArmComparison, arm_trials
from raml_trl.sweeps.learning_curves import Trial, first_step_at, mean_curve


@dataclass(frozen=True)
class BreakEven:
    """How cheap generation must be, so that the arm that selects the smaller share of its rollouts is the faster one.

    `fewer` is this arm, and `more` is the other; an arm is one setting of a sweep. `level` is a value of `metric` that
    both arms reach. `fewer` is the faster one if generation takes less than `share` of a step's time, where the step is
    one of `more`. So `fewer` is never faster if `share` is 0 or less, and always faster if it is 1 or more.
    `share` is also computed with each seed left out in turn; `low` and `high` are the smallest and the largest of these
    values.

    `allowed` is the time of a step of `fewer`, relative to one of `more`, at which both arms are equally fast.
    `allowed` and `share` are None if an arm reaches the level already at its first evaluation, which leaves the number
    of steps unknown. `low` and `high` are None if this happens with all seeds together, or with any one of them left
    out.
    """

    fewer: Arm
    more: Arm
    metric: str
    level: float
    """The lower of the final values of the two arms, each a mean over seeds."""
    allowed: float | None
    """The cost of a step of `fewer` at which the arms break even; a step of `more` costs 1."""
    measured: float
    """The measured seconds of a step of `fewer`, divided by those of a step of `more`. Both are medians over trials."""
    share: float | None
    low: float | None
    high: float | None


def break_evens(comparisons: Iterable[ArmComparison], sweeps: Mapping[str, Sequence[Trial]]) -> list[BreakEven]:
    """Return a `BreakEven` for each of the `comparisons` that has the measure `equal_seconds`.

    A comparison is left out if its two arms (settings of a sweep) select the same share of their rollouts, or if one of
    them generates no rollouts (SFT). `sweeps` maps the name of each sweep to its trials.

    Raises:
        InputError: if an arm has no trial, or several trials for one seed.
    """
    return [
        break_even(comparison, sweeps)
        for comparison in comparisons
        if comparison.measure == "equal_seconds" and _shares_differ(comparison, sweeps)
    ]


def _shares_differ(comparison: ArmComparison, sweeps: Mapping[str, Sequence[Trial]]) -> bool:
    arms = [list(arm_trials(arm, sweeps, comparison.metric).values()) for arm in (comparison.higher, comparison.lower)]
    return all(trials[0].step_rollouts for trials in arms) and len({*map(_selected_share, arms)}) > 1


def break_even(comparison: ArmComparison, sweeps: Mapping[str, Sequence[Trial]]) -> BreakEven:
    """Return the `BreakEven` of the two arms (settings of a sweep) of `comparison`, from the seeds that both have.

    Raises:
        InputError: if an arm has no trial, or several trials for one seed.
    """
    metric = comparison.metric
    arms = [(arm, arm_trials(arm, sweeps, metric)) for arm in (comparison.higher, comparison.lower)]
    arms.sort(key=lambda arm: _selected_share(list(arm[1].values())))
    (fewer, fewer_trials), (more, more_trials) = arms
    seeds = sorted(fewer_trials.keys() & more_trials.keys())

    def share_of(seeds: Sequence[int]) -> tuple[float, float | None, float | None]:
        return _share([fewer_trials[seed] for seed in seeds], [more_trials[seed] for seed in seeds], metric)

    level, allowed, share = share_of(seeds)
    without = [share_of([seed for seed in seeds if seed != left_out])[2] for left_out in seeds]
    known = [value for value in without if value is not None]
    costs = [median(trial.step_seconds for trial in trials.values()) for trials in (fewer_trials, more_trials)]
    all_known = share is not None and len(known) == len(without)
    low, high = (min(known), max(known)) if all_known else (None, None)
    return BreakEven(fewer, more, metric, level, allowed, costs[0] / costs[1], share, low, high)


def _selected_share(trials: Sequence[Trial]) -> float:
    return trials[0].step_rows / trials[0].step_rollouts


def _share(fewer: Sequence[Trial], more: Sequence[Trial], metric: str) -> tuple[float, float | None, float | None]:
    """Return the level that both arms reach, the break-even cost of a step of `fewer`, and the break-even share."""
    curves = [mean_curve(trials, metric) for trials in (fewer, more)]
    level = min(curve[-1] for curve in curves)  # of the same curves, so that rounding cannot hide that they reach it
    needed, allowed_steps = (
        first_step_at(trials[0].steps, curve, level) for trials, curve in zip((fewer, more), curves, strict=True)
    )
    if needed is None or allowed_steps is None:
        return level, None, None
    allowed = allowed_steps / needed
    x = fewer[0].step_rollouts / more[0].step_rollouts
    y = fewer[0].step_rows / more[0].step_rows
    return level, allowed, (allowed - y) / (x - y)


def break_even_table(break_evens: Sequence[BreakEven]) -> str:
    """Format break-evens as a Markdown table, one row for each pair of settings."""
    rows = [
        [
            "smaller share",
            "larger share",
            "level",
            "break-even cost of a step",
            "measured cost",
            "faster if generation takes less than",
        ]
    ]
    for pair in break_evens:
        level = f"{pair.metric} {pair.level:.3f}"
        allowed = "-" if pair.allowed is None else f"{pair.allowed:.2f}"
        rows.append([str(pair.fewer), str(pair.more), level, allowed, f"{pair.measured:.2f}", _format_share(pair)])
    return markdown_table(rows)


def _format_share(pair: BreakEven) -> str:
    if pair.share is None:
        return "unknown: level reached before the first evaluation"
    text = "never" if pair.share <= 0 else "always" if pair.share >= 1 else f"{pair.share:.0%} of a step"
    return text if pair.low is None or pair.high is None else f"{text} ({pair.low:.0%} to {pair.high:.0%})"
