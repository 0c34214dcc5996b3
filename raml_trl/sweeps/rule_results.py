"""Compares ways to choose rollouts, tokens or questions (arms) at equal cost, in the runs of a file of rules.

There is one comparison for each of three costs: CPU time of the training process, generated tokens, and selected rows.
A world is a task with the model that training starts from (see `sweeps.rules`). The curve of a run has a point for each
evaluation: the score (Pass@1), and the costs so far. The budget is the smallest total cost of any run in the world. The
score of each run at the budget is interpolated linearly. Arms are then compared with the baseline, paired by seed.

Other work on the machine changes the CPU time of single runs, because processes share caches and cores. Therefore the
median CPU seconds per step of an arm in a world are used for all runs of this arm.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import Difference, holm, student_difference
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import bounded, escape_cell, markdown_table, p_value
from raml_trl.sweeps.rules import Correction, RuleRun, Rules

COSTS = {"process_seconds": "time", "tokens_generated": "generated tokens", "rows_selected": "selected rows"}
"""The costs at which arms are compared, and their names for readers. Time is CPU time of the process that trains."""

_LEVEL = 0.05


@dataclass(frozen=True)
class Point:
    """The Pass@1 of a run at one evaluation, and the costs of its training so far, without those of evaluations."""

    pass_at_1: float
    step: int = 0
    process_seconds: float = 0.0
    wall_seconds: float = 0.0
    rollouts: int = 0
    tokens_generated: int = 0
    rows_selected: int = 0
    rows_trained: int = 0
    tokens_trained: int = 0


@dataclass(frozen=True)
class RuleCurve:
    """A complete run and its points, the first of them before training."""

    run: RuleRun
    points: tuple[Point, ...]

    def spent(self, cost: str) -> float:
        """Return how much of `cost` the whole run took.

        `cost` is a key of `COSTS`: `process_seconds`, `tokens_generated` or `rows_selected`.
        """
        return float(vars(self.points[-1])[cost])

    def score_at(self, cost: str, budget: float) -> float:
        """Return the Pass@1 when the run has spent `budget` of `cost`, interpolated linearly between evaluations."""
        assert budget <= self.spent(cost) * (1 + 1e-9), (self.run.name, cost, budget)
        return float(np.interp(budget, [vars(p)[cost] for p in self.points], [p.pass_at_1 for p in self.points]))

    def with_step_seconds(self, seconds: float) -> "RuleCurve":
        """Return the curve with its CPU times rescaled, so that a step took `seconds` of CPU time on average."""
        factor = seconds / self.step_seconds
        points = (replace(point, process_seconds=factor * point.process_seconds) for point in self.points)
        return RuleCurve(self.run, tuple(points))

    @property
    def step_seconds(self) -> float:
        """The CPU seconds of a step, the mean over the run."""
        return self.points[-1].process_seconds / self.points[-1].step

    def as_json(self) -> dict[str, Any]:
        """Return the curve as it is stored: the fields of the run, and the points."""
        return {"run": self.run.as_json(), "points": [asdict(point) for point in self.points]}


@dataclass(frozen=True)
class ArmResult:
    """The result of an arm (a way to choose rollouts, tokens or questions) in a world (a start model and its data).

    `scores` has the Pass@1 of each seed at the point where the run has spent `budget` of `cost` (time, tokens or rows).
    The budget is the same for all arms of the world. `difference` is the difference from the baseline, paired by seed.
    `corrected` is its p-value, with Holm's correction over the arms of the world if the file of rules asks for it. Both
    are None for the baseline itself.
    """

    world: str
    arm: str
    cost: str
    budget: float
    learning_rate: float
    scores: tuple[float, ...]
    difference: Difference | None
    corrected: float | None

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value of the difference from the baseline is below 5 %."""
        return self.corrected is not None and self.corrected < _LEVEL


def compare_curves(curves: Sequence[RuleCurve], rules: Rules) -> list[ArmResult]:
    """Compare every arm with the baseline, and return one result for each world, cost of `COSTS` and arm.

    The score (Pass@1) of a run is read where the run has spent the budget. The budget is the smallest amount of the
    cost that any run of the world has spent in total.

    Args:
        curves: all runs of the comparison: every arm of every world with the same seeds.
        rules: the file of rules.
    """
    results = []
    for world in rules.worlds:
        by_arm = {arm: _arm_curves(curves, world, arm) for arm in rules.arms}
        for cost in COSTS:
            budget = min(curve.spent(cost) for group in by_arm.values() for curve in group)
            scores = {arm: [curve.score_at(cost, budget) for curve in group] for arm, group in by_arm.items()}
            rows = []
            for arm, group in by_arm.items():
                difference = None
                if arm != rules.baseline:
                    difference = student_difference(scores[rules.baseline], scores[arm])
                rate = group[0].run.learning_rate
                rows.append(ArmResult(world, arm, cost, budget, rate, tuple(scores[arm]), difference, None))
            results += _corrected(rows, rules.correction)
    return results


