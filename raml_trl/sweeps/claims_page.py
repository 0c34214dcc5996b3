"""Figures of claims and of the sweeps they rest on: differences with their intervals, and curves with bands."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.sweeps.claims import Weighed
from raml_trl.sweeps.learning_curves import Trial
from raml_trl.sweeps.measured_settings import by_setting
from raml_trl.sweeps.sweep_file import Scalar

_VERDICT_COLOURS = {"holds": COLOURS[2], "does not hold": COLOURS[4], "cannot be told": COLOURS[5]}


def comparisons_figure(weighed: Mapping[str, Sequence[Weighed]]) -> str:
    """A line for each comparison: the difference that was claimed to be above zero, and its interval over seeds."""
    rows = [(name, one) for name, comparisons in weighed.items() for one in comparisons]
    figure = Figure(figsize=(9.2, 0.7 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (_, one) in enumerate(rows):
        colour = _VERDICT_COLOURS[one.verdict]
        axes.plot([one.difference.low, one.difference.high], [place, place], color=colour, linewidth=2)
        axes.plot(one.difference.mean, place, "D", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [f"{name}: {_told(one)}" for name, one in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("higher minus lower, 95 % interval over seeds", fontsize=8)
    return svg(figure)


def _told(weighed: Weighed) -> str:
    """The two arms, by what they differ in."""
    comparison = weighed.comparison
    pair = (comparison.higher, comparison.lower)
    same = set(pair[0].parameters.items()) & set(pair[1].parameters.items())
    own = []
    for arm in pair:
        words = [f"{name} {value}" for name, value in arm.parameters.items() if (name, value) not in same]
        own.append(", ".join([*([] if pair[0].sweep == pair[1].sweep else [arm.sweep]), *words]))
    return f"{' > '.join(own)} ({comparison.metric}, {comparison.measure.replace('_', ' ')})"


def curves_figure(trials: Sequence[Trial], metric: str) -> str:
    """The mean of `metric` over seeds with its interval, over steps above and over seconds below.

    A line for each value of the parameter that is swept first, a panel for each combination of the others.
    """
    panels: dict[tuple[tuple[str, Scalar], ...], dict[str, list[Trial]]] = {}
    for setting, own in by_setting(trials).items():
        label = " ".join(map(str, setting[0])) if setting else ""
        panels.setdefault(setting[1:], {})[label] = own
    figure = Figure(figsize=(max(4.4, 3.1 * len(panels)), 5.0), layout="constrained")
    grid = figure.subplots(2, max(1, len(panels)), sharey=True, squeeze=False)
    for column, (others, lines) in enumerate(panels.items()):
        title = ", ".join(f"{name} {value}" for name, value in others)
        grid[0][column].set_title(title, fontsize=9, loc="left", color=INK)
        for row, unit in enumerate(("steps", "seconds")):
            axes = grid[row][column]
            dress(axes)
            axes.set_xlabel(unit, fontsize=8)
            for number, (label, own) in enumerate(lines.items()):
                price = median(one.step_seconds for one in own) if unit == "seconds" else 1.0
                _draw_band(axes, own, metric, price, COLOURS[number % len(COLOURS)], label)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric, fontsize=8)
    if all(value >= 0 for one in trials for value in one.curve(metric)):  # an interval knows no bounds
        grid[0][0].set_ylim(bottom=max(0.0, grid[0][0].get_ylim()[0]))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * len(panels)), frameon=False, fontsize=8)
    return svg(figure)


def _draw_band(axes: Axes, trials: Sequence[Trial], metric: str, price: float, colour: str, label: str) -> None:
    steps = [step for step in trials[0].steps if all(step in one.steps for one in trials)]
    values = [[dict(zip(one.steps, one.curve(metric), strict=True))[step] for one in trials] for step in steps]
    places = np.asarray(steps) * price
    axes.plot(places, np.mean(values, axis=1), color=colour, label=label, linewidth=1.6)
    if len(trials) > 1:
        low, high = zip(*(student_interval(one) for one in values), strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
