r"""The loss surface around a model: how likely it finds the answers when its weights are moved along one or two axes.

The loss of a question is the mean of -log p over the tokens of its answer, in nats, as `likelihood.answer_nll` has it.
An axis is a random direction, scaled to the weights (Li et al., arXiv 1712.09913), or leads to another checkpoint, so
that training itself is seen. Directions are drawn anew whenever they are needed, from a key of their own for every
parameter: beside the model there is a snapshot of what is moved, in the memory of the CPU, and nothing else. Weights
are always set from the snapshot, never moved on from where they are, so nothing drifts, and they end as they began.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import hypot
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from raml_trl.errors import InputError
from raml_trl.intervals import bootstrap_interval
from raml_trl.sampling import keyed_seed

Normalisation = Literal["filter", "tensor", "global"]
Axes = tuple[tuple[float, ...], ...]
Floats = NDArray[np.float64]
Interval = dict[str, float]
Move = Callable[[Sequence[float]], None]
"""Puts the weights at a point: its coordinates, one for each axis."""

TOKENS_PER_PASS = 16_384
_LOGITS_PER_PASS = 2**27


class Directions(Protocol):
    """One or two axes in the space of the weights. `names` are the parameters that they move."""

    names: tuple[str, ...]

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        """The weights of a parameter at a point, in float32 at least; `start`, what they are at 0, is left as it is."""
        ...


class RandomDirections:
    """Gaussian directions, a function of seed, number of the direction and name of the parameter, as its device draws.

    `normalisation` says what is scaled to the norm of the weights that it moves:

    - filter: every output row, which is all of a tensor below its first dimension. A tensor of one dimension (norms,
      biases) has no direction. Source: Li et al., arXiv 1712.09913, section 4.
    - tensor: every tensor as a whole, those of one dimension too.
    - global: all of them together, by one factor: what has small weights moves far for its size.

    A step of 1 is thus as long as the weights themselves. Input and output embeddings stay where they are unless
    `embeddings`; tied ones are one parameter and are moved once.
    """

    def __init__(
        self,
        model: Any,
        *,
        seed: int,
        dims: int = 2,
        normalisation: Normalisation = "filter",
        embeddings: bool = False,
    ) -> None:
        layers = (model.get_input_embeddings(), model.get_output_embeddings()) if not embeddings else ()
        kept = {id(layer.weight) for layer in layers if layer is not None}
        moved = {
            name: parameter
            for name, parameter in model.named_parameters()
            if id(parameter) not in kept and (parameter.ndim > 1 or normalisation != "filter")
        }
        self.names = tuple(moved)
        self._seed, self._normalisation = seed, normalisation
        self._scales = [1.0] * dims
        if normalisation == "global":
            length = sum(_squares(one) for one in moved.values()) ** 0.5
            for number in range(dims):
                drawn = sum(_squares(self._draw(number, name, one)) for name, one in moved.items())
                self._scales[number] = length / drawn**0.5

    def direction(self, number: int, name: str, start: Tensor) -> Tensor:
        """That of a parameter whose weights are `start`, of the same shape, in float32 at least."""
        drawn = self._draw(number, name, start)
        if self._normalisation == "global":
            return drawn * self._scales[number]
        over = tuple(range(1, start.ndim)) if self._normalisation == "filter" else tuple(range(start.ndim))
        lengths = start.to(drawn.dtype).square().sum(over, keepdim=True).sqrt()
        return drawn.mul_(lengths / drawn.square().sum(over, keepdim=True).sqrt())

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        moved = start.to(_precise(start))
        for number, coordinate in enumerate(point):
            if coordinate:
                moved = moved + coordinate * self.direction(number, name, start)
        return moved

    def _draw(self, number: int, name: str, start: Tensor) -> Tensor:
        generator = torch.Generator(start.device)
        generator.manual_seed(keyed_seed(self._seed, number, int.from_bytes(name.encode(), "big")))
        drawn = torch.randn(start.shape, generator=generator, device=start.device)
        return drawn.to(_precise(start))


class CheckpointDirections:
    """From a model to one or two others: at 1 on an axis lie the weights of that other, bit for bit.

    Args:
        model: where the axes begin.
        others: the parameters of each other, by name, on the CPU; they are kept.

    Raises:
        InputError: if they are not models of one shape, or all the same.
    """

    def __init__(self, model: Any, others: Mapping[str, Mapping[str, Tensor]]) -> None:
        own = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
        for title, other in others.items():
            for name in sorted(own.keys() ^ other.keys()):
                place = "that model_name_or_path has not" if name in other else "that model_name_or_path has alone"
                raise InputError(f"towards {title}: a parameter {name} {place}: name checkpoints of one model")
            for name, weights in own.items():
                if weights.shape != other[name].shape:
                    raise InputError(
                        f"towards {title}: {name} is {tuple(other[name].shape)}, not {tuple(weights.shape)}: "
                        "name checkpoints of one model"
                    )
            if all(torch.equal(weights, other[name]) for name, weights in own.items()):
                raise InputError(f"towards {title}: its weights are those of model_name_or_path: name another")
        self.names = tuple(
            name for name in own if any(not torch.equal(own[name], other[name]) for other in others.values())
        )
        self._others = [{name: other[name] for name in self.names} for other in others.values()]
        self.geometry = self._geometry(own)

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        # A weighted mean of the corners, not start + a difference: at a corner it is that corner, without rounding.
        corners = [start, *(other[name].to(start.device) for other in self._others)]
        weights = [1 - sum(point), *point]
        moved, *others = (
            weight * corner.to(_precise(start)) for weight, corner in zip(weights, corners, strict=True) if weight
        )
        for other in others:
            moved += other
        return moved

    def _geometry(self, own: Mapping[str, Tensor]) -> dict[str, float]:
        products = np.zeros((len(self._others), len(self._others)))
        for name in self.names:
            apart = [(other[name].double() - own[name].double()).flatten() for other in self._others]
            products += [[float(one @ other) for other in apart] for one in apart]
        lengths = np.sqrt(np.diag(products))
        whole = sum(_squares(weights) for weights in own.values()) ** 0.5
        found = {f"distance {axis}": float(length) for axis, length in enumerate(lengths, start=1)}
        found["length of the weights"] = whole
        if len(lengths) == 2:
            found["cosine between the axes"] = float(products[0, 1] / lengths.prod())
        return found


@contextmanager
def movable(model: Any, directions: Directions) -> Iterator[Move]:
    """A function that moves the weights of `model` along `directions`; after the block they are as they were.

    Raises:
        RuntimeError: if they are not, bit for bit, because something else changed the model meanwhile.
    """
    names = set(directions.names)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    snapshot = {name: _on_cpu(parameter) for name, parameter in parameters.items()}

    @torch.no_grad()
    def move(point: Sequence[float]) -> None:
        for name, parameter in parameters.items():
            start = snapshot[name].to(parameter.device)  # on the CPU the snapshot itself: only to be read
            parameter.copy_(directions.at(name, start, point) if any(point) else start)

    try:
        yield move
    finally:
        move([0.0])
        now = dict(model.named_parameters())
        changed = [name for name, start in snapshot.items() if name not in now or not _same_bits(now[name], start)]
        if changed:
            raise RuntimeError(f"{len(changed)} parameters are not what they were, first {changed[0]}: load the model")


class AnswerLosses:
    """The loss of every question under the weights that the model has when this is called.

    Args:
        model: a causal language model of transformers.
        prefixes: `(P,)` for each question, all that comes before its answer.
        answers: `(A,)` for each question.
        tokens_per_pass: of a forward pass, padding included.

    Raises:
        ValueError: if there is no question, or a prefix or an answer is empty.
    """

    def __init__(
        self,
        model: Any,
        prefixes: Sequence[Tensor],
        answers: Sequence[Tensor],
        *,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> None:
        if not prefixes or not all(map(len, prefixes)) or not all(map(len, answers)):
            raise ValueError("there must be a question, and each needs a prefix and an answer of one token at least")
        self._model, self._count = model, len(prefixes)
        texts = [torch.cat([prefix, answer[:-1]]) for prefix, answer in zip(prefixes, answers, strict=True)]
        self.tokens = sum(map(len, texts))
        vocabulary = model.config.get_text_config().vocab_size
        order = sorted(range(len(texts)), key=lambda question: (len(texts[question]), len(prefixes[question])))
        batch: list[int] = []
        places: set[int] = set()
        self._batches = []
        for question in order:  # by length: the next is the longest so far
            own = range(len(prefixes[question]) - 1, len(texts[question]))
            rows = len(batch) + 1
            too_many = rows * len(texts[question]) > tokens_per_pass
            if batch and (too_many or rows * len(places.union(own)) * vocabulary > _LOGITS_PER_PASS):
                self._batches.append(_Batch(batch, texts, answers, model.device))
                batch, places = [], set()
            batch.append(question)
            places.update(own)
        self._batches.append(_Batch(batch, texts, answers, model.device))

    def __call__(self) -> Floats:
        """Nats, `(Q,)`; the mode of the model is left as it was."""
        losses = np.empty(self._count)
        training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                for batch in self._batches:
                    losses[batch.questions] = batch.losses(self._model)
        finally:
            self._model.train(training)
        return losses


class _Batch:
    """Texts that go through the model together, padded where none of their tokens looks."""

    def __init__(self, questions: Sequence[int], texts: Sequence[Tensor], answers: Sequence[Tensor], device: Any):
        self.questions = list(questions)
        own_texts, own_answers = [texts[one] for one in questions], [answers[one] for one in questions]
        self._ids = pad_sequence(own_texts, batch_first=True).to(device)
        self._lengths = [len(answer) for answer in own_answers]
        # The token at len(text) - 1 finds the last of the answer, and so on backwards.
        places = [
            torch.arange(len(text) - length, len(text)) for text, length in zip(own_texts, self._lengths, strict=True)
        ]
        kept, columns = torch.cat(places).unique(return_inverse=True)
        self._kept, self._columns = kept.to(device), columns.to(device)
        rows = [row for row, length in enumerate(self._lengths) for _ in range(length)]
        self._rows = torch.tensor(rows, device=device)
        self._wanted = torch.cat(own_answers).to(device)

    def losses(self, model: Any) -> Floats:
        logits = model(input_ids=self._ids, logits_to_keep=self._kept, use_cache=False).logits
        logits = logits[self._rows, self._columns].float()  # (tokens of all answers, V)
        nll = logits.logsumexp(dim=-1) - logits.gather(-1, self._wanted[:, None])[:, 0]
        return np.array([one.double().mean().item() for one in nll.cpu().split(self._lengths)])


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


def _squares(weights: Tensor) -> float:
    return float(torch.linalg.vector_norm(weights.detach(), dtype=torch.float64)) ** 2


def _precise(weights: Tensor) -> torch.dtype:
    """What the place of weights is worked out in."""
    return torch.promote_types(weights.dtype, torch.float32)


def _on_cpu(parameter: Tensor) -> Tensor:
    """A copy; pinned where it has to travel back to a device."""
    copy = torch.empty_like(parameter, device="cpu", pin_memory=parameter.is_cuda, requires_grad=False)
    return copy.copy_(parameter.detach())


def _same_bits(parameter: Tensor, start: Tensor) -> bool:
    now, before = (one.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for one in (parameter, start))
    return parameter.dtype == start.dtype and torch.equal(now, before)
