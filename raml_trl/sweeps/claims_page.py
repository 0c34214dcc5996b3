"""Makes the page of `weigh_claims`: tables of claims and settings, figures of differences and learning curves."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import bounded, markdown_table, p_value
from raml_trl.sweeps.break_even import BreakEven, break_even_table
from raml_trl.sweeps.claims import ArmComparison, ArmDifference, WeighedClaim
from raml_trl.sweeps.learning_curves import Setting, SettingSummary, Trial, by_setting

_VERDICT_COLOURS = {"holds": COLOURS[2], "does not hold": COLOURS[4], "inconclusive": COLOURS[5]}
_TERMS = (
    "Brackets hold 95 % intervals over seeds. Steadiness: minus the largest drop of the curve below its previous "
    "maximum; 0 if it never drops. s per step: median seconds of an optimizer step. s to a level (reached): median "
    "seconds until the curve reaches the level, if all seeds reach it, and the number of seeds that do."
)


def claims_page(
    claims: Sequence[WeighedClaim],
    break_evens: Sequence[BreakEven],
    settings: Mapping[str, Sequence[SettingSummary]],
    metric: str,
) -> str:
    """Return a Markdown page with all results.

    `settings` maps the name of a sweep to the summaries of its settings. The tables of settings show `metric` before
    other metrics.
    """
    parts = [
        "# Claims",
        verdicts_table(claims),
        "A claim holds if the 95 % interval of the difference (Student's, over seeds, paired) is above zero in all of "
        "its comparisons. It does not hold if the interval is below zero in one of them. Otherwise it is inconclusive.",
    ]
    for weighed in claims:
        parts += [f"## {weighed.claim.name}: {weighed.claim.claim}", _comparisons_table(weighed.differences)]
    if break_evens:
        parts += ["## When a smaller share is faster", break_even_table(break_evens)]
    for name, summaries in settings.items():
        parts += [f"## Sweep {name}", settings_table(summaries, metric), *([_TERMS] if summaries else [])]
    return "\n\n".join(parts) + "\n"


def verdicts_table(claims: Sequence[WeighedClaim]) -> str:
    """Return a Markdown table with the verdict of each claim and the differences of its comparisons."""
    rows = [["", "claim", "verdict", "differences"]]
    for weighed in claims:
        differences = "; ".join(map(_format_difference, weighed.differences))
        claim = weighed.claim.claim.replace("|", "\\|")
        rows.append([weighed.claim.name, claim, weighed.verdict, differences])
    return markdown_table(rows)


def _comparisons_table(differences: Sequence[ArmDifference]) -> str:
    rows = [["measure", "claimed to be higher", "than", "means", "difference", "p", "seeds", "verdict"]]
    for result in differences:
        comparison = result.comparison
        rows.append(
            [
                f"{comparison.metric}, {comparison.measure.replace('_', ' ')}",
                str(comparison.higher),
                str(comparison.lower),
                f"{result.higher:.3f}, {result.lower:.3f}",
                _format_difference(result),
                _format_p(result),
                str(len(result.seeds)),
                result.verdict,
            ]
        )
    return markdown_table(rows)


def _format_p(result: ArmDifference) -> str:
    alone, corrected = p_value(result.difference.p_value), p_value(result.corrected)
    return alone if result.corrected == result.difference.p_value else f"{alone}, corrected {corrected}"


def _format_difference(result: ArmDifference) -> str:
    difference = result.difference
    return bounded(difference.mean, difference.low, difference.high, signed=True)


def settings_table(summaries: Sequence[SettingSummary], metric: str) -> str:
    """Return a Markdown table with one row per setting. The column of `metric` comes before that of other metrics."""
    if not summaries:
        return "No trial is complete."
    first = summaries[0]
    names = list(first.parameters)
    metrics = sorted(first.metrics, key=lambda name: name != metric)[:1]
    metrics += [name for name in first.metrics if name.startswith("mg_pass")][:1]
    head = [*names, "seeds", *metrics, "steadiness", "steps", "s per step", "rollouts per step"]
    rows = [head + [f"s to {reached.level:g} (reached)" for reached in first.levels]]
    for summary in summaries:
        cells = [str(summary.parameters[name]) for name in names] + [str(summary.n)]
        for name in metrics:
            value = summary.metrics[name]
            if value.mean is None or value.low is None or value.high is None:
                cells.append(f"{value.mean:.3f}")
            else:
                cells.append(bounded(value.mean, value.low, value.high))
        cells += [
            f"{summary.steadiness:.3f}",
            str(summary.steps),
            f"{summary.step_seconds:.3f}",
            str(summary.step_rollouts),
        ]
        for level in summary.levels:
            seconds = "-" if level.seconds is None else f"{level.seconds:.0f}"
            cells.append(f"{seconds} ({level.reached} of {summary.n})")
        rows.append(cells)
    return markdown_table(rows)


def comparisons_figure(claims: Sequence[WeighedClaim]) -> str:
    """Plot the difference of each comparison with its 95 % interval over seeds, one row per comparison, as SVG."""
    rows = [(weighed.claim.name, result) for weighed in claims for result in weighed.differences]
    figure = Figure(figsize=(9.2, 0.7 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (_, result) in enumerate(rows):
        colour = _VERDICT_COLOURS[result.verdict]
        axes.plot([result.difference.low, result.difference.high], [place, place], color=colour, linewidth=2)
        axes.plot(result.difference.mean, place, "D", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [f"{name}: {_format_comparison(result.comparison)}" for name, result in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("higher minus lower, 95 % interval over seeds", fontsize=8)
    return svg(figure)


def _format_comparison(comparison: ArmComparison) -> str:
    """Name the two arms by the parameters in which they differ."""
    higher, lower = comparison.higher, comparison.lower
    same = set(higher.parameters.items()) & set(lower.parameters.items())
    names = []
    for arm in (higher, lower):
        words = [f"{name} {value}" for name, value in arm.parameters.items() if (name, value) not in same]
        names.append(", ".join([*([] if higher.sweep == lower.sweep else [arm.sweep]), *words]))
    return f"{' > '.join(names)} ({comparison.metric}, {comparison.measure.replace('_', ' ')})"


def curves_figure(trials: Sequence[Trial], metric: str) -> str:
    """Plot the mean of `metric` over seeds with its 95 % interval, against steps (top) and seconds (bottom), as SVG.

    There is one line for each value of the first swept parameter, and one column of panels for each combination of
    values of the other swept parameters.
    """
    panels: dict[Setting, dict[str, list[Trial]]] = {}
    for setting, group in by_setting(trials).items():
        label = " ".join(map(str, setting[0])) if setting else ""
        panels.setdefault(setting[1:], {})[label] = group
    figure = Figure(figsize=(max(4.4, 3.1 * len(panels)), 5.0), layout="constrained")
    grid = figure.subplots(2, max(1, len(panels)), sharey=True, squeeze=False)
    for column, (others, lines) in enumerate(panels.items()):
        title = ", ".join(f"{name} {value}" for name, value in others)
        grid[0][column].set_title(title, fontsize=9, loc="left", color=INK)
        for row, unit in enumerate(("steps", "seconds")):
            axes = grid[row][column]
            dress(axes)
            axes.set_xlabel(unit, fontsize=8)
            for number, (label, group) in enumerate(lines.items()):
                step_cost = median(trial.step_seconds for trial in group) if unit == "seconds" else 1.0
                _draw_band(axes, group, metric, step_cost, COLOURS[number % len(COLOURS)], label)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric, fontsize=8)
    if all(value >= 0 for trial in trials for value in trial.curve(metric)):  # intervals may reach below zero
        grid[0][0].set_ylim(bottom=max(0.0, grid[0][0].get_ylim()[0]))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * len(panels)), frameon=False, fontsize=8)
    return svg(figure)


def _draw_band(axes: Axes, trials: Sequence[Trial], metric: str, step_cost: float, colour: str, label: str) -> None:
    steps = [step for step in trials[0].steps if all(step in trial.steps for trial in trials)]
    curves = [dict(zip(trial.steps, trial.curve(metric), strict=True)) for trial in trials]
    values = [[curve[step] for curve in curves] for step in steps]
    places = np.asarray(steps) * step_cost
    axes.plot(places, np.mean(values, axis=1), color=colour, label=label, linewidth=1.6)
    if len(trials) > 1:
        low, high = zip(*map(student_interval, values), strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
