"""Accounts for the cost of a run: seconds by phase, rows, tokens, and the speed-up over training on all G rollouts.

A cell is one token position that a forward pass computes, padding included: n rows of width w have n * w cells.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import student_quantile
from raml_trl.runtime.history import CellSeconds, Costs, Speedup

_FEW_TRAINED = 0.05
"""If a smaller share of the selected rollouts has a gradient, the summary of a run says so."""

_MANY = 1000  # Student's t hardly changes above this number of degrees of freedom

PHASES = ("generating", "rewarding", "scoring", "preparing", "selecting", "updating")
"""The phases of a step:

- generating: sampling rollouts
- rewarding: calling the reward functions
- scoring: computing log-probabilities of the rollouts before training (old model and reference model)
- preparing: all other work of TRL before an update
- selecting: choosing rollouts, assigning rows to micro-batches, and computing metrics of the loss for the micro-batches
  that TRL would have run
- updating: forward pass, backward pass and optimizer step

Evaluation belongs to no phase.
"""


class LedgerState(TypedDict):
    """The state of a ledger, as stored in a checkpoint."""

    seconds: dict[str, float]
    counts: dict[str, int]
    updates: list[list[float]]
    later: NotRequired[list[list[float]]]  # older versions did not store it


@dataclass
class Ledger:
    """Seconds of this process by phase, and counts by name.

    `tokens_updating`, and the counts of cells (token positions, padding included), whose names begin with `cells`, are
    of this process. The other counts are of all processes.
    """

    clock: Callable[[], float]
    training: Callable[[], bool] = lambda: True  # whether the model is training; the time of evaluation is not charged
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    counts: dict[str, int] = field(default_factory=dict)
    # Entry (i, j) is the sum over micro-batches of v[i] * v[j], where v = (1, cells, seconds).
    updates: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    # The same without the first micro-batch since the start or resume, which includes checks that run once.
    later: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    _observed: bool = False
    _running: list[str | None] = field(default_factory=list)
    _since: float = 0.0
    _lap_start: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def phase(self, name: str, *, training: bool = False) -> Iterator[None]:
        """Charge the time of the `with` block to the phase `name`.

        If the model is not in training mode when the block begins, the time is charged to no phase, unless `training`
        is true. An inner phase pauses the outer phase.

        Args:
            name: one of `PHASES`.
            training: whether the block belongs to training although the model may not be in training mode yet.
        """
        self.enter(name if training or self.training() else None)
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Charge the time of the `with` block to no phase."""
        self.enter(None)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str | None) -> None:
        """Pause the running phase, and charge time to phase `name`, one of `PHASES`, or to no phase if it is None."""
        self._charge()
        self._running.append(name)

    def leave(self) -> None:
        """End the phase that was started last, and continue the phase that it paused."""
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = self.clock()
        phase = self._running[-1] if self._running else None
        if phase is not None:
            self.seconds[phase] += now - self._since
        self._since = now

    def lap(self) -> dict[str, float]:
        """Return the seconds of each phase since the previous call, or if there is none, since the start or resume."""
        seconds = {phase: self.seconds[phase] - self._lap_start[phase] for phase in PHASES}
        self._lap_start = dict(self.seconds)
        return seconds

    def count(self, **amounts: int) -> None:
        """Add each keyword argument to the count of the same name."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def observe_update(self, cells: int, seconds: float) -> None:
        """Record the cells (token positions, padding included) of a micro-batch and the seconds it took.

        `update_seconds` extrapolates from these records.
        """
        point = np.array([1.0, cells, seconds])
        self.updates += np.outer(point, point)
        if self._observed:
            self.later += np.outer(point, point)
        self._observed = True

    def update_seconds(self, cells: int) -> float:
        """Estimate how long the updates of the run so far would have taken if they had computed `cells` cells in total.

        A cell is a token position, padding included. A micro-batch is assumed to take a constant time plus the time of
        its cells (`cell_seconds`), neither of them negative.
        """
        _, own, spent = self.updates[0].tolist()
        if not own:
            return 0.0
        price = min(max(self._fit()[0], 0.0), spent / own)
        return self.seconds["updating"] + price * (cells - own)

    def cell_seconds(self) -> CellSeconds:
        """Return the seconds that a cell adds to a micro-batch, with their interval. There must be a micro-batch.

        They are fitted by least squares to the recorded micro-batches, without the first one if there are others. If
        all of these micro-batches have the same size, the time of a cell cannot be separated from a constant, and the
        whole time is attributed to the cells.
        """
        fitted, error, degrees = self._fit()
        if degrees < 1:
            return {"fitted": fitted, "low": None, "high": None}
        half = student_quantile(0.95, min(degrees, _MANY)) * error
        return {"fitted": fitted, "low": fitted - half, "high": fitted + half}

    def _fit(self) -> tuple[float, float, int]:
        """Return the seconds of a cell, their standard error and its degrees of freedom, 0 if there is no error."""
        (number, cells, seconds), (_, cells_2, products), (_, _, seconds_2) = (
            self.later if self.later[0, 1] else self.updates
        ).tolist()
        # The next three are number ** 2 times the variance of the cells, their covariance with the seconds, and the
        # variance of the seconds.
        spread, together = number * cells_2 - cells**2, number * products - cells * seconds
        spread_of_seconds = number * seconds_2 - seconds**2
        if spread <= 1e-9 * cells**2:
            return seconds / cells, 0.0, 0
        fitted, degrees = together / spread, int(number) - 2
        unexplained = max(spread_of_seconds - fitted * together, 0.0)  # rounding can make it negative
        return fitted, sqrt(unexplained / max(degrees, 1) / spread), degrees

    def later_update_seconds(self) -> float:
        """Estimate how long the updates would have taken if the first micro-batch of a session were like the others.

        The first one includes checks that run once. A session is the part of a run between two resumes.
        """
        _, later, seconds = self.later[0].tolist()
        return seconds * self.updates[0, 1] / later if later else self.seconds["updating"]

    def state(self) -> LedgerState:
        """Return the state to store in a checkpoint."""
        return {
            "seconds": dict(self.seconds),
            "counts": dict(self.counts),
            "updates": self.updates.tolist(),
            "later": self.later.tolist(),
        }

    def restore(self, state: LedgerState) -> None:
        """Continue from the state of a checkpoint."""
        self.seconds |= state["seconds"]
        self.counts = dict(state["counts"])
        self.updates = np.array(state["updates"])
        self.later = np.array(state.get("later", np.zeros((3, 3))))
        self._lap_start = dict(self.seconds)


def ceiling(generating: float, fraction: float) -> float:
    """Return the largest speed-up that updating on m of G rollouts can give by itself: 1 / (f + (1 - f) m/G).

    Args:
        generating: f, the share of the time of a step on all G that does not shrink with m.
        fraction: m/G.
    """
    return 1 / (generating + (1 - generating) * fraction)


def speedup(ledger: Ledger, fraction: float) -> Speedup:
    """Return the estimated speed-up of the run so far over training on all G with TRL's padding, and its ceiling.

    The time of training on all G is estimated from the time of this run. The time of computing log-probabilities before
    training is taken to be proportional to the token positions, and the time of updates comes from
    `Ledger.update_seconds`. `estimated` can exceed `ceiling`, because bucketing and skipped rows save time in addition
    to m/G.

    Args:
        ledger: the ledger of the run.
        fraction: m/G.
    """
    seconds, counts = ledger.seconds, ledger.counts
    ours = sum(seconds.values())
    fixed = seconds["generating"] + seconds["rewarding"] + seconds["preparing"]
    scoring = seconds["scoring"] * counts.get("cells_scoring_all", 0) / max(counts.get("cells_scoring", 0), 1)
    whole = fixed + scoring + ledger.update_seconds(counts.get("cells_updating_all", 0))
    if not whole or not ours:
        return {"ceiling": 1.0, "estimated": 1.0}
    return {"ceiling": ceiling(fixed / whole, fraction), "estimated": whole / ours}


def summary(ledger: Ledger, fraction: float) -> Costs:
    """Return the cost of the run so far: seconds by phase, counts, `padding` and speed-up.

    `padding` is the share of padding among the token positions that the updates ran.

    Args:
        ledger: the ledger of the run.
        fraction: m/G.
    """
    counts, speed = ledger.counts, speedup(ledger, fraction)
    cells = counts.get("cells_updating", 0)
    costs: Costs = {
        "seconds": {name: round(value, 3) for name, value in ledger.seconds.items()},
        "counts": dict(counts),
        "later_updating": round(ledger.later_update_seconds(), 3),
        "padding": round(counts.get("cells_padding", 0) / cells, 4) if cells else 0.0,
        "speedup": {"ceiling": round(speed["ceiling"], 3), "estimated": round(speed["estimated"], 3)},
    }
    if ledger.updates[0, 1]:
        costs["cell_seconds"] = ledger.cell_seconds()
    return costs


def is_uncertain(costs: Costs) -> bool:
    """Return whether the cost of a token position is uncertain, because the micro-batches of the run vary.

    This is so if the 95 % interval of its seconds is unknown, or reaches below half of them. It is false for older
    runs, which did not store the interval.
    """
    if "cell_seconds" not in costs:
        return False
    cost = costs["cell_seconds"]
    return cost["low"] is None or cost["low"] < cost["fitted"] / 2


def summary_lines(costs: Costs) -> str:
    """Format the cost of a run as text for a person to read."""
    seconds, counts, speed = costs["seconds"], costs["counts"], costs["speedup"]
    total = sum(seconds.values()) or 1.0
    selected, trained = counts.get("selected", 0), counts.get("trained", 0)
    warning = ""
    if trained < _FEW_TRAINED * selected:
        few = f"{trained:,} of {selected:,} selected rollouts"
        warning = f"\nOnly {few} had a gradient: for most questions, all rewards were equal or missing."
    rough = " (rough here, because they are few or vary)" if is_uncertain(costs) else ""
    phases = " · ".join(f"{name} {value:.1f} s ({value / total:.0%})" for name, value in seconds.items())
    return (
        f"time: {phases}\n"
        f"rollouts: {counts.get('rollouts', 0):,} generated · {counts.get('selected', 0):,} selected · "
        f"{counts.get('trained', 0):,} trained on\n"
        f"completion tokens: {counts.get('tokens_generated', 0):,} generated · "
        f"{counts.get('tokens_scored', 0):,} scored · {counts.get('tokens_trained', 0):,} trained on; "
        f"padding {costs['padding']:.1%} of the positions that the updates ran\n"
        f"speed-up over training on all G with TRL's padding: {speed['estimated']:.2f}, estimated from the times of "
        f"micro-batches{rough}; training on m of G alone could give at most {speed['ceiling']:.2f}{warning}"
    )
