"""Figures of the answer's likelihood along trajectories, and of what single tokens do to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from raml_trl.render.figures import COLOURS, INK, dress, smooth, svg

_WINDOWS = 100
_NAMES = {"thinking": "thinking", "no_thinking": "no thinking"}


def bands_figure(bands: Sequence[Mapping[str, Any]]) -> str:
    """Mean and band of the answer's negative log-likelihood, by tokens and by share of the thinking.

    The line of a long axis is smoothed over a hundredth of it.

    Args:
        bands: what `curves.bands` returns, for both axes.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    titles = {"tokens": "tokens of thinking", "share": "share of the thinking"}
    for axes, (axis, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        dress(axes)
        of_axis = [band for band in bands if band["axis"] == axis]
        for band, colour in zip(of_axis, COLOURS, strict=False):
            name = f"{_NAMES[band['mode']]}, {'right' if band['correct'] else 'wrong'}"
            axes.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
            mean = smooth(band["mean"], max(1, len(band["x"]) // _WINDOWS))
            axes.plot(band["x"], mean, color=colour, linewidth=1.6, label=name)
        axes.set_xlabel(title, fontsize=8)
        axes.set_ylim(bottom=0)
    first = figure.axes[0]
    first.set_title("-log p(answer), nats per token", fontsize=9, loc="left", color=INK)
    figure.axes[1].legend(frameon=False, fontsize=8)
    return svg(figure)


def effects_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median effects of groups of tokens with their intervals, the greatest on top.

    Args:
        rows: what `token_effects.compare_groups` returns.
    """
    figure = Figure(figsize=(7.2, 0.8 + 0.3 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    for place, row in enumerate(reversed(rows)):
        told = row["p"] is not None and row["p"] < 0.05
        axes.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=1)
        axes.plot(row["median"], place, "o", color=COLOURS[0] if told else COLOURS[5], markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row['group']} ({row['n']:,})" for row in reversed(rows)])
    axes.set_title("|change of log L|, median; blue where p < .05", fontsize=9, loc="left", color=INK)
    return svg(figure)
