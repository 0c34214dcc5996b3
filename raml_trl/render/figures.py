"""Figures in one style, as SVG text that can be embedded in an HTML page."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#2457a6", "#d1792b", "#3d8b5f", "#8a4f9e", "#b03a48", "#5f6b7a")
INK = "#2b2f36"


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes in our style. `width` and `height` are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """Apply our style to `axes`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)


def smooth(values: Sequence[float] | NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the centred moving mean of `values`, both `(N,)`. Each mean is over `window` values, fewer at the ends.

    If `window` is even, it has one value more after the centre than before it.
    """
    array = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    before = (window - 1) // 2
    first = np.maximum(np.arange(len(array)) - before, 0)
    last = np.minimum(np.arange(len(array)) - before + window, len(array))
    return (sums[last] - sums[first]) / (last - first)


def svg(figure: Figure) -> str:
    """Draw `figure` as an SVG element. The same data give the same bytes."""
    buffer = io.StringIO()
    # Leaving out the date and fixing the salt of element ids makes the bytes reproducible. With fonttype none, text
    # stays text and is not converted to outlines.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raml_trl", "font.family": "sans-serif"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    _, start, rest = buffer.getvalue().partition("<svg")
    return start + rest
