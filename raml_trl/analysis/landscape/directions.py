"""Axes in the weight space of a model, and a function that moves the weights along them.

An axis is a random direction or leads to another checkpoint. A snapshot of the weights that move is kept on the CPU.
Random directions are not stored: they are drawn again whenever they are needed, with a separate seed for every
parameter. Moved weights are always computed from the snapshot, never from the current weights, so errors do not
accumulate and the weights end bit-identical to their start.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import keyed_seed

Normalisation = Literal["filter", "tensor", "global"]
Move = Callable[[Sequence[float]], None]
"""Moves the weights to a point, given its coordinate on each axis."""


class Directions(Protocol):
    """One or two axes in the weight space. `names` are the names of the parameters that move along the axes."""

    names: tuple[str, ...]

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        """Return the weights of a parameter at a point, in float32 or wider, without changing `start`.

        Args:
            name: name of the parameter.
            start: its weights at the origin.
            point: coordinate on each axis.
        """
        ...


class RandomDirections:
    """Axes along random directions with Gaussian entries.

    On a given device, the entries for a parameter depend only on the seed, the number of the axis and the name of the
    parameter. They are scaled to the norm of the weights, so that a step of 1 is as long as the weights themselves.
    `normalisation` says which weights are scaled together:

    - filter: every output row, i.e. all entries of a tensor with the same first index. Tensors of one dimension (norms,
      biases) do not move. Source: Li et al., arXiv 1712.09913, section 4.
    - tensor: every tensor, including tensors of one dimension.
    - global: all weights, by one factor. Tensors with small weights move far relative to their size.

    Input and output embeddings move only if `embeddings` is set. Tied embeddings are one parameter and move once.
    `dims` is the number of axes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
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
            length = sum(_squared_norm(parameter) for parameter in moved.values()) ** 0.5
            for number in range(dims):
                drawn = sum(_squared_norm(self._draw(number, name, start)) for name, start in moved.items())
                self._scales[number] = length / drawn**0.5

    def direction(self, number: int, name: str, start: Tensor) -> Tensor:
        """Return the entries of direction `number` for the parameter `name`, scaled to its weights `start`.

        The result has the shape of `start`, in float32 or wider.
        """
        drawn = self._draw(number, name, start)
        if self._normalisation == "global":
            return drawn * self._scales[number]
        over = tuple(range(1, start.ndim)) if self._normalisation == "filter" else tuple(range(start.ndim))
        lengths = start.to(drawn.dtype).square().sum(over, keepdim=True).sqrt()
        return drawn.mul_(lengths / drawn.square().sum(over, keepdim=True).sqrt())

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        moved = start.to(_at_least_float32(start))
        for number, coordinate in enumerate(point):
            if coordinate:
                moved = moved + coordinate * self.direction(number, name, start)
        return moved

    def _draw(self, number: int, name: str, start: Tensor) -> Tensor:
        generator = torch.Generator(start.device)
        generator.manual_seed(keyed_seed(self._seed, number, int.from_bytes(name.encode(), "big")))
        drawn = torch.randn(start.shape, generator=generator, device=start.device)
        return drawn.to(_at_least_float32(start))


class CheckpointDirections:
    """Axes from a model to one or two other checkpoints. Each checkpoint lies at 1 on its axis, bit for bit.

    Args:
        model: the model at the origin.
        others: maps the title of each checkpoint to its parameters by name, on the CPU. They are kept in memory.

    Raises:
        InputError: if the parameters of a checkpoint have other names or shapes than those of the model, or if all its
            weights equal those of the model.
    """

    def __init__(self, model: nn.Module, others: Mapping[str, Mapping[str, Tensor]]) -> None:
        own = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
        for title, other in others.items():
            for name in sorted(own.keys() ^ other.keys()):
                owner = "only this checkpoint has" if name in other else "only model_name_or_path has"
                raise InputError(f"towards {title}: {owner} the parameter {name}: name checkpoints of one model")
            for name, weights in own.items():
                if weights.shape != other[name].shape:
                    raise InputError(
                        f"towards {title}: {name} is {tuple(other[name].shape)}, not {tuple(weights.shape)}: "
                        "name checkpoints of one model"
                    )
            if all(torch.equal(weights, other[name]) for name, weights in own.items()):
                raise InputError(f"towards {title}: its weights equal those of model_name_or_path: name another")
        self.names = tuple(
            name for name in own if any(not torch.equal(own[name], other[name]) for other in others.values())
        )
        self._others = [{name: other[name] for name in self.names} for other in others.values()]
        self.geometry = self._geometry(own)

    def at(self, name: str, start: Tensor, point: Sequence[float]) -> Tensor:
        # A weighted mean of the model and the checkpoints. Unlike start + difference, it gives a checkpoint exactly.
        corners = [start, *(other[name].to(start.device) for other in self._others)]
        weights = [1 - sum(point), *point]
        moved, *others = (
            weight * corner.to(_at_least_float32(start))
            for weight, corner in zip(weights, corners, strict=True)
            if weight
        )
        for other in others:
            moved += other
        return moved

    def _geometry(self, own: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute the distances of the checkpoints from the model, its norm, and the cosine between two axes."""
        products = np.zeros((len(self._others), len(self._others)))
        for name in self.names:
            steps = [(other[name].double() - own[name].double()).flatten() for other in self._others]
            products += [[float(first @ second) for second in steps] for first in steps]
        lengths = np.sqrt(np.diag(products))
        norm = sum(_squared_norm(weights) for weights in own.values()) ** 0.5
        geometry = {f"distance {axis}": float(length) for axis, length in enumerate(lengths, start=1)}
        geometry["length of the weights"] = norm
        if len(lengths) == 2:
            geometry["cosine between the axes"] = float(products[0, 1] / lengths.prod())
        return geometry


@contextmanager
def movable(model: nn.Module, directions: Directions) -> Iterator[Move]:
    """Yield a function that moves the weights of `model` along `directions`, and restore the weights at the end.

    Raises:
        RuntimeError: if the restored weights are not bit-identical, because something else changed the model.
    """
    names = set(directions.names)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    snapshot = {name: _on_cpu(parameter) for name, parameter in parameters.items()}

    @torch.no_grad()
    def move(point: Sequence[float]) -> None:
        for name, parameter in parameters.items():
            start = snapshot[name].to(parameter.device)  # on the CPU this is the snapshot itself: do not write to it
            parameter.copy_(directions.at(name, start, point) if any(point) else start)

    try:
        yield move
    finally:
        move([0.0])
        now = dict(model.named_parameters())
        changed = [name for name, start in snapshot.items() if name not in now or not _same_bits(now[name], start)]
        if changed:
            raise RuntimeError(
                f"{len(changed)} parameters could not be restored, first {changed[0]}: load the model again"
            )


def _squared_norm(weights: Tensor) -> float:
    return float(torch.linalg.vector_norm(weights.detach(), dtype=torch.float64)) ** 2


def _at_least_float32(weights: Tensor) -> torch.dtype:
    """The dtype in which moved weights are computed."""
    return torch.promote_types(weights.dtype, torch.float32)


def _on_cpu(parameter: Tensor) -> Tensor:
    """Copy a parameter to the CPU, into pinned memory if the parameter is on a GPU."""
    copy = torch.empty_like(parameter, device="cpu", pin_memory=parameter.is_cuda, requires_grad=False)
    return copy.copy_(parameter.detach())


def _same_bits(parameter: Tensor, start: Tensor) -> bool:
    now, before = (weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for weights in (parameter, start))
    return parameter.dtype == start.dtype and torch.equal(now, before)
