"""Assigns whole groups of rollouts to processes and micro-batches, by the number of tokens in packed rows.

Rows with the same prompt form a group, and the prompt runs once in each micro-batch that has rows of the group. So a
group stays together unless it is larger than a micro-batch, or some process would have too little to do. A step uses as
few micro-batches as the limit of tokens allows. Unused micro-batches are empty and come first, because DDP exchanges
gradients in the last micro-batch. With DeepSpeed, which needs gradients from every micro-batch, unused micro-batches
have an idle row instead.

Shapes: W processes; K micro-batches per process, of which `window` consecutive ones form an optimizer step, or a part
of one. Rows are numbered over all processes, as in `micro_batches`; there are R in all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo.micro_batches import IDLE, deal_in_order

Rows = NDArray[np.int64]
"""Row numbers."""
_SEARCH_STEPS = 12  # of the search for the smallest micro-batches


@dataclass(frozen=True)
class RowTokens:
    """Which of the R rows of all processes have the same prompt, and how many tokens each row has.

    Attributes:
        prompts: `(R,)`: a number that identifies the prompt: it is equal for rows with the same prompt.
        prefixes: `(R,)`: number of tokens of the prompt that rows share, that is all but the last.
        branches: `(R,)`: number of tokens of the completion.
    """

    prompts: NDArray[np.int64]
    prefixes: NDArray[np.int64]
    branches: NDArray[np.int64]

    def count(self, rows: Rows) -> int:
        """Return the number of tokens in the packed row of a micro-batch of `rows`."""
        _, firsts = np.unique(self.prompts[rows], return_index=True)
        return int(self.prefixes[rows][firsts].sum() + self.branches[rows].sum())

    def count_piece(self, rows: Rows) -> int:
        """Return the number of tokens in the packed row of `rows` that all have the same prompt."""
        return int(self.prefixes[rows[0]] + self.branches[rows].sum())

    def groups(self, rows: Rows) -> list[Rows]:
        """Return `rows` grouped by prompt. In each group, rows with longer completions come first."""
        rows = rows[np.argsort(-self.branches[rows], kind="stable")]
        order = np.argsort(self.prompts[rows], kind="stable")
        _, counts = np.unique(self.prompts[rows], return_counts=True)
        return np.split(rows[order], np.cumsum(counts)[:-1]) if len(rows) else []


def deal_groups(
    selected: NDArray[np.bool_],
    tokens: RowTokens,
    num_micro_batches: int,
    *,
    live: NDArray[np.bool_] | None,
    window: int,
    limit: int,
    keep_unselected: bool,
    runs_unused: bool = False,
) -> list[NDArray[np.int64]]:
    """Assign the rows that have to run in each optimizer step to processes and micro-batches.

    Rows with the same prompt stay together where possible. There are R rows in all, and W processes.

    Args:
        selected: `(W, R / W)`; true for selected rows.
        tokens: the tokens of all rows.
        num_micro_batches: K, the number of micro-batches of each process.
        live: `(W, R / W)`; false for rows to skip, because they add nothing to the gradient; None to skip none.
        window: number of consecutive micro-batches that always fall into the same optimizer step; divides K.
        limit: tokens that a micro-batch may have. It is exceeded if a single row is longer, or if the rows of a step do
            not fit into its micro-batches.
        keep_unselected: whether rows that are not selected run too, for a loss that masks them.
        runs_unused: whether a micro-batch without rows still runs, with an idle row on every process.

    Returns:
        K micro-batches, each `(W, N')`: the numbers of the N' rows that each process runs, with `IDLE` in the place of
        a row that is missing. N' is 0 if the micro-batch does not run.
    """
    dealt = deal_in_order(selected, num_micro_batches)  # decides which rows fall into which step
    if keep_unselected:
        dealt = np.concatenate([dealt, deal_in_order(~selected, num_micro_batches)], axis=2)
    live = np.ones(selected.size, dtype=bool) if live is None else live.ravel()
    steps = dealt.reshape(len(dealt) // window, window, *dealt.shape[1:])
    return [part for step in steps for part in _deal_step(step, tokens, live, limit, int(runs_unused))]


def _deal_step(
    dealt: NDArray[np.int64], tokens: RowTokens, live: NDArray[np.bool_], limit: int, idle: int
) -> Iterator[NDArray[np.int64]]:
    num_micro_batches, num_processes, _ = dealt.shape
    rows = dealt.swapaxes(0, 1).ravel()
    rows = rows[rows != IDLE]
    rows = rows[live[rows]]
    shares = split_between(tokens.groups(rows), tokens, num_processes)
    filled = fill_evenly(shares, tokens, limit, num_micro_batches)
    used = max(map(len, filled), default=0) or 1
    yield from [np.full((num_processes, idle), IDLE)] * (num_micro_batches - used)
    for index in range(used):
        parts = [bins[index] if index < len(bins) else np.empty(0, dtype=np.int64) for bins in filled]
        width = max(1, *map(len, parts))
        yield np.stack([np.append(part, np.full(width - len(part), IDLE)) for part in parts])


def split_between(groups: Sequence[Rows], tokens: RowTokens, num_processes: int) -> list[list[Rows]]:
    """Return for each process its whole groups or pieces of groups, so that none has many more tokens than others.

    All groups are cut into the same number of pieces, if they have enough rows. Each piece, the largest first, goes to
    the process with the fewest tokens so far. Every number of pieces up to the number of processes is tried; the one
    with which the process with the most tokens has the fewest is used.
    """
    best: tuple[int, list[list[Rows]]] | None = None
    most = max(map(len, groups), default=1)
    for number in range(1, min(most, num_processes) + 1):
        pieces = [group[start::number] for group in groups for start in range(min(number, len(group)))]
        loads = [0] * num_processes
        shares: list[list[Rows]] = [[] for _ in range(num_processes)]
        for piece in sorted(pieces, key=tokens.count_piece, reverse=True):
            process = loads.index(min(loads))
            loads[process] += tokens.count_piece(piece)
            shares[process].append(piece)
        if best is None or max(loads) < best[0]:
            best = max(loads), shares
    assert best is not None
    return best[1]


def fill_evenly(
    shares: Sequence[Sequence[Rows]], tokens: RowTokens, limit: int, num_micro_batches: int
) -> list[list[Rows]]:
    """Return for each process its micro-batches, the one with the most tokens first.

    The largest number of micro-batches that any process gets is as small as `limit` allows, and at most
    `num_micro_batches`: if the rows do not fit into so many, micro-batches have more than `limit` tokens. Tokens are
    spread so that, with this number of micro-batches, the largest one is about as small as possible.

    Args:
        shares: the groups, or pieces of groups, of each process, from `split_between`.
        tokens: the tokens of all rows.
        limit: tokens that a micro-batch should not exceed; it does so if a single row is longer.
        num_micro_batches: largest number of micro-batches of a process.
    """

    def fill(size: int) -> list[list[Rows]]:
        return [fill_micro_batches(share, tokens, size) for share in shares]

    def number(size: int) -> int:
        return max(map(len, fill(size)))

    pieces = [piece for share in shares for piece in share]
    longest = max((tokens.count_piece(piece[:1]) for piece in pieces), default=1)
    total = max(sum(map(tokens.count_piece, share)) for share in shares)
    size = max(limit, longest)
    if number(size) > num_micro_batches:
        size = _smallest(size, max(total, size), lambda size: number(size) <= num_micro_batches)
    needed = number(size)
    if needed > 1:
        size = _smallest(longest, size, lambda size: number(size) <= needed)
    return [sorted(bins, key=tokens.count, reverse=True) for bins in fill(size)]


def fill_micro_batches(pieces: Iterable[Rows], tokens: RowTokens, size: int) -> list[Rows]:
    """Fill micro-batches of at most `size` tokens: each piece, the largest first, goes into the first with room.

    A piece that is larger than `size` is cut. A row that is larger than `size` gets a micro-batch of its own.
    """
    bins: list[list[Rows]] = []
    room: list[int] = []

    def place(piece: Rows, count: int) -> None:
        index = next((index for index, free in enumerate(room) if free >= count), len(bins))
        if index == len(bins):
            bins.append([])
            room.append(size)
        bins[index].append(piece)
        room[index] -= count

    small: list[tuple[int, Rows]] = []
    for piece in pieces:
        while (count := tokens.count_piece(piece)) > size and len(piece) > 1:
            counts = tokens.prefixes[piece[0]] + np.cumsum(tokens.branches[piece])
            cut = max(1, int(np.searchsorted(counts, size, side="right")))
            place(piece[:cut], int(counts[cut - 1]))
            piece = piece[cut:]
        small.append((count, piece))
    for count, piece in sorted(small, key=itemgetter(0), reverse=True):
        place(piece, count)
    return [np.concatenate(parts) for parts in bins]


def _smallest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return about the smallest size for which `holds` is true, which it is for `high`."""
    for _ in range(_SEARCH_STEPS):
        if low >= high:
            break
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
