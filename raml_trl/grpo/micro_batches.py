"""Decides which process trains on which rows, and in which micro-batch. It works on row numbers, not on tensors.

The gradient of an optimizer step is a sum over its rows, so within a step any row may move to any process and any
micro-batch without changing the gradient. Moving rows reduces padding and the time that processes wait for each other.
Losses with a mean over one micro-batch are the exception: see `row_rules.per_micro_batch_terms`.

Dealing rows means distributing them over processes and micro-batches. Live rows are those that are trained on if they
are selected; the others have advantage 0 and are skipped.

Shapes: W processes with R rows each before selection; each process has K micro-batches (TRL's `steps_per_generation`)
of N rows. Rows are numbered over all processes: row r is on process r // R.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

IDLE = -1
"""A row number that stands for no row: the process has no row left to train on, but must run a backward pass."""

_MAX_ROUNDS_PER_CUT = 256  # limits the search for the best cut, whose cost is quadratic


def deal_micro_batches(
    selected: NDArray[np.bool_],
    num_micro_batches: int,
    *,
    window: int,
    lengths: NDArray[np.int64] | None,
    live: NDArray[np.bool_] | None,
    keep_unselected: bool,
) -> list[NDArray[np.int64]]:
    """Assign the rows of a generation to processes and micro-batches.

    W is the number of processes and R the number of rows that each of them has generated. Rows are numbered from 0 to
    W * R - 1 over all processes. If neither `lengths` nor `live` is given, rows keep their order. Otherwise
    `pack_steps` reorders them.

    Args:
        selected: `(W, R)`; true for selected rows.
        num_micro_batches: K, the number of micro-batches of each process.
        window: number of consecutive micro-batches that always fall into the same optimizer step; divides K.
        lengths: `(W, R)`: tokens of each row, to put rows of similar length together; None to ignore lengths.
        live: `(W, R)`; false for rows that need not run, such as rows with advantage 0; None if all have to run.
        keep_unselected: whether rows that are not selected run too, for a loss that masks them.

    Returns:
        K micro-batches, each `(W, N)`: the numbers of the N rows that each process runs, with `IDLE` in the place of a
        row that is missing. N can differ between micro-batches.
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
    """Assign about equally many of the chosen rows to every process, and cut them into micro-batches in order.

    A process keeps its own chosen rows, up to an equal share of all chosen rows. Its other chosen rows go to processes
    that have less than this share. If the number of chosen rows is a multiple of W * K, all micro-batches have the same
    number of rows. Otherwise some have one row less, and `IDLE` in its place.

    Args:
        chosen: `(W, R)`, for W processes with R rows each; true for the rows to assign.
        num_micro_batches: K, the number of micro-batches of each process.

    Returns:
        `(K, W, N)`: the numbers of the N rows that each process has in each micro-batch.
    """
    num_processes = len(chosen)
    shares = np.array([len(part) for part in np.array_split(np.empty(chosen.sum()), num_processes)])
    kept = chosen & (np.cumsum(chosen, axis=1) <= shares[:, None])
    rows = np.concatenate([np.flatnonzero(kept), np.flatnonzero(chosen & ~kept)])
    owners = np.concatenate([np.nonzero(kept)[0], np.repeat(np.arange(num_processes), shares - kept.sum(axis=1))])
    hands = np.split(rows[np.argsort(owners, kind="stable")], np.cumsum(shares)[:-1])
    dealt = np.full((num_micro_batches, num_processes, -(-int(shares[0]) // num_micro_batches)), IDLE)
    for process, hand in enumerate(hands):
        for index, part in enumerate(np.array_split(hand, num_micro_batches)):
            dealt[index, process, : len(part)] = part
    return dealt


def pack_steps(
    dealt: NDArray[np.int64], lengths: NDArray[np.int64], live: NDArray[np.bool_], window: int
) -> list[NDArray[np.int64]]:
    """Pack the live rows of every optimizer step into its micro-batches with little padding.

    Rows are sorted by length and assigned in rounds of one row per process. In each round the longest row goes to the
    process with the fewest tokens so far, the second longest to the process with the second fewest, and so on. At any
    moment all processes then run rows of similar length, and at the end they have run similar numbers of tokens.
    Finally all processes cut their rows into micro-batches after the same rounds.

    Args:
        dealt: `(K, W, N)`, from `deal_in_order`: the numbers of N rows for each of K micro-batches and W processes.
        lengths: `(W * R,)`, with R rows on each process before selection: tokens of each row.
        live: `(W * R,)`; false for rows to skip, because they add nothing to the gradient.
        window: number of consecutive micro-batches that always fall into the same optimizer step; divides K.

    Returns:
        K micro-batches, each `(W, N')`: the row numbers of each process, or `IDLE` where a process has no row. The
        number N' of rows can differ between micro-batches, but not between processes.
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
    rows = rows[rows != IDLE]
    rows = rows[live[rows]]
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    num_rounds = max(-(-len(rows) // num_processes), num_micro_batches)
    rounds = np.full((num_rounds, num_processes), IDLE)
    rounds.ravel()[: len(rows)] = rows
    tokens = np.where(rounds == IDLE, 1, lengths[rounds])  # descending within a round and from round to round
    widths = tokens[:, 0].copy()
    if num_processes > 1:
        load = np.zeros(num_processes, dtype=np.int64)
        for row, token in zip(rounds, tokens, strict=True):
            least_first = np.argsort(load, kind="stable")
            row[least_first], token[least_first] = row.copy(), token.copy()
            load += token
    return (part.T for part in np.split(rounds, cut_by_width(widths, num_micro_batches)))


def cut_by_width(widths: NDArray[np.int64], num_parts: int) -> NDArray[np.int64]:
    """Cut rows sorted by width into `num_parts` parts, so that the sum of the sizes of the parts is smallest.

    The size of a part is its number of rows times the width of its widest row. If the rows were cut into parts with
    equal numbers of rows, the first part would be the largest. No part of the result is larger than that one, so peak
    memory does not rise. The result is optimal for up to 256 rows, by a dynamic programme in O(parts x rows^2). More
    than 256 rows are first cut evenly into pieces, and then every piece is cut optimally.

    Args:
        widths: `(N,)`: width of each of the N rows in tokens, descending.
        num_parts: number of parts, from 1 to N.

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
    best = costs[0]  # (N + 1,): cost of all rows before each place, as one part
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
    """Cut the rows whose log-probabilities are needed into batches, and return the row numbers of each batch.

    There are as few batches as `max_rows` rows per batch allow.

    Args:
        rows: numbers of the rows: their positions in `lengths`.
        lengths: `(R,)`: tokens of each of the R rows of this process.
        max_rows: maximum number of rows of a batch without `bucketing`; with it, a batch of short rows may have more.
        bucketing: whether to sort rows by length and to cut them by `cut_by_width`.
    """
    num_parts = -(-len(rows) // max_rows)
    if not bucketing:
        return np.array_split(rows, num_parts)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    return np.split(rows, cut_by_width(lengths[rows], num_parts))