def _arm_curves(curves: Iterable[RuleCurve], world: str, arm: str) -> list[RuleCurve]:
    """Return the curves of an arm by ascending seed, with the same seconds per step."""
    own = [curve for curve in curves if (curve.run.world, curve.run.arm) == (world, arm)]
    seconds = median(curve.step_seconds for curve in own)
    return [curve.with_step_seconds(seconds) for curve in sorted(own, key=lambda curve: curve.run.seed)]


def _corrected(rows: Sequence[ArmResult], correction: Correction) -> list[ArmResult]:
    p_values = [row.difference.p_value for row in rows if row.difference is not None]
    corrected = iter(holm(p_values) if correction == "holm" else p_values)
    return [row if row.difference is None else replace(row, corrected=next(corrected)) for row in rows]


def results_json(results: Sequence[ArmResult], curves: Sequence[RuleCurve]) -> dict[str, Any]:
    """Return the results and the curves behind them, as `rules.json` stores them."""
    return {"results": [asdict(result) for result in results], "curves": [curve.as_json() for curve in curves]}


def results_page(results: Sequence[ArmResult], curves: Sequence[RuleCurve], rules: Rules) -> str:
    """Format a Markdown page with one table for each world."""
    seeds = len(rules.comparison.seeds)
    corrected = "no correction"
    if rules.correction == "holm":
        corrected = "Holm's correction over the arms of a world at one cost"
    parts = [
        "# Rules at equal cost",
        f"Pass@1 over {seeds} seeds, and its difference to the arm `{rules.baseline}` with Student's 95 % interval, "
        f"paired by seed, and the p-value after {corrected}. Intervals are not corrected. A star marks differences "
        "that are significant at 5 % after the correction. Time is process time of training, with the median seconds "
        "per step of an arm for all its runs.",
    ]
    for world in rules.worlds:
        rows = [result for result in results if result.world == world]
        budgets = {row.cost: row.budget for row in rows}
        head = [f"at {budgets[cost]:,.0f} {'s' if cost == 'process_seconds' else name}" for cost, name in COSTS.items()]
        table = [["arm", "rate", "steps", "s per step", "wall / process s", *head]]
        for arm in rules.arms:
            own = [curve.points[-1] for curve in curves if (curve.run.world, curve.run.arm) == (world, arm)]
            cells = [result_cell(next(row for row in rows if (row.arm, row.cost) == (arm, cost))) for cost in COSTS]
            rate = next(row.learning_rate for row in rows if row.arm == arm)
            busy = fmean(point.wall_seconds / point.process_seconds for point in own)
            steps = f"{fmean(point.step for point in own):.0f}"
            seconds = f"{median(point.process_seconds / point.step for point in own):.3f}"
            table.append([escape_cell(arm), f"{rate:g}", steps, seconds, f"{busy:.2f}", *cells])
        parts += [f"## {world}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def result_cell(row: ArmResult) -> str:
    """Format the mean score of an arm and, unless it is the baseline, its difference, interval and corrected p."""
    mean = f"{fmean(row.scores):.3f}"
    if row.difference is None or row.corrected is None:
        return mean
    difference = row.difference
    star = " *" if row.significant else ""
    bounds = bounded(difference.mean, difference.low, difference.high, signed=True)
    return f"{mean}: {bounds}, p {p_value(row.corrected, 2)}{star}"


def results_figure(results: Sequence[ArmResult], rules: Rules) -> str:
    """Plot the differences from the baseline with their intervals, as SVG.

    There is one row of panels for each world (a model to start from, and its questions), and one column for each cost:
    time, generated tokens and selected rows.
    """
    arms = [arm for arm in rules.arms if arm != rules.baseline]
    size = (10.2, len(rules.worlds) * (0.7 + 0.2 * len(arms)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rules.worlds), len(COSTS), squeeze=False, sharey=True, sharex=True)
    for row, world in zip(grid, rules.worlds, strict=True):
        for axes, (cost, name) in zip(row, COSTS.items(), strict=True):
            dress(axes)
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_title(f"{world}, equal {name}", fontsize=9, loc="left", color=INK)
            for result in results:
                if (result.world, result.cost) == (world, cost) and result.difference is not None:
                    place, difference = arms.index(result.arm), result.difference
                    better = COLOURS[2] if difference.mean > 0 else COLOURS[4]
                    colour = better if result.significant else COLOURS[5]
                    axes.plot([difference.low, difference.high], [place, place], color=colour, linewidth=1.6)
                    axes.plot(difference.mean, place, "D", color=colour, markersize=4)
            axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms])
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
    for axes in grid[-1]:
        axes.set_xlabel(f"difference to {rules.baseline} in Pass@1", fontsize=8)
    return svg(figure)


def tuning_scores(curves: Iterable[RuleCurve]) -> dict[tuple[str, str, float], list[float]]:
    """Return the scores of the tuning runs by world, arm and learning rate: Pass@1 at the end of each run."""
    scores: dict[tuple[str, str, float], list[float]] = {}
    for curve in curves:
        key = (curve.run.world, curve.run.arm, curve.run.learning_rate)
        scores.setdefault(key, []).append(curve.points[-1].pass_at_1)
    return scores
