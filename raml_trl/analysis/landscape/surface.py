r"""The loss surface around a model: how likely it finds the answers when its weights are moved along one or two axes.

The loss of a question is the mean of -log p over the tokens of its answer, in nats, as `likelihood.answer_nll` has it.
An axis is a random direction, scaled to the weights (Li et al., arXiv 1712.09913), or leads to another checkpoint, so
that training itself is seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raml_trl.analysis.landscape.directions import Directions, Move, movable
from raml_trl.evaluation.intervals import bootstrap_interval

Axes = tuple[tuple[float, ...], ...]
Floats = NDArray[np.float64]
Interval = dict[str, float]


def surface_row(move: Move, losses: Callable[[], Floats], axes: Axes, index: int) -> Floats:
    """The losses at all points whose first coordinate is `axes[0][index]`: `(Q,)`, or `(S2, Q)` with two axes."""
    rows = []
    for rest in product(*axes[1:]):
        move((axes[0][index], *rest))
        rows.append(losses())
    return np.stack(rows).reshape(*(len(axis) for axis in axes[1:]), -1)


def scan(model: Any, directions: Directions, axes: Axes, losses: Callable[[], Floats]) -> "Surface":
    """The losses at every point of the grid; the weights of the model are as they were afterwards."""
    with movable(model, directions) as move:
        return Surface(axes, np.stack([surface_row(move, losses, axes, index) for index in range(len(axes[0]))]))


def centred_axis(steps: int, span: float) -> tuple[float, ...]:
    """`steps` numbers from -span to span with 0 in the middle.

    Raises:
        ValueError: if `steps` is even or less than 3, or `span` not positive.
    """
    if steps < 3 or steps % 2 == 0 or not span > 0:
        raise ValueError(f"steps must be odd and 3 or more, and span positive: got {steps} and {span}")
    half = steps // 2
    return tuple(span * ((place - half) / half) for place in range(steps))


def axis_to_one(steps: int, span: float) -> tuple[float, ...]:
    """`steps` numbers, evenly from below 0 to above 1, that hit both; beyond them the axis goes on for about `span`.

    Raises:
        ValueError: if `steps` is even or less than 5, or `span` not positive.
    """
    if steps < 5 or steps % 2 == 0 or not span > 0:
        raise ValueError(f"steps must be odd and 5 or more, and span positive: got {steps} and {span}")
    # Both ends go equally far, so the number of steps from 0 to 1 is even; one step at least is left on either side.
    within = min(max(2, 2 * round((steps - 1) / (1 + 2 * span) / 2)), steps - 3)
    before = (steps - 1 - within) // 2
    return tuple((place - before) / within for place in range(steps))


@dataclass(frozen=True)
class Surface:
    """Losses `(S1[, S2], Q)` on a grid: `losses[i, j]` belongs to `axes[0][i]` and `axes[1][j]`."""

    axes: Axes
    losses: Floats

    def __post_init__(self) -> None:
        if self.losses.shape[:-1] != tuple(map(len, self.axes)):
            raise ValueError(f"{self.losses.shape} losses are not those of axes of {[len(axis) for axis in self.axes]}")
        if any(0 not in axis[1:-1] for axis in self.axes):
            raise ValueError("the origin must be on the grid, and not on its edge")

    @cached_property
    def mean(self) -> Floats:
        """Over the questions, `(S1[, S2])`; not finite where one of them is not."""
        return self.losses.mean(axis=-1)

    @cached_property
    def origin(self) -> tuple[int, ...]:
        """Where the model itself lies."""
        return self.index([0] * len(self.axes))

    def index(self, point: Sequence[float]) -> tuple[int, ...]:
        """Where on the grid `point` lies, which has to be one of it."""
        return tuple(axis.index(value) for axis, value in zip(self.axes, point, strict=True))

    def point(self, index: Sequence[int]) -> list[float]:
        """The coordinates of a place on the grid."""
        return [axis[int(place)] for axis, place in zip(self.axes, index, strict=True)]

    def step(self, axis: int) -> float:
        """The width of the grid along an axis."""
        return self.axes[axis][1] - self.axes[axis][0]

    def along(self, axis: int) -> Floats:
        """The line through the origin along `axis`, `(S, Q)`."""
        return self.losses[tuple(slice(None) if one == axis else place for one, place in enumerate(self.origin))]

    def lowest(self) -> tuple[int, ...]:
        """Where on the grid the mean loss is least, among what is finite."""
        least = np.argmin(np.where(np.isfinite(self.mean), self.mean, np.inf))
        return tuple(int(place) for place in np.unravel_index(least, self.mean.shape))


def describe(surface: Surface, rng: np.random.Generator, *, radius: float) -> dict[str, float | Interval | None]:
    """What there is to say of a surface in numbers, with 95 % intervals over questions where it is a mean over them.

    h is the step of an axis, L the loss of a question. None stands for what is not finite.

    - loss at the origin: that of the model itself.
    - slope k: (L(h) - L(-h)) / 2h at the origin along axis k, in nats for a step of 1.
    - curvature k: (L(h) - 2 L(0) + L(-h)) / h^2 likewise: what a parabola through these three points has.
    - sharpness: how much more the mean loss is at the worst point within `radius` of the origin.
    - lowest loss, lowest at k: of the mean over questions, on the grid.
    - share below the origin: of the points, those whose mean loss is lower than at the origin. 0 if it is the minimum.
    - roughness: the mean of |f(h) - 2 f(0) + f(-h)| over all interior points and axes of the mean surface, scaled to
      lie between 0 and 1. A plane has 0, a parabola over S points about 8 / (S - 1)^2, white noise about a third. Only
      surfaces on grids of as many steps compare.
    - roughness of a question: the same of every question's own surface.
    """
    origin, losses = surface.losses[surface.origin], surface.losses
    found: dict[str, float | Interval | None] = {"loss at the origin": _interval(origin, rng)}
    for axis in range(len(surface.axes)):
        line, place, h = surface.along(axis), surface.origin[axis], surface.step(axis)
        before, after = line[place - 1], line[place + 1]
        found[f"slope {axis + 1}"] = _interval((after - before) / (2 * h), rng)
        found[f"curvature {axis + 1}"] = _interval((after - 2 * origin + before) / h**2, rng)
    near = [place for place in np.ndindex(surface.mean.shape) if hypot(*surface.point(place)) <= radius * (1 + 1e-9)]
    worst = max(near, key=lambda place: surface.mean[place] if np.isfinite(surface.mean[place]) else np.inf)
    found["sharpness"] = _interval(losses[worst] - origin, rng)
    lowest = surface.lowest()
    found["lowest loss"] = _number(surface.mean[lowest])
    for axis, value in enumerate(surface.point(lowest), start=1):
        found[f"lowest at {axis}"] = value
    found["share below the origin"] = float(np.mean(surface.mean < surface.mean[surface.origin]))
    found["roughness"] = _number(roughness(surface.mean))
    each = np.array([roughness(losses[..., question]) for question in range(losses.shape[-1])])
    found["roughness of a question"] = _interval(each, rng)
    return found


def roughness(values: Floats) -> float:
    """Of a surface `(S1[, S2])`, as `describe` has it; 0 if it is flat, NaN if it is not finite everywhere."""
    height = values.max() - values.min()
    if height == 0:
        return 0.0
    bends = [np.diff(values, n=2, axis=axis).ravel() for axis in range(values.ndim)]
    return float(np.abs(np.concatenate(bends)).mean() / height)


def barrier(surface: Surface, axis: int) -> float | None:
    """How far the mean loss on the way from 0 to 1 along `axis` rises above the straight line between its ends.

    Source: Frankle et al., arXiv 1912.05671, section 3, there for the error. None if it is not finite.
    """
    values, line = np.array(surface.axes[axis]), surface.along(axis).mean(axis=-1)
    inside = (values >= 0) & (values <= 1)
    share, on_way = values[inside], line[inside]
    return _number(float((on_way - (1 - share) * on_way[0] - share * on_way[-1]).max()))


def _interval(values: Floats, rng: np.random.Generator) -> Interval | None:
    if not np.isfinite(values).all():
        return None
    low, high = bootstrap_interval(values, rng)
    return {"mean": float(values.mean()), "low": low, "high": high}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
