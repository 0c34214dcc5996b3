"""Whole groups are dealt to processes and micro-batches by tokens, and no row is lost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raml_trl.grpo.micro_batches import IDLE, deal_in_order
from raml_trl.grpo.packing.dealing import RowTokens, deal_groups, fill_micro_batches, split_between


def make_tokens(group: int, prefixes: list[int], branches: list[int]) -> RowTokens:
    """Return the tokens of rows in groups of `group` rows, in order."""
    rows = np.arange(len(branches)) // group
    return RowTokens(rows, np.array(prefixes)[rows], np.array(branches))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    processes, micro_batches, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), 4
    groups = processes * micro_batches * draw(st.integers(1, 2))
    window = draw(st.sampled_from([size for size in (1, 2, 4) if micro_batches % size == 0]))
    lengths = st.lists(st.integers(0, 60), min_size=groups * group, max_size=groups * group)
    flags = st.lists(st.booleans(), min_size=groups * group, max_size=groups * group)
    return {
        "tokens": make_tokens(
            group, draw(st.lists(st.integers(0, 90), min_size=groups, max_size=groups)), draw(lengths)
        ),
        "selected": np.array(draw(flags)).reshape(processes, -1),
        "live": np.array(draw(flags)),
        "micro_batches": micro_batches,
        "window": window,
        "limit": draw(st.integers(1, 600)),
    }


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_live_row_runs_once_in_its_step(case: dict) -> None:
    dealt = deal_in_order(case["selected"], case["micro_batches"])
    tokens, live, window = case["tokens"], case["live"], case["window"]
    result = deal_groups(
        case["selected"],
        tokens,
        case["micro_batches"],
        live=live.reshape(case["selected"].shape),
        window=window,
        limit=case["limit"],
        keep_unselected=False,
    )
    assert len(result) == case["micro_batches"]
    for start in range(0, len(result), window):
        step = result[start : start + window]
        expected = [row for row in dealt[start : start + window].ravel() if row != IDLE and live[row]]
        assert sorted(row for part in step for row in part.ravel() if row != IDLE) == sorted(expected)
        used = [part.shape[1] > 0 for part in step]
        assert used == sorted(used)  # empty micro-batches come first, and the last one always runs
        assert used[-1]
        counts = [tokens.count(rows[rows != IDLE]) for part in step for rows in part]
        longest = max((tokens.count(np.array([row])) for row in expected), default=0)
        if max(counts) > max(case["limit"], longest):  # then every micro-batch is in use
            assert all(used)


def test_with_deepspeed_unused_micro_batches_have_an_idle_row() -> None:
    tokens, selected = make_tokens(4, [100, 100], [10] * 8), np.ones((2, 4), dtype=bool)
    settings = {"live": None, "window": 4, "limit": 10_000, "keep_unselected": False}
    fewest = deal_groups(selected, tokens, 4, **settings)
    every = deal_groups(selected, tokens, 4, **settings, runs_unused=True)
    assert [part.shape for part in fewest[:3]] == [(2, 0)] * 3
    assert all((part == IDLE).all() and part.shape == (2, 1) for part in every[:3])
    assert (every[3] == fewest[3]).all()


def test_a_step_uses_as_few_micro_batches_as_the_limit_allows() -> None:
    tokens = make_tokens(4, [100, 100], [10] * 8)  # a group has 140 tokens
    selected = np.ones((1, 8), dtype=bool)

    def used(limit: int) -> list[int]:
        parts = deal_groups(selected, tokens, 8, live=None, window=8, limit=limit, keep_unselected=False)
        return [tokens.count(part[0]) for part in parts if part.size]

    assert used(280) == [280]
    assert used(279) == [140, 140]
    assert used(140) == [140, 140]
    assert used(139) == [130, 130, 110, 110] or sum(used(139)) == 4 * 100 + 80  # each group is cut once
    assert used(110) == [110] * 8
    assert used(1) == [110] * 8  # a longer row has a micro-batch of its own


def test_groups_are_cut_only_to_share_the_work() -> None:
    tokens = make_tokens(8, [50, 50], [10] * 16)
    whole = split_between(tokens.groups(np.arange(16)), tokens, 2)
    assert [sorted(np.concatenate(share).tolist()) for share in whole] == [list(range(8)), list(range(8, 16))]
    alone = split_between(tokens.groups(np.arange(8)), tokens, 2)
    assert [tokens.count(np.concatenate(share)) for share in alone] == [90, 90]  # half of a group each


@pytest.mark.parametrize(("branches", "size"), list(product([[5, 4, 3, 2], [9, 9, 1, 1]], [12, 14, 20, 40])))
def test_micro_batches_keep_within_their_size(branches: list[int], size: int) -> None:
    tokens = make_tokens(4, [3], branches)
    filled = fill_micro_batches(tokens.groups(np.arange(4)), tokens, size)
    assert sorted(np.concatenate(filled).tolist()) == [0, 1, 2, 3]
    assert max(map(tokens.count, filled)) <= size
