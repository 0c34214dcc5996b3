"""Packs rollouts into one row of tokens that holds each prompt once and has no padding.

The packed row consists of groups. A group starts with the prefix: all tokens of the prompt but the last. One branch per
rollout follows: the last token of the prompt, and all tokens of the completion but the last. A branch continues the
positions of the prefix, and attends to the prefix and to itself. So each token of a branch predicts one token of the
completion, and no token is predicted twice.

    prompt a b c, completions x y and z:    a b | c x | c
    predicted                               - - | x y | z

Shapes: N rollouts in a batch padded to S tokens; T tokens in the packed row, of which L are in branches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Where a group, a prompt with its completions, is in the packed row.

    Attributes:
        start: position of its first token in the packed row.
        prefix: number of tokens in the prefix, the prompt without its last token; may be 0.
        branches: number of tokens in each branch, at least 1 each. There is one branch per completion.
    """

    start: int
    prefix: int
    branches: tuple[int, ...]

    @property
    def branch_start(self) -> int:
        """The position of the first branch in the packed row."""
        return self.start + self.prefix

    @property
    def stop(self) -> int:
        """The position after the last token of the group."""
        return self.branch_start + sum(self.branches)

    @property
    def branch_slices(self) -> Iterator[slice]:
        """The slice of the packed row that each branch takes."""
        starts = accumulate(self.branches, initial=self.branch_start)
        return (slice(start, start + size) for start, size in zip(starts, self.branches, strict=False))


@dataclass(frozen=True)
class Layout:
    """The groups of a packed row, in order."""

    groups: tuple[Group, ...]

    @classmethod
    def of(cls, prefixes: Sequence[int], branches: Sequence[Sequence[int]]) -> "Layout":
        """Return the layout of groups with these numbers of tokens in their prefix and in their branches."""
        sizes = [prefix + sum(lengths) for prefix, lengths in zip(prefixes, branches, strict=True)]
        starts = accumulate(sizes[:-1], initial=0)
        return cls(tuple(map(Group, starts, prefixes, map(tuple, branches))))

    @property
    def size(self) -> int:
        """Number of tokens T in the packed row."""
        return self.groups[-1].stop

    @cached_property
    def branch_tokens(self) -> NDArray[np.int64]:
        """`(L,)`: where in the packed row the L tokens of all branches stand, in order."""
        return np.concatenate([np.arange(group.branch_start, group.stop) for group in self.groups])

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """`(T,)`: the position ids of the T tokens of the packed row."""
        return np.concatenate(
            [
                np.arange(first, first + size)
                for group in self.groups
                for first, size in [(0, group.prefix), *((group.prefix, size) for size in group.branches)]
            ]
        )

    def encode(self, device: torch.device) -> Tensor:
        """Return the layout as an integer tensor `(1, 1, 2, T)`, which a model hands to its attention as a 4-D mask.

        For each of T tokens it has the number of the group, and the number of the branch, which is 0 for the prefix.
        Masks are boolean or floating-point, so an attention function that does not know the layout rejects this one.
        """
        numbers = np.concatenate(
            [
                np.stack(
                    [
                        np.full(group.stop - group.start, number),
                        np.repeat(np.arange(len(group.branches) + 1), (group.prefix, *group.branches)),
                    ]
                )
                for number, group in enumerate(self.groups)
            ],
            axis=1,
        )
        mask = torch.from_numpy(numbers.astype(np.int32)).to(device)[None, None]
        mask.packed_layout = self  # type: ignore[attr-defined]  # saves decoding it in every layer
        return mask

    @classmethod
    def decode(cls, mask: Tensor) -> "Layout":
        """Return the layout that `encode` has written into `mask`."""
        layout = getattr(mask, "packed_layout", None)
        if isinstance(layout, cls):
            return layout
        groups, branches = mask[0, 0].cpu().numpy()
        sizes = [np.bincount(branches[groups == number]) for number in range(groups[-1] + 1)]
        return cls.of([int(size[0]) for size in sizes], [size[1:].tolist() for size in sizes])


def is_layout(mask: object) -> TypeGuard[Tensor]:
    """Return whether an attention mask is an encoded layout."""
    return isinstance(mask, Tensor) and mask.ndim == 4 and mask.dtype == torch.int32


@dataclass(frozen=True)
class PackedRows:
    """A batch of N rollouts, padded to S tokens, that is packed into one row of T tokens, of which L are in branches.

    Attributes:
        layout: the groups of the packed row.
        input_ids: `(1, T)`: the tokens of the packed row.
        position_ids: `(1, T)`: their positions.
        targets: `(1, L)`: the token that each token of a branch predicts.
        places: `(L,)`: where the targets stand in the `input_ids` `(N, S)` of the batch, flattened to `(N * S,)`.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    places: Tensor


def pack_rows(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> PackedRows | None:
    """Pack a batch of rollouts; return None if it has a row that cannot be packed.

    Rollouts with the same prompt form a group. Rollouts without a token to predict are left out. If no rollout has such
    a token, the rollout with the shortest prompt is packed with the padding token that follows its prompt, so that
    there is something to run. If no token follows the prompt, the result is None.

    A row cannot be packed if padding lies between its tokens, or if the tokens to predict do not all follow a prompt.

    Args:
        input_ids: `(N, S)`, for N rows of S tokens: prompts padded on the left, and completions padded on the right.
        attention_mask: `(N, S)`; 0 for padding.
        labels: `(N, S)`: the token itself where it is to be predicted, otherwise -100.
    """
    device, width = input_ids.device, input_ids.size(1)
    ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy() != 0
    scored = labels.cpu().numpy() != -100
    starts, counts, lengths = mask.argmax(axis=1), mask.sum(axis=1), scored.sum(axis=1)
    stops, prompts = starts + counts, counts - lengths
    columns = np.arange(width)
    contiguous = mask == (columns >= starts[:, None]) & (columns < stops[:, None])
    last = scored == (columns >= (stops - lengths)[:, None]) & (columns < stops[:, None])
    if not (contiguous.all() and last.all() and (prompts >= 1).all()):
        return None
    if not lengths.any():
        first = int(np.argmin(prompts))
        lengths[first] = 1
        if starts[first] + prompts[first] == width:  # no completion column
            return None
    groups: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(lengths).tolist():
        groups.setdefault(ids[row, starts[row] : starts[row] + prompts[row]].tobytes(), []).append(row)
    sources, places = [], []
    for rows in groups.values():
        prefix = int(prompts[rows[0]]) - 1
        sources.append(rows[0] * width + starts[rows[0]] + np.arange(prefix))
        for row in rows:
            branch = row * width + starts[row] + prefix + np.arange(lengths[row])
            sources.append(branch)
            places.append(branch + 1)
    layout = Layout.of(
        [int(prompts[rows[0]]) - 1 for rows in groups.values()], [lengths[rows].tolist() for rows in groups.values()]
    )
    source, place = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (sources, places))
    position = torch.from_numpy(layout.positions).to(device)
    flat = input_ids.flatten()
    return PackedRows(layout, flat[source][None], position[None], flat[place][None], place)
