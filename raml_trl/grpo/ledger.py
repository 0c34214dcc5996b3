"""What a run spends: seconds by phase, rows and tokens; and how much faster than training on all G that can make it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PHASES = ("generating", "rewarding", "scoring", "preparing", "selecting", "updating")
"""Drawing rollouts; reward functions; old and reference log-probs; what else TRL does before an update; selecting and
dealing; forward, backward and optimizer step."""


@dataclass
class Ledger:
    """Seconds of this process by phase, and counts of the whole run by name."""

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    counts: dict[str, int] = field(default_factory=dict)
    updates: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`; a phase within a phase stops the clock of the outer one."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Begin a phase."""
        self._charge()
        self._running.append(name)

    def leave(self) -> None:
        """End the phase that began last."""
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = self.clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def count(self, **amounts: int) -> None:
        """Add to the counts."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def observe_update(self, cells: int, seconds: float) -> None:
        """Remember what a micro-batch took, for `update_seconds` to learn from."""
        point = np.array([1.0, cells, seconds])
        self.updates += np.outer(point, point)

    def update_seconds(self, cells: int) -> float:
        """What the updates so far would have taken with other numbers of cells in their micro-batches, `cells` in all.

        A micro-batch is taken to cost a constant and a price per cell, the line of least squares through those that
        ran; all is laid to the cells where they were all of one size.
        """
        (number, own, spent), (_, squares, products), _ = self.updates.tolist()
        if not own:
            return 0.0
        spread = number * squares - own * own
        price = (number * products - own * spent) / spread if spread > 1e-9 * own * own else spent / own
        price = min(max(price, 0.0), spent / own)  # neither part of the cost is negative
        return self.seconds["updating"] + price * (cells - own)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": dict(self.seconds), "counts": dict(self.counts), "updates": self.updates.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Carry on from a checkpoint."""
        self.seconds |= state["seconds"]
        self.counts = dict(state["counts"])
        self.updates = np.array(state["updates"])


def ceiling(generating: float, fraction: float) -> float:
    """How many times faster a step can be that generates all G and updates on m of them: 1 / (f + (1 - f) m/G).

    Args:
        generating: f, the share of a step on all G that does not shrink with m.
        fraction: m/G.
    """
    return 1 / (generating + (1 - generating) * fraction)


def speedup(ledger: Ledger, fraction: float) -> dict[str, float]:
    """`ceiling` and `estimated` speed-up over a step that trains on all G, padded as TRL pads them.

    The step that was not run is estimated from ours: its scoring takes as much longer as it forwards more cells (tokens
    and padding), its updates as the line through ours says. `estimated` exceeds `ceiling` where bucketing and skipped
    rows save more than m/G does.
    """
    seconds, counts = ledger.seconds, ledger.counts
    ours = sum(seconds.values())
    fixed = seconds["generating"] + seconds["rewarding"] + seconds["preparing"]
    scoring = seconds["scoring"] * counts.get("cells_scoring_all", 0) / max(counts.get("cells_scoring", 0), 1)
    whole = fixed + scoring + ledger.update_seconds(counts.get("cells_updating_all", 0))
    if not whole or not ours:
        return {"ceiling": 1.0, "estimated": 1.0}
    return {"ceiling": ceiling(fixed / whole, fraction), "estimated": whole / ours}


def summary(ledger: Ledger, fraction: float) -> dict[str, Any]:
    """A run in one record: `seconds` by phase, `counts`, `padding` as a share of what was forwarded, `speedup`."""
    counts = ledger.counts
    cells = counts.get("cells_updating", 0)
    return {
        "seconds": {name: round(value, 3) for name, value in ledger.seconds.items()},
        "counts": dict(counts),
        "padding": round(1 - counts.get("tokens_updating", 0) / cells, 4) if cells else 0.0,
        "speedup": {name: round(value, 3) for name, value in speedup(ledger, fraction).items()},
    }


def summary_lines(record: Mapping[str, Any]) -> str:
    """The same for a person to read."""
    seconds, counts, speed = record["seconds"], record["counts"], record["speedup"]
    total = sum(seconds.values()) or 1.0
    phases = " · ".join(f"{name} {value:.1f} s ({value / total:.0%})" for name, value in seconds.items())
    return (
        f"time: {phases}\n"
        f"rollouts: {counts.get('rollouts', 0):,} generated · {counts.get('selected', 0):,} selected · "
        f"{counts.get('trained', 0):,} trained on\n"
        f"completion tokens: {counts.get('tokens_generated', 0):,} generated · "
        f"{counts.get('tokens_scored', 0):,} scored · {counts.get('tokens_trained', 0):,} trained on; "
        f"padding {record['padding']:.1%} of what was forwarded\n"
        f"speed-up over training on all G, padded as TRL does: {speed['estimated']:.2f}, estimated from what a "
        f"cell cost; the ceiling of m/G alone is {speed['ceiling']:.2f}"
    )


def same_value_fraction(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """The share of groups whose masked values `(P, G)` are all equal, of the groups that have any; NaN if none has."""
    least = np.where(mask, values, np.inf).min(axis=1)
    most = np.where(mask, values, -np.inf).max(axis=1)
    found = np.any(mask, axis=1)
    return float(np.mean(np.equal(least, most)[found])) if found.any() else float("nan")


def group_outcomes(correct: NDArray[np.bool_], mask: NDArray[np.bool_]) -> dict[str, float]:
    """The shares of groups of which all masked rollouts `(P, G)` are right, some, or none; of those that have any."""
    found = mask.sum(axis=1)
    right = (correct & mask).sum(axis=1)
    groups = np.stack([right == found, (right > 0) & (right < found), right == 0])[:, found > 0]
    shares = groups.mean(axis=1) if groups.size else np.full(3, np.nan)
    return dict(zip(("all_right", "mixed", "all_wrong"), shares.tolist(), strict=True))
