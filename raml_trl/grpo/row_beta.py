"""Weights the KL term of every row: an object with row weights replaces TRL's `beta` while the loss is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from raml_trl.grpo.rows import per_row
from raml_trl.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class RowBeta:
    """TRL's `beta` with a weight for every row.

    TRL's loss uses `beta` in two expressions only, `self.beta != 0.0` and `self.beta * per_token_kl`. A loss that
    others write may also multiply `beta` by one KL value per row. Any other use raises an error, so that no loss
    ignores the weights.
    """

    beta: float
    weights: Tensor  # (R,)

    def __ne__(self, other: object) -> bool:
        return self.beta != other

    def __gt__(self, other: float) -> bool:
        return self.beta > other

    def __mul__(self, kl: Tensor) -> Tensor:  # (R, C) or (R,)
        if not kl.ndim or len(kl) != len(self.weights):
            raise InputError(
                f"the loss multiplies beta by a tensor of shape {tuple(kl.shape)}, which has no row per rollout, so "
                "selection 'importance' cannot weight the KL term: use another selection, or beta: 0"
            )
        return self.beta * per_row(self.weights, kl) * kl

    __rmul__ = __mul__


class _HasBeta(Protocol):
    beta: float


@contextmanager
def weighted_beta(trainer: _HasBeta, weights: Tensor | None) -> Iterator[None]:
    """Weight the KL term of the loss that is computed in the `with` block.

    Args:
        trainer: a `GRPOTrainer`, whose `beta` is replaced.
        weights: `(R,)`: the weight of each of the R rows of the batch; None to leave `beta` as it is.
    """
    beta = trainer.beta
    if weights is None or beta == 0.0:
        yield
        return
    trainer.beta = row_beta = cast(float, RowBeta(beta, weights))
    try:
        yield
    finally:
        if trainer.beta is row_beta:  # the loss may have set another value for the next step
            trainer.beta = beta
