"""Decides which process trains on which rows, and in which micro-batch: indices only, no tensors.

The gradient of an optimizer step is a sum over its rows, so within a step any row may move to any process and any
micro-batch. Moving rows reduces padding and the time that processes wait for each other; the step stays the same.
Losses with a mean over a micro-batch are the exception: see `per_micro_batch_terms`.

Shapes: W processes, R rows on each before selection, K micro-batches of each (TRL's `steps_per_generation`), N rows of
a micro-batch. Rows are numbered over all processes: row r lies on process r // R.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IDLE = -1
"""Stands for a missing row: the process has no row left to train on, but must take part in the backward pass."""

_MAX_ROUNDS_PER_CUT = 256  # bounds the search for the best cut, which is quadratic

# Settings that add a mean over one micro-batch to the loss, with the values that switch the term off; default first.
_MICRO_BATCH_MEANS: dict[str, tuple[object, ...]] = {
    "entropy_coef": (0.0,),
    "use_adaptive_entropy": (False,),
    "top_entropy_quantile": (1.0,),
    "router_aux_loss_coef": (None, 0.0),
}


class RowRules(NamedTuple):
    """What may happen to rows within an optimizer step."""

    length_bucketing: bool
    skip_zero_advantage: bool


def per_micro_batch_terms(settings: Mapping[str, object]) -> list[str]:
    """Name the settings that make the loss depend on which rows share a micro-batch.

    Args:
        settings: fields of `SubsetGRPOConfig` by name; missing ones have TRL's default.
    """
    terms = ["loss_type: bnpo"] if settings.get("loss_type") == "bnpo" else []
    return terms + [name for name, off in _MICRO_BATCH_MEANS.items() if settings.get(name, off[0]) not in off]


def settle_row_rules(settings: Mapping[str, object], *, router_loss: bool = False) -> RowRules:
    """Decide `length_bucketing` and `skip_zero_advantage` if the settings leave them at None.

    Both are on by default if they leave the gradient of the step unchanged.

    Args:
        settings: fields of `SubsetGRPOConfig` by name; missing ones have their default.
        router_loss: whether the model adds a router loss, which is a mean over a micro-batch.
    """
    movable = not per_micro_batch_terms(settings) and not router_loss
    skippable = movable and settings.get("beta", 0.0) == 0.0 and settings.get("subset_mode", "drop") == "drop"
    bucketing, skipping = settings.get("length_bucketing"), settings.get("skip_zero_advantage")
    return RowRules(
        length_bucketing=movable if bucketing is None else bool(bucketing),
        skip_zero_advantage=skippable if skipping is None else bool(skipping),
    )


def deal_micro_batches(
    selected: NDArray[np.bool_],
    num_micro_batches: int,
    *,
    window: int,
    lengths: NDArray[np.int64] | None,
    live: NDArray[np.bool_] | None,
    keep_unselected: bool,
) -> list[NDArray[np.int64]]:
    """Return the K micro-batches of a generation, each `(W, N)` rows or `IDLE`.

    Rows are packed by length and liveness if `lengths` or `live` is given, and dealt in order otherwise.

    Args:
        selected: `(W, R)`; the number selected is a multiple of W * K.
        num_micro_batches: K.
        window: micro-batches that always fall into one optimizer step; divides K.
        lengths: `(W, R)` tokens of each row, to bucket by; None leaves rows of all lengths together.
        live: `(W, R)`, the rows that run; None runs all.
        keep_unselected: whether rows that are not selected run too, for a loss that masks them.
    """
    dealt = deal_in_order(selected, num_micro_batches)
    if keep_unselected:
        dealt = np.concatenate([dealt, deal_in_order(~selected, num_micro_batches)], axis=2)
    if lengths is None and live is None:
        return list(dealt)
    alike = np.ones(selected.shape, dtype=np.int64)
    lengths, live = alike if lengths is None else lengths, alike == 1 if live is None else live
    return pack_steps(dealt, lengths.ravel(), live.ravel(), window)


def deal_in_order(chosen: NDArray[np.bool_], num_micro_batches: int) -> NDArray[np.int64]:
    """Deal the chosen rows to processes in equal numbers, and cut them into micro-batches in their order.

    A process keeps its own rows up to its share; its surplus goes to processes with too few.

    Args:
        chosen: `(W, R)`; the number chosen is a multiple of W * K.
        num_micro_batches: K.

    Returns:
        `(K, W, N)`.
    """
    num_processes = len(chosen)
    share, remainder = divmod(int(chosen.sum()), num_processes)
    assert remainder == 0 == share % num_micro_batches, (chosen.sum(), num_processes, num_micro_batches)
    kept = chosen & (np.cumsum(chosen, axis=1) <= share)
    missing = share - kept.sum(axis=1)
    rows = np.concatenate([np.flatnonzero(kept), np.flatnonzero(chosen & ~kept)])
    owners = np.concatenate([np.nonzero(kept)[0], np.repeat(np.arange(num_processes), missing)])
    hands = rows[np.argsort(owners, kind="stable")].reshape(num_processes, num_micro_batches, -1)
    return hands.swapaxes(0, 1)


def pack_steps(
    dealt: NDArray[np.int64], lengths: NDArray[np.int64], live: NDArray[np.bool_], window: int
) -> list[NDArray[np.int64]]:
    """Pack the live rows of every optimizer step into its micro-batches with little padding.

    Rows are sorted by length and dealt in rounds of one row per process; in each round the longest row goes to the
    process with the fewest tokens so far. All processes then have rows of similar length at any moment, and similar
    totals at the end. Finally all processes cut their rows into micro-batches at the same places.

    Args:
        dealt: `(K, W, N)`, from `deal_in_order`.
        lengths: `(W * R,)` tokens of each row.
        live: `(W * R,)`, false for rows to leave out because they add nothing to the gradient.
        window: micro-batches that always fall into one optimizer step; divides K.

    Returns:
        K micro-batches, each `(W, N')` rows, or `IDLE` where a process has none. N' differs between micro-batches but
        not between processes.
    """
    num_micro_batches = len(dealt)
    assert num_micro_batches % window == 0, (num_micro_batches, window)
    steps = dealt.reshape(num_micro_batches // window, window, *dealt.shape[1:])
    return [part for step in steps for part in _pack_step(step, lengths, live)]


def _pack_step(
    dealt: NDArray[np.int64], lengths: NDArray[np.int64], live: NDArray[np.bool_]
) -> Iterator[NDArray[np.int64]]:
    num_micro_batches, num_processes, _ = dealt.shape
    rows = dealt.swapaxes(0, 1).ravel()
    rows = rows[live[rows]]
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    num_rounds = max(-(-len(rows) // num_processes), num_micro_batches)
    rounds = np.full((num_rounds, num_processes), IDLE)
    rounds.ravel()[: len(rows)] = rows
    tokens = np.where(rounds == IDLE, 1, lengths[rounds])  # descending in each round, and from one to the next
    widths = tokens[:, 0].copy()
    if num_processes > 1:
        load = np.zeros(num_processes, dtype=np.int64)
        for row, token in zip(rounds, tokens, strict=True):
            least_first = np.argsort(load, kind="stable")
            row[least_first], token[least_first] = row.copy(), token.copy()
            load += token
    return (part.T for part in np.split(rounds, cut_by_width(widths, num_micro_batches)))


def cut_by_width(widths: NDArray[np.int64], num_parts: int) -> NDArray[np.int64]:
    """Cut rows sorted by width into parts, minimising the sum of (rows x widest row) over the parts.

    No part exceeds the first part of an even cut in rows x widest row, so peak memory does not rise. The result is
    optimal up to 256 rows; more rows are first cut evenly. A dynamic programme over the parts: O(parts x rows^2).

    Args:
        widths: `(N,)`, descending, N at least `num_parts`.

    Returns:
        `(num_parts - 1,)` positions to cut at, ascending.
    """
    num_rows = len(widths)
    assert 1 <= num_parts <= num_rows, (num_parts, num_rows)
    if num_rows > _MAX_ROUNDS_PER_CUT and num_parts > 1:
        num_pieces = min(num_parts, -(-num_rows // _MAX_ROUNDS_PER_CUT))
        parts = np.arange(num_pieces + 1) * num_parts // num_pieces
        edges = parts * num_rows // num_parts
        inner = [
            cut_by_width(widths[start:stop], int(wanted)) + start
            for start, stop, wanted in zip(edges[:-1], edges[1:], np.diff(parts), strict=True)
        ]
        return np.sort(np.concatenate([edges[1:-1], *inner]))
    places = np.arange(num_rows + 1)
    sizes = places[None, :] - places[:, None]  # (from, to)
    costs = np.where(sizes > 0, sizes * np.append(widths, 0)[:, None], np.inf)
    costs[costs > -(-num_rows // num_parts) * widths[0]] = np.inf
    best = costs[0]  # (N + 1,): cost of the rows before each place, in one part
    choices = []
    for _ in range(num_parts - 1):
        totals = best[:, None] + costs
        choices.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    cuts, place = np.empty(num_parts - 1, dtype=np.int64), num_rows
    for index, choice in reversed(list(enumerate(choices))):
        cuts[index] = place = choice[place]
    return cuts


def cut_for_scoring(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], max_rows: int, *, bucketing: bool
) -> list[NDArray[np.int64]]:
    """Cut the rows to score into batches of about `max_rows`, sorted by length if `bucketing`.

    Args:
        rows: positions in `lengths`.
        lengths: `(R,)` tokens of each row.
        max_rows: of an even cut.
        bucketing: whether to sort rows by length and to choose the cuts by `cut_by_width`.
    """
    num_parts = -(-len(rows) // max_rows)
    if not bucketing:
        return np.array_split(rows, num_parts)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    return np.split(rows, cut_by_width(lengths[rows], num_parts))
