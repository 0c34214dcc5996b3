"""Measures how much the results of a model change if its rows are packed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Largest differences that count as rounding: of log-probs and of a gradient.
_ROUNDING = {torch.float32: (1e-3, 1e-2), torch.float16: (2e-2, 0.1), torch.bfloat16: (0.1, 0.3)}


class Difference(NamedTuple):
    """The difference between packed rows and plain rows.

    Attributes:
        logps: root mean square difference of log-probabilities, relative to their standard deviation.
        gradient: norm of the difference of a gradient, relative to the norm of the gradient.
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


def measure_difference(
    model: nn.Module, inputs: dict[str, Any], run_packed: Callable[[nn.Module], Any], *, sharded: bool
) -> Difference:
    """Compare a model that runs on padded rows, one at a time, with the same model on packed rows.

    Args:
        model: a model with TRL's fused head, without DDP's wrapper, which would expect a backward pass.
        inputs: what TRL passes to the model: `input_ids`, `attention_mask` and `labels`, `(N, S)`, and `fused_lm_head`.
        run_packed: runs the model on the packed rows.
        sharded: whether each process holds a part of every parameter. Then only log-probabilities are compared.
    """
    mask = inputs["labels"][:, 1:] != -100
    weights = torch.arange(mask.numel(), device=mask.device).cos().view_as(mask) * mask  # of the log-probs, in a loss
    parameter = None if sharded or not torch.is_grad_enabled() else small_parameter(model)

    def compute(run: Callable[[], Any], weights: Tensor) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(parameter is not None):
            logps = run().log_probs
            if parameter is None:
                return logps, logps.new_zeros(1)
            [gradient] = torch.autograd.grad((logps * weights).sum(), parameter)
            return logps.detach(), gradient

    def plain(row: int) -> tuple[Tensor, Tensor]:
        part = slice(row, row + 1)
        values = {name: value[part] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return compute(lambda: model(**values), weights[part])

    expected = [plain(row) for row in range(len(mask))]
    logps, gradient = (
        torch.cat([logps for logps, _ in expected]),
        torch.stack([each for _, each in expected]).sum(dim=0),
    )
    found, found_gradient = compute(lambda: run_packed(model), weights)
    if not mask.any():
        return Difference(0.0, 0.0, 0)
    return Difference(
        _ratio((found - logps)[mask].square().mean().sqrt(), logps[mask].std(correction=0)),
        _ratio((found_gradient - gradient).norm(), gradient.norm()),
        int(mask.sum()),
    )


def small_parameter(model: nn.Module) -> nn.Parameter | None:
    """Return a small parameter of the first layers that trains, whose gradient depends on all later layers."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad][:16]
    return min(trained, key=nn.Parameter.numel, default=None)


def _ratio(difference: Tensor, scale: Tensor) -> float:
    """Return `difference / scale`; infinity instead of NaN, so that it counts as too large."""
    if difference == 0:
        return 0.0
    return float((difference / scale.clamp_min(torch.finfo(torch.float32).tiny)).nan_to_num(nan=torch.inf))
