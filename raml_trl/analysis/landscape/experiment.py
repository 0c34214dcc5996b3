"""The loss surface around a model as a figure: a contour map, or a curve with a band."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.analysis.landscape.surface import Surface
from raml_trl.render.figures import COLOURS, INK, dress, svg

_LEVELS = 20
_SHOWN = 90  # percent of the points that colours tell apart: far away the loss may be anything


class Mark(NamedTuple):
    """A point with a name."""

    name: str
    at: Sequence[float]


def surface_figure(surface: Surface, names: Sequence[str], marks: Sequence[Mark]) -> str:
    """The mean loss over the questions, with marks.

    Args:
        surface: to be drawn.
        names: of its axes.
        marks: on the grid.
    """
    figure = Figure(figsize=(5.4, 4.2) if len(names) == 2 else (5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.set_title("-log p(answer), nats per token", fontsize=9, loc="left", color=INK)
    # Names are text that came from outside: a dollar sign must not make them mathematics.
    axes.set_xlabel(names[0], fontsize=8, parse_math=False)
    if len(names) == 2:
        axes.set_ylabel(names[1], fontsize=8, parse_math=False)
        _contours(figure, axes, surface)
    else:
        _curve(axes, surface)
    for number, mark in enumerate(marks):
        height = float(surface.mean[surface.index(mark.at)])
        place = (mark.at[0], mark.at[1] if len(names) == 2 else height)
        axes.plot(*place, "o", color=COLOURS[4], markeredgecolor="white", markersize=6)
        below = number % 2  # so that two near each other can be read
        axes.annotate(
            f"{mark.name} {height:.3g}", place, (5, -11 if below else 5), textcoords="offset points", fontsize=8,
            color=INK, parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return svg(figure)


def _contours(figure: Figure, axes: Axes, surface: Surface) -> None:
    heights = np.ma.masked_invalid(surface.mean.T)  # matplotlib has the second axis in rows
    low, high = float(heights.min()), float(np.percentile(heights.compressed(), _SHOWN))
    levels = np.linspace(low, high if high > low else low + 1, _LEVELS)
    filled = axes.contourf(*surface.axes, heights, levels=levels, extend="max", cmap="viridis")
    axes.contour(*surface.axes, heights, levels=levels[::2], colors="white", linewidths=0.5, alpha=0.6)
    axes.grid(visible=False)
    bar = figure.colorbar(filled, ax=axes)
    bar.ax.tick_params(labelsize=8, colors=INK)


def _curve(axes: Axes, surface: Surface) -> None:
    low, high = np.percentile(surface.losses, [25, 75], axis=-1)
    axes.fill_between(surface.axes[0], low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="half the questions")
    axes.plot(surface.axes[0], surface.mean, color=COLOURS[0], linewidth=1.6, label="mean")
    axes.legend(frameon=False, fontsize=8)
