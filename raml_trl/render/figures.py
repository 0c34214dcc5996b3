"""Figures in one style, as SVG text that can be embedded in an HTML page."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#2457a6", "#d1792b", "#3d8b5f", "#8a4f9e", "#b03a48", "#5f6b7a")
INK = "#2b2f36"


def metrics_figure(stages: Sequence[str], metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Bars with intervals: for every metric, one bar a stage.

    Args:
        stages: names, in order.
        metrics: by metric, for each stage its `mean`, `low` and `high`.
    """
    figure, axes = blank_figure(7.2, 2.9)
    width = 0.8 / len(stages)
    for index, stage in enumerate(stages):
        values = [metric[index] for metric in metrics.values()]
        places = [place - 0.4 + width * (index + 0.5) for place in range(len(metrics))]
        means = [value["mean"] for value in values]
        whiskers = [
            [value["mean"] - value["low"] for value in values],
            [value["high"] - value["mean"] for value in values],
        ]
        axes.bar(
            places, means, width * 0.92, yerr=whiskers, label=stage, color=COLOURS[index % len(COLOURS)],
            error_kw={"elinewidth": 1, "ecolor": INK},
        )  # fmt: skip
    axes.set_xticks(range(len(metrics)), list(metrics))
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, ncols=len(stages), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return svg(figure)


def curve_figure(title: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """A line over optimizer steps; a noisy one is drawn pale under its moving mean."""
    figure, axes = blank_figure(3.5, 2.3)
    window = max(1, len(values) // 20)
    axes.plot(steps, values, color=COLOURS[0], alpha=0.25 if window > 1 else 1, linewidth=1)
    if window > 1:
        smooth = [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
        axes.plot(steps[window - 1 :], smooth, color=COLOURS[0], linewidth=1.8)
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.set_xlabel("optimizer step", fontsize=8)
    return svg(figure)


def plan_figure(
    names: Sequence[str], seconds: Mapping[str, Sequence[float]], gibibytes: Mapping[str, Sequence[float]]
) -> str:
    """Two stacks of bars side by side: seconds of a step, and memory of a device.

    Args:
        names: of the bars, from left to right.
        seconds: by part of a step, for each bar.
        gibibytes: by part of the memory, for each bar.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, title, parts in zip(
        figure.subplots(1, 2), ("seconds of a step", "GiB of a device"), (seconds, gibibytes), strict=True
    ):
        dress(axes)
        bottoms = [0.0] * len(names)
        for (part, heights), colour in zip(parts.items(), COLOURS, strict=False):
            axes.bar(names, heights, 0.7, bottom=bottoms, label=part, color=colour)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        axes.set_ylim(0, max(bottoms) * 1.35)  # room for the legend
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return svg(figure)


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """The style of every figure's axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)


def svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # No date and a fixed salt: the same data give the same bytes. Text stays text.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raml_trl", "font.family": "sans-serif"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    _, start, rest = buffer.getvalue().partition("<svg")
    return start + rest
