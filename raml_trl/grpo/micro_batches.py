"""Which process trains on which rows, and in which micro-batch: indices only, no tensors.

The gradient of an optimizer step is a sum over its rows, so within one step any row may move to any process and to any
micro-batch. The step stays what it is; its padding, and the waiting of one process for another, do not.

Shapes: W processes, R rows on each before selection, K micro-batches of each (TRL's `steps_per_generation`), N rows of
a micro-batch. Rows are numbered over all processes: row r lies on process r // R.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

IDLE = -1
"""In place of a row: this process has nothing left to train on, but must take part in the backward pass."""

_ROUNDS_AT_ONCE = 256  # bounds the search for the best cut, which is quadratic


def deal_micro_batches(
    selected: NDArray[np.bool_],
    num_micro_batches: int,
    *,
    window: int,
    lengths: NDArray[np.int64] | None,
    live: NDArray[np.bool_] | None,
    others: bool,
) -> list[NDArray[np.int64]]:
    """The K micro-batches of a generation, each `(W, N)` rows or `IDLE`; packed if there is anything to pack by.

    Args:
        selected: `(W, R)`; a multiple of W * K.
        num_micro_batches: K.
        window: micro-batches that are sure to fall into one optimizer step; divides K.
        lengths: `(W, R)` tokens of each row, to bucket by; None leaves rows of all lengths together.
        live: `(W, R)`, the rows that run; None runs all.
        others: whether rows that are not selected come along, as they do where the loss masks them.
    """
    dealt = deal_in_order(selected, num_micro_batches)
    if others:
        dealt = np.concatenate([dealt, deal_in_order(~selected, num_micro_batches)], axis=2)
    if lengths is None and live is None:
        return list(dealt)
    alike = np.ones(selected.shape, dtype=np.int64)
    lengths, live = alike if lengths is None else lengths, alike == 1 if live is None else live
    return pack_steps(dealt, lengths.ravel(), live.ravel(), window)


def deal_in_order(chosen: NDArray[np.bool_], num_micro_batches: int) -> NDArray[np.int64]:
    """Deal the chosen rows so that every process has equally many, and cut them into micro-batches in their order.

    A process keeps its own rows as far as its share goes; what it has too many of fills up the others.

    Args:
        chosen: `(W, R)`; the number chosen is a multiple of W * K.

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
    """Pack the live rows of every optimizer step into its micro-batches, with as little padding as can be.

    Rows are sorted by length and dealt in rounds, one to each process, the longest to the process with the fewest
    tokens so far. So at any moment all processes have rows of about the same length, and at the end about the same
    tokens. Then they are cut into micro-batches, the same cut on all processes.

    Args:
        dealt: `(K, W, N)`, as they were dealt in order.
        lengths: `(W * R,)` tokens of each row.
        live: `(W * R,)`, false for rows that add nothing to the gradient and are left out.
        window: micro-batches that are sure to fall into one optimizer step; divides K.

    Returns:
        For each of the K micro-batches `(W, N')` rows, or `IDLE` where a process has none. N' differs between
        micro-batches and is the same on all processes.
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
            least_first = np.argsort(load, kind="stable")  # whoever has least so far takes the longest
            row[least_first], token[least_first] = row.copy(), token.copy()
            load += token
    return (part.T for part in np.split(rounds, cut_by_width(widths, num_micro_batches)))


def cut_by_width(widths: NDArray[np.int64], num_parts: int) -> NDArray[np.int64]:
    """Cut rows sorted by width into parts so that the sum of (rows x widest row) over the parts is least.

    No part is larger, in rows x widest row, than the first of an even cut, so the peak of memory is no higher. Exact up
    to 256 rows; more are cut evenly first. A dynamic programme over the parts: O(parts x rows^2).

    Args:
        widths: `(N,)`, descending, N at least `num_parts`.

    Returns:
        `(num_parts - 1,)` positions to cut at, ascending.
    """
    num_rows = len(widths)
    assert 1 <= num_parts <= num_rows, (num_parts, num_rows)
    if num_rows > _ROUNDS_AT_ONCE and num_parts > 1:
        num_pieces = min(num_parts, -(-num_rows // _ROUNDS_AT_ONCE))
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
    best = costs[0]  # of the rows up to a place, in one part
    choices = []
    for _ in range(num_parts - 1):
        totals = best[:, None] + costs
        choices.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    cuts, place = np.empty(num_parts - 1, dtype=np.int64), num_rows
    for index, choice in reversed(list(enumerate(choices))):
        cuts[index] = place = choice[place]
    return cuts
