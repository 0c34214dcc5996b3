"""A packed row holds each prompt once, and every target sees exactly the tokens that stand before it in its rollout."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raml_trl.grpo.packing.layout import Layout, PackedRows, is_layout, pack_rows

PAD = 0
Rollout = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt and a completion. An empty completion is one whose tokens are all masked."""

sizes = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=4
)
tokens = st.integers(1, 3)  # few values, so that prompts are equal, or begin in the same way
rollouts = st.lists(
    st.tuples(st.lists(tokens, min_size=1, max_size=4).map(tuple), st.lists(tokens, max_size=4).map(tuple)),
    min_size=1,
    max_size=6,
)


def padded(rows: list[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and labels of rollouts, with prompts padded on the left and completions on the right."""
    before, after = (max(1, *(len(row[part]) for row in rows)) for part in (0, 1))
    ids = torch.full((len(rows), before + after), PAD)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, completion) in enumerate(rows):
        place = slice(before - len(prompt), before + len(completion))
        ids[row, place] = torch.tensor(prompt + completion)
        mask[row, place] = 1
        labels[row, before : before + len(completion)] = torch.tensor(completion, dtype=torch.long)
    return ids, mask, labels


def contexts(packed: PackedRows) -> list[list[int]]:
    """Return the tokens that each token of a branch sees, by walking through the groups one token at a time."""
    row, found, start = packed.input_ids[0].tolist(), [], 0
    for group in packed.layout.groups:
        prefix, start = row[start : start + group.prefix], start + group.prefix
        for size in group.branches:
            found += [prefix + row[start : start + length] for length in range(1, size + 1)]
            start += size
    assert start == len(row)
    return found


@given(sizes)
def test_a_layout_survives_a_mask_without_its_attribute(groups: list[tuple[int, list[int]]]) -> None:
    layout = Layout.of([prefix for prefix, _ in groups], [branches for _, branches in groups])
    mask = layout.encode(torch.device("cpu"))
    assert is_layout(mask)
    assert mask.shape == (1, 1, 2, layout.size)
    assert Layout.decode(mask.clone()) == layout == Layout.decode(mask)
    assert not hasattr(mask.clone(), "packed_layout")
    expected = [
        position
        for prefix, branches in groups
        for position in (
            *range(prefix),
            *(place for size in branches for place in range(prefix, prefix + size)),
        )
    ]
    assert layout.positions.tolist() == expected


@given(rollouts)
def test_every_target_sees_the_tokens_before_it(rows: list[Rollout]) -> None:
    ids, mask, labels = padded(rows)
    packed = pack_rows(ids, mask, labels)
    assert packed is not None
    width, before = ids.size(1), max(len(prompt) for prompt, _ in rows)
    shown = [row for row in rows if row[1]]
    if shown:
        expected = Counter(
            (row * width + before + index, prompt + completion[:index], completion[index])
            for row, (prompt, completion) in enumerate(rows)
            for index in range(len(completion))
        )
    else:  # something must run
        row = min(range(len(rows)), key=lambda row: len(rows[row][0]))
        shown, expected = [(rows[row][0], (PAD,))], Counter([(row * width + before, rows[row][0], PAD)])
    found = zip(packed.places.tolist(), map(tuple, contexts(packed)), packed.targets[0].tolist(), strict=True)
    assert Counter(found) == expected
    assert packed.input_ids.size(1) == packed.layout.size
    distinct = {prompt for prompt, _ in shown}
    assert packed.layout.size == sum(len(prompt) - 1 for prompt in distinct) + sum(len(row[1]) for row in shown)
    assert np.array_equal(packed.position_ids[0].numpy(), packed.layout.positions)
    lengths = [len(context) - 1 for context in contexts(packed)]
    assert packed.position_ids[0, torch.from_numpy(packed.layout.branch_tokens)].tolist() == lengths


EDGES: dict[str, tuple[list[list[int]], list[list[int]], list[list[int]]]] = {
    "padding between tokens": ([[1, 2, 0, 3]], [[1, 1, 0, 1]], [[-100, -100, -100, 3]]),
    "no prompt": ([[0, 0, 2, 3]], [[0, 0, 1, 1]], [[-100, -100, 2, 3]]),
    "a token that is not predicted between two that are": ([[1, 2, 3, 4]], [[1] * 4], [[-100, 2, -100, 4]]),
    "tokens after the predicted ones": ([[1, 2, 3, 4]], [[1] * 4], [[-100, 2, 3, -100]]),
    "nothing but padding": ([[1, 2], [0, 0]], [[1, 1], [0, 0]], [[-100, 2], [-100, -100]]),
    "no column for a completion": ([[1, 2]], [[1, 1]], [[-100, -100]]),
}


@pytest.mark.parametrize("name", EDGES)
def test_rows_that_cannot_be_packed(name: str) -> None:
    assert pack_rows(*(torch.tensor(rows) for rows in EDGES[name])) is None


@settings(max_examples=30)
@given(rollouts)
def test_padding_around_a_batch_does_not_matter(rows: list[Rollout]) -> None:
    ids, mask, labels = padded(rows)
    plain = pack_rows(ids, mask, labels)
    wide = pack_rows(*(torch.nn.functional.pad(t, (2, 3), value=v) for t, v in ((ids, PAD), (mask, 0), (labels, -100))))
    assert plain is not None
    assert wide is not None
    assert plain.layout == wide.layout
    assert torch.equal(plain.input_ids, wide.input_ids)
    assert torch.equal(plain.targets, wide.targets)
