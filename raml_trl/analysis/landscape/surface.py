r"""The loss surface around a model: losses at the points of a grid in weight space, and numbers that describe them.

The loss of a question is the mean of -log p over the tokens of its answer, in nats (see `likelihood.answer_nll`). An
axis of the grid is a random direction scaled to the weights (Li et al., arXiv 1712.09913), or leads to another
checkpoint and so shows the course of training. In shapes, Q is the number of questions, and S1 and S2 are the numbers
of points on the first and the second axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import hypot

import numpy as np
from numpy.typing import NDArray
from torch import nn

from raml_trl.analysis.landscape.directions import Directions, Move, movable
from raml_trl.evaluation.intervals import MeanInterval, mean_interval

Axes = tuple[tuple[float, ...], ...]
"""Coordinates of the grid points along each axis."""
Floats = NDArray[np.float64]
Numbers = dict[str, float | MeanInterval | None]
"""Numbers that describe a surface, by name. None stands for values that are not finite."""


def surface_row(move: Move, losses: Callable[[], Floats], axes: Axes, index: int) -> Floats:
    """Compute the losses at all points whose first coordinate is `axes[0][index]`.

    `move` moves the weights to a point, and `losses` then returns the loss of each of the Q questions.

    Returns:
        `(Q,)` on one axis, `(S2, Q)` on two.
    """
    rows = []
    for rest in product(*axes[1:]):
        move((axes[0][index], *rest))
        rows.append(losses())
    return np.stack(rows).reshape(*(len(axis) for axis in axes[1:]), -1)


def scan(model: nn.Module, directions: Directions, axes: Axes, losses: Callable[[], Floats]) -> "Surface":
    """Return the losses of all questions at every point of the grid, and restore the weights of the model.

    `losses` returns the loss of each question under the current weights.
    """
    with movable(model, directions) as move:
        return Surface(axes, np.stack([surface_row(move, losses, axes, index) for index in range(len(axes[0]))]))


def centred_axis(steps: int, span: float) -> tuple[float, ...]:
    """Return `steps` numbers from -span to span, with 0 in the middle.

    Raises:
        ValueError: if `steps` is even or below 3, or `span` is not positive.
    """
    if steps < 3 or steps % 2 == 0 or not span > 0:
        raise ValueError(f"steps must be odd and 3 or more, and span positive: got {steps} and {span}")
    half = steps // 2
    return tuple(span * ((place - half) / half) for place in range(steps))


def axis_to_one(steps: int, span: float) -> tuple[float, ...]:
    """Return `steps` evenly spaced numbers from about -`span` to about 1 + `span`, among them 0 and 1.

    They reach equally far below 0 and above 1: by the whole number of intervals that is close to `span`, at least one.

    Raises:
        ValueError: if `steps` is even or below 5, or `span` is not positive.
    """
    if steps < 5 or steps % 2 == 0 or not span > 0:
        raise ValueError(f"steps must be odd and 5 or more, and span positive: got {steps} and {span}")
    # Both ends reach equally far, so the number of steps from 0 to 1 is even. Each end has at least one step.
    within = min(max(2, 2 * round((steps - 1) / (1 + 2 * span) / 2)), steps - 3)
    before = (steps - 1 - within) // 2
    return tuple((place - before) / within for place in range(steps))


@dataclass(frozen=True)
class Surface:
    """Losses of Q questions on a grid with one or two axes, which have S1 and S2 points: `(S1[, S2], Q)`.

    `losses[i, j]` `(Q,)` are the losses at the point `(axes[0][i], axes[1][j])`; with one axis, `losses[i]`.
    """

    axes: Axes
    losses: Floats

    def __post_init__(self) -> None:
        if self.losses.shape[:-1] != tuple(map(len, self.axes)):
            raise ValueError(
                f"losses of shape {self.losses.shape} do not fit axes of lengths {[len(axis) for axis in self.axes]}"
            )
        if any(0 not in axis[1:-1] for axis in self.axes):
            raise ValueError("the origin must be on the grid, and not on its edge")

    @cached_property
    def mean(self) -> Floats:
        """Mean loss over the questions at each point, `(S1[, S2])`; infinite or NaN if one of the losses is."""
        return self.losses.mean(axis=-1)

    @cached_property
    def origin(self) -> tuple[int, ...]:
        """Index of the origin, the point of the unchanged model."""
        return self.index([0] * len(self.axes))

    def index(self, point: Sequence[float]) -> tuple[int, ...]:
        """Return the index of the grid point with the coordinates `point`."""
        return tuple(axis.index(value) for axis, value in zip(self.axes, point, strict=True))

    def point(self, index: Sequence[int]) -> list[float]:
        """Return the coordinates of the grid point at `index`."""
        return [axis[int(place)] for axis, place in zip(self.axes, index, strict=True)]

    def step(self, axis: int) -> float:
        """Return the distance between neighbouring points along an axis."""
        return self.axes[axis][1] - self.axes[axis][0]

    def along(self, axis: int) -> Floats:
        """Return the losses at the S points on the line through the origin along `axis`, `(S, Q)`."""
        return self.losses[tuple(slice(None) if other == axis else place for other, place in enumerate(self.origin))]

    def lowest(self) -> tuple[int, ...]:
        """Return the index of the point with the lowest finite mean loss; the first point if none is finite."""
        least = np.argmin(np.where(np.isfinite(self.mean), self.mean, np.inf))
        return tuple(int(place) for place in np.unravel_index(least, self.mean.shape))


def describe(surface: Surface, rng: np.random.Generator, *, radius: float) -> Numbers:
    """Describe a surface in numbers. Means over questions have 95 % bootstrap intervals; `rng` draws the resamples.

    The numbers are listed by their names, in which k is the number of an axis, from 1. h is the distance between
    neighbouring points of an axis. L(x) is the loss of a question at coordinate x of axis k, on the line through the
    origin; formulas with L are averaged over questions. A number that is not finite is None.

    - loss at the origin: the loss of the unchanged model.
    - slope k: (L(h) - L(-h)) / 2h at the origin along axis k, in nats for a step of 1.
    - curvature k: (L(h) - 2 L(0) + L(-h)) / h^2 along axis k, the curvature of the parabola through these points.
    - sharpness: the highest mean loss of the grid points within `radius` of the origin, minus the loss at the origin.
      `radius` is in the unit of the axes.
    - lowest loss, lowest at k: the lowest mean loss on the grid, and its coordinate on axis k.
    - share below the origin: the share of grid points with a lower mean loss than the origin.
    - roughness: the mean of |f(x + h) - 2 f(x) + f(x - h)| over all axes and interior points x. f is the mean loss,
      scaled to lie between 0 and 1. A plane has roughness 0, a parabola over S points about 8 / (S - 1)^2, white noise
      about a third. Compare only surfaces with the same number of points per axis.
    - roughness of a question: the roughness of the losses of one question, averaged over questions.
    """
    origin, losses = surface.losses[surface.origin], surface.losses
    numbers: Numbers = {"loss at the origin": _finite_mean(origin, rng)}
    for axis in range(len(surface.axes)):
        line, place, h = surface.along(axis), surface.origin[axis], surface.step(axis)
        before, after = line[place - 1], line[place + 1]
        numbers[f"slope {axis + 1}"] = _finite_mean((after - before) / (2 * h), rng)
        numbers[f"curvature {axis + 1}"] = _finite_mean((after - 2 * origin + before) / h**2, rng)
    near = [place for place in np.ndindex(surface.mean.shape) if hypot(*surface.point(place)) <= radius * (1 + 1e-9)]
    worst = max(near, key=lambda place: surface.mean[place] if np.isfinite(surface.mean[place]) else np.inf)
    numbers["sharpness"] = _finite_mean(losses[worst] - origin, rng)
    lowest = surface.lowest()
    numbers["lowest loss"] = _finite(surface.mean[lowest])
    for axis, value in enumerate(surface.point(lowest), start=1):
        numbers[f"lowest at {axis}"] = value
    numbers["share below the origin"] = float(np.mean(surface.mean < surface.mean[surface.origin]))
    numbers["roughness"] = _finite(roughness(surface.mean))
    each = np.array([roughness(losses[..., question]) for question in range(losses.shape[-1])])
    numbers["roughness of a question"] = _finite_mean(each, rng)
    return numbers


def roughness(values: Floats) -> float:
    """Return the roughness (see `describe`) of a surface `(S1[, S2])`; 0 if flat, NaN if a value is not finite."""
    height = values.max() - values.min()
    if height == 0:
        return 0.0
    bends = [np.diff(values, n=2, axis=axis).ravel() for axis in range(values.ndim)]
    return float(np.abs(np.concatenate(bends)).mean() / height)


def barrier(surface: Surface, axis: int) -> float | None:
    """Return the barrier between 0 and 1 on `axis`: the largest height of the mean loss above a straight line.

    The line connects the mean losses at 0 and 1. The result is None if it is not finite. Source: Frankle et al., arXiv
    1912.05671, section 3, who define the barrier for the error instead of the loss.
    """
    values, line = np.array(surface.axes[axis]), surface.along(axis).mean(axis=-1)
    inside = (values >= 0) & (values <= 1)
    share, heights = values[inside], line[inside]
    return _finite(float((heights - (1 - share) * heights[0] - share * heights[-1]).max()))


def _finite_mean(values: Floats, rng: np.random.Generator) -> MeanInterval | None:
    return mean_interval(values, rng) if np.isfinite(values).all() else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
