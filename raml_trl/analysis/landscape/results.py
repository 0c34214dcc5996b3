"""Results of `loss_landscape`: its summary, figure and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.analysis.config import LossLandscapeConfig
from raml_trl.analysis.landscape.surface import Numbers, Surface, barrier, describe
from raml_trl.evaluation.intervals import MeanInterval
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.sampling.loading import shown_name

_LEVELS = 20
_SHOWN = 90  # percent of the points within the colour range, because far from the model the loss may take any value


@dataclass(frozen=True)
class Axis:
    """Name and coordinates of an axis."""

    name: str
    values: list[float]


@dataclass(frozen=True)
class Mark:
    """A named point of the grid. `loss` is its mean loss over the questions, or None if that is not finite."""

    name: str
    at: Sequence[float]
    loss: float | None


@dataclass(frozen=True)
class Summary:
    """Content of `loss_landscape.json` and of the page.

    `loss[i][j]` is the mean loss over the questions at value i of the first axis and value j of the second; with one
    axis, it is `loss[i]`. It is None where the mean is not finite.
    """

    title: str
    lead: str
    model: str
    questions: int
    axes: list[Axis]
    loss: list[object]
    marks: list[Mark]
    numbers: Numbers


def summarise(config: LossLandscapeConfig, surface: Surface, geometry: Mapping[str, float]) -> Summary:
    """Describe a surface in numbers, and name its axes and its marked points.

    Args:
        config: settings of the run.
        surface: losses on the grid.
        geometry: distances of the checkpoints from the model in weight space, the norm of the model's weights, and the
            cosine between two axes; empty for random directions.
    """
    numbers = describe(surface, np.random.default_rng(config.seed), radius=config.reach)
    model, *towards = _titles(config)
    places = {model: [0.0] * len(config.axes)}
    for axis, name in enumerate(towards):
        numbers[f"barrier {axis + 1}"] = barrier(surface, axis)
        places[name] = [float(other == axis) for other in range(len(towards))]
    numbers |= geometry
    lowest = surface.point(surface.lowest())
    if lowest not in places.values():
        places["lowest"] = lowest
    if towards:
        names = [f"towards {name}" for name in towards]
        lead = f"The weights of {model} are moved towards those of {' and '.join(towards)}, which lie at 1."
    else:
        names = [f"random direction {axis}" for axis in range(1, len(config.axes) + 1)]
        lead = (
            f"The weights of {model} are moved along random directions, scaled to the weights "
            f"({config.normalisation}): a step of 1 is as long as they are."
        )
    after = "after the thinking of a right trajectory" if config.after_thinking else "right after the question"
    mean = surface.mean.astype(object)
    mean[~np.isfinite(surface.mean)] = None  # JSON has neither NaN nor infinity
    return Summary(
        title=f"Loss landscape of {model}",
        lead=f"{lead} The loss is the mean of -log p over the answer's tokens, in nats, {after}.",
        model=model,
        questions=surface.losses.shape[-1],
        axes=[Axis(name, list(axis)) for name, axis in zip(names, surface.axes, strict=True)],
        loss=mean.tolist(),
        marks=[Mark(name, at, mean[surface.index(at)]) for name, at in places.items()],
        numbers=numbers,
    )


def format_number(value: float | MeanInterval | None) -> str:
    """Return `value`, a number or a mean with its interval, as text with four significant digits; None as "None"."""
    if value is None:
        return "None"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value.mean:.4g} [{value.low:.4g}, {value.high:.4g}]"


def surface_figure(surface: Surface, names: Sequence[str], marks: Sequence[Mark]) -> str:
    """Draw the mean loss over the questions: as contours for two axes, as a curve for one axis.

    The band around the curve holds the losses of the middle half of the questions.

    Args:
        surface: losses on the grid.
        names: names of the axes.
        marks: points of the grid to mark, with their names and losses.
    """
    figure = Figure(figsize=(5.4, 4.2) if len(names) == 2 else (5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    axes.set_title("-log p(answer), nats per token", fontsize=9, loc="left", color=INK)
    # Names come from users: a dollar sign must not switch to mathematics.
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
        below = number % 2  # alternate, so that names of neighbouring marks do not overlap
        axes.annotate(
            f"{mark.name} {height:.3g}", place, (5, -11 if below else 5), textcoords="offset points", fontsize=8,
            color=INK, parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return svg(figure)


def _contours(figure: Figure, axes: Axes, surface: Surface) -> None:
    heights = np.ma.masked_invalid(surface.mean.T)  # matplotlib expects the second axis in rows
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


def _titles(config: LossLandscapeConfig) -> list[str]:
    """Return short names of the models, or the full names if two short names are equal."""
    names = [config.model_name_or_path, *config.towards]
    short = [shown_name(name) for name in names]
    return short if len(set(short)) == len(short) else names
