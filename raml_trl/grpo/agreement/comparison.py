"""Compares trainings with TRL's trainer and with ours.

`trl_contract` checks the names in TRL that our trainer depends on. The comparison checks numbers, so it also notices a
release of TRL whose loss has a new term or another denominator. G is `num_generations` and m is
`num_generations_update`. Every case is trained five times:

- with TRL's `GRPOTrainer`;
- `plain`: with ours, m = G, without `length_bucketing`, `skip_zero_advantage` and `shared_prompts`. It must equal TRL
  bit for bit;
- `default`: with ours and the defaults of its own settings, m = G. It must equal TRL up to rounding;
- `drop` and `mask`: with ours, m = G / 2, once with each `subset_mode`. They must equal each other up to rounding.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trl import GRPOTrainer

from raml_trl.grpo.agreement.cases import Case
from raml_trl.grpo.agreement.training import NUM_GENERATIONS, Training, Workshop, open_workshop, train
from raml_trl.grpo.trl_contract import strings
from raml_trl.runtime.errors import InputError

COLUMNS = ("plain", "default", "drop against mask")
_HALF = {"num_generations_update": NUM_GENERATIONS // 2}
_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"length_bucketing": False, "skip_zero_advantage": False, "shared_prompts": "off"},
    "default": {},
    "drop": _HALF,
    "mask": _HALF | {"subset_mode": "mask"},
}
_SMALLEST = 0.1  # smaller metrics are compared as if they had this size: the loss may be close to 0


@dataclass(frozen=True)
class Difference:
    """The largest relative differences between a training and a reference training, over all steps.

    `gradient` is the norm of the difference of their gradients, relative to the norm of the reference's gradient.
    `metric` is the name of the logged metric that differs most, and `logs` is its relative difference. A difference is
    infinite if one training lacks a step, a metric or a number that the other has.
    """

    gradient: float
    logs: float
    metric: str

    @property
    def worst(self) -> float:
        return max(self.gradient, self.logs)


class Failure(NamedTuple):
    """A failed comparison of two trainings: name of the case, name of the comparison (one of `COLUMNS`), and reason."""

    case: str
    column: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(self)


@dataclass(frozen=True)
class Agreement:
    """The result of a case: for each comparison in `COLUMNS` the difference, or the error if settings were rejected."""

    case: str
    columns: Mapping[str, Difference | str]

    def failures(self, tolerance: float) -> Iterator[Failure]:
        """Yield a failure for each comparison in which settings were rejected or the difference exceeds `tolerance`.

        In the comparison `plain`, every difference is a failure, however small.
        """
        for name, result in self.columns.items():
            if isinstance(result, str):
                yield Failure(self.case, name, f"rejected: {result}")
            elif result.worst > (0.0 if name == "plain" else tolerance):
                part = "the gradient" if result.gradient >= result.logs else f"the metric {result.metric}"
                yield Failure(self.case, name, f"{part} differs by {result.worst:.1g}")


def measure(cases: Iterable[Case]) -> Iterator[Agreement]:
    """Train every case with TRL's trainer and with ours, and yield one `Agreement` per case."""
    with open_workshop() as workshop:
        for case in cases:
            yield _measure(case, workshop)


def _measure(case: Case, workshop: Workshop) -> Agreement:
    stock = train(case, workshop)
    assert max(float(gradient.norm()) for gradient in stock.gradients) > 0, case.name
    ours = {name: _train_or_reason(case, workshop, settings) for name, settings in _VARIANTS.items()}
    metrics = {name for entry in stock.logs for name in entry}
    # With m < G, metrics of the loss cover other rows: those that are trained on, or all that run.
    common = metrics - metrics_of_loss()
    return Agreement(
        case.name,
        {
            "plain": _difference_or_reason(ours["plain"], stock, metrics),
            "default": _difference_or_reason(ours["default"], stock, metrics),
            "drop against mask": _difference_or_reason(ours["drop"], ours["mask"], common),
        },
    )


def _train_or_reason(case: Case, workshop: Workshop, subset: dict[str, Any]) -> Training | str:
    try:
        return train(case, workshop, subset)
    except InputError as error:
        return str(error)


def _difference_or_reason(ours: Training | str, reference: Training | str, metrics: Iterable[str]) -> Difference | str:
    if isinstance(ours, str):
        return ours
    return reference if isinstance(reference, str) else difference(ours, reference, metrics)


def metrics_of_loss() -> set[str]:
    """Return all strings in the code of TRL's loss, among them the names of the metrics that it logs."""
    return strings(inspect.unwrap(GRPOTrainer._compute_loss).__code__)


def difference(ours: Training, reference: Training, metrics: Iterable[str]) -> Difference:
    """Return how far a training is from the reference, in its gradients and in the given logged metrics."""
    if len(ours.gradients) != len(reference.gradients) or len(ours.logs) != len(reference.logs):
        return Difference(math.inf, math.inf, "number of steps")
    gradient = max(
        _relative(float((mine - theirs).norm()), float(theirs.norm()))
        for mine, theirs in zip(ours.gradients, reference.gradients, strict=True)
    )
    logs, metric = max(
        (_of_metric(mine.get(name), theirs.get(name)), name)
        for mine, theirs in zip(ours.logs, reference.logs, strict=True)
        for name in metrics
    )
    return Difference(gradient, logs, metric)


def _of_metric(ours: float | None, reference: float | None) -> float:
    if ours is None or reference is None or math.isnan(ours) or math.isnan(reference):
        return 0.0 if str(ours) == str(reference) else math.inf
    return _relative(abs(ours - reference), max(abs(ours), abs(reference), _SMALLEST))


def _relative(distance: float, size: float) -> float:
    """Return `distance / size`. A distance of NaN, or from zero, is infinite."""
    if distance == 0.0:
        return 0.0
    return distance / size if math.isfinite(distance) and size > 0 else math.inf
