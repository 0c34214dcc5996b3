"""Which rollouts are selected, and that nothing but the key decides it."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from raml_trl.selection import Selection, group_draws, select_rollouts


def select(num_groups: int, num_rollouts: int, num_selected: int, **key: int) -> Selection:
    zeros = np.zeros((num_groups, num_rollouts))
    return select_rollouts(zeros, zeros, num_selected, strategy="random", **({"seed": 0, "step": 0} | key))


@pytest.mark.parametrize(("rollouts", "selected"), [(8, 1), (8, 3), (8, 8), (5, 2), (2, 1)])
def test_shape_and_order(rollouts: int, selected: int) -> None:
    selection = select(50, rollouts, selected)
    assert selection.indices.shape == selection.weights.shape == (50, selected)
    assert (np.diff(selection.indices, axis=1) > 0).all()
    assert selection.indices.min() >= 0
    assert selection.indices.max() < rollouts
    assert selection.mask(rollouts).sum(axis=1).tolist() == [selected] * 50


def test_every_subset_is_as_likely_as_any_other() -> None:
    num_groups = 60_000
    counts = Counter(map(tuple, select(num_groups, 5, 2).indices.tolist()))
    assert counts.keys() == set(combinations(range(5), 2))
    # 10 subsets of probability 1/10: standard deviation sqrt(60000 * 0.09) = 73
    assert max(abs(count - num_groups / 10) for count in counts.values()) < 5 * 73


@pytest.mark.parametrize("rollouts", [3, 4, 8, 9])
def test_a_group_is_the_same_wherever_its_batch_begins(rollouts: int) -> None:
    whole = group_draws(12, rollouts, seed=7, step=3)
    for first in range(12):
        part = group_draws(12 - first, rollouts, seed=7, step=3, first_group=first)
        assert np.array_equal(part, whole[first:])


def test_seed_step_and_group_all_matter() -> None:
    base = select(20, 8, 3).indices
    assert not np.array_equal(base, select(20, 8, 3, seed=1).indices)
    assert not np.array_equal(base, select(20, 8, 3, step=1).indices)
    assert not np.array_equal(base, select(20, 8, 3, first_group=20).indices)
    assert np.array_equal(base, select(20, 8, 3).indices)


def test_more_selected_contain_fewer() -> None:
    for fewer in range(1, 8):
        few, more = select(30, 8, fewer).mask(8), select(30, 8, fewer + 1).mask(8)
        assert (few <= more).all()


def test_unbiased(rng: np.random.Generator) -> None:
    """The weighted mean over S, averaged over all keys, is the mean over the group."""
    values = rng.normal(size=6)
    selection = select(40_000, 6, 2)
    estimates = (selection.weights * values[selection.indices]).mean(axis=1)
    assert estimates.mean() == pytest.approx(values.mean(), abs=5 * estimates.std() / 200)


def test_no_global_generator_is_touched() -> None:
    before = np.random.get_state()[1].copy()
    select(10, 8, 3)
    assert np.array_equal(before, np.random.get_state()[1])
