"""Measures how much the results of a model change if its rows are packed."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Largest differences that count as rounding: of log-probs and of a gradient. Among tiny models of 29 architectures in
# float32 on a CPU, the largest were 1.2e-6 and 8.0e-7; TF32 on a GPU, depth and length add to that.
_ROUNDING = {torch.float32: (1e-3, 1e-2), torch.float16: (2e-2, 0.1), torch.bfloat16: (0.1, 0.3)}

_FIRST, _SMALLEST = 16, 8  # number of parameters whose gradient is compared: the smallest of the first


class Difference(NamedTuple):
    """The difference between the results of a model on packed rows and on padded rows.

    Attributes:
        logps: root mean square difference of log-probabilities, relative to their standard deviation.
        gradient: norm of the difference of the gradients of `small_parameters`, relative to the norm on padded rows.
        tokens: number of tokens that were compared.
    """

    logps: float
    gradient: float
    tokens: int

    def is_rounding(self, dtype: torch.dtype) -> bool:
        """Return whether the difference is no more than rounding in a model that computes in `dtype`."""
        logps, gradient = _ROUNDING[dtype]
        return self.logps <= logps and self.gradient <= gradient

    def __str__(self) -> str:
        return f"log-probs differ by {self.logps:.1e} of their spread, a gradient by {self.gradient:.1e} of its norm"


FAILED = Difference(math.inf, math.inf, 1)
"""The difference that is reported if a model raises an error."""


def measure_difference(
    model: nn.Module, inputs: dict[str, Any], run_packed: Callable[[nn.Module], Any], *, sharded: bool
) -> Difference:
    """Run a model on padded rows, one at a time, and on packed rows, and return the difference between the results.

    Args:
        model: a model with TRL's fused head, without DDP's wrapper, which would expect a backward pass.
        inputs: the model's arguments: `input_ids`, `attention_mask` and `labels`, each `(N, S)` for N rows padded to S
            tokens, and `fused_lm_head`.
        run_packed: runs the model on the packed rows.
        sharded: whether each process holds a part of every parameter. Then only log-probabilities are compared.
    """
    mask = inputs["labels"][:, 1:] != -100
    weights = torch.arange(mask.numel(), device=mask.device).cos().view_as(mask) * mask  # of the log-probs, in a loss
    parameters = [] if sharded or not torch.is_grad_enabled() else small_parameters(model)

    def compute(run: Callable[[], Any], weights: Tensor) -> Tensor:
        with torch.set_grad_enabled(bool(parameters)):
            logps: Tensor = run().log_probs
            if parameters:
                (logps * weights).sum().backward()  # not torch.autograd.grad: checkpointing may be reentrant
        return logps.detach()

    def plain(row: int) -> Tensor:
        part = slice(row, row + 1)
        values = {name: value[part] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return compute(lambda: model(**values), weights[part])

    with _kept_gradients(model):
        logps = torch.cat([plain(row) for row in range(len(mask))])
        gradient = take_gradient(parameters, mask.device)
        found = compute(lambda: run_packed(model), weights)
        found_gradient = take_gradient(parameters, mask.device)
    if not mask.any():
        return Difference(0.0, 0.0, 0)
    return Difference(
        _ratio((found - logps)[mask].square().mean().sqrt(), logps[mask].std(correction=0)),
        _ratio((found_gradient - gradient).norm(), gradient.norm()),
        int(mask.sum()),
    )


def small_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return small parameters of the first layers that train, whose gradients depend on all later layers.

    Several are needed, because the gradient of one can be 0: at the start of training, it is 0 for LoRA's first factor.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sorted(trained[:_FIRST], key=nn.Parameter.numel)[:_SMALLEST]


def take_gradient(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    """Return the gradients of all parameters in one vector, and set them to None."""
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([torch.zeros(1, device=device), *(gradient.flatten().float() for gradient in gradients)])


@contextmanager
def _kept_gradients(model: nn.Module) -> Iterator[None]:
    """Take away the gradients of a model, and restore them after the `with` block."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def _ratio(difference: Tensor, scale: Tensor) -> float:
    """Return `difference / scale`; infinity instead of NaN, so that it counts as too large."""
    if difference == 0:
        return 0.0
    return float((difference / scale.clamp_min(torch.finfo(torch.float32).tiny)).nan_to_num(nan=torch.inf))
