"""Axes in the space of a model's weights, random or towards other checkpoints, and moving the weights along them.

Directions are drawn anew whenever they are needed, from a key of their own for every parameter: beside the model there
is a snapshot of what is moved, in the memory of the CPU, and nothing else. Weights are always set from the snapshot,
never moved on from where they are, so nothing drifts, and they end as they began.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import keyed_seed

Normalisation = Literal["filter", "tensor", "global"]
Move = Callable[[Sequence[float]], None]
"""Puts the weights at a point: its coordinates, one for each axis."""


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
