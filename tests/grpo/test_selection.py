"""Strategies select the right rollouts with the right weights; only the key decides between equal rollouts."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, pairwise, permutations
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from raml_trl.grpo.inclusion import inclusion_probabilities, systematic_draw
from raml_trl.grpo.selection import (
    FLOOR,
    REWARD_BLIND,
    _importance,
    cost_factors,
    group_draws,
    select_rollouts,
)
from raml_trl.grpo.user_selection import STRATEGIES, Selection, Strategy

FOUR_LEVELS = (1.0, 0.0, -0.5, -1.0)  # RaML eq. 21
KEYED = [strategy for strategy in STRATEGIES if strategy != "first"]
READING = [strategy for strategy in STRATEGIES if strategy not in REWARD_BLIND]
EXTREMES = ["max_variance", "balanced"]  # these use rewards, so missing rewards matter


def select(num_groups: int, num_rollouts: int, num_selected: int, **key: int) -> Selection:
    zeros = np.zeros((num_groups, num_rollouts))
    return select_rollouts(zeros, zeros, num_selected, strategy="random", **({"seed": 0, "step": 0} | key))


def choose(rewards: np.ndarray, num_selected: int, strategy: Strategy, **key: int) -> Selection:
    advantages = advantages_of(rewards)
    return select_rollouts(rewards, advantages, num_selected, strategy=strategy, **({"seed": 0, "step": 0} | key))


def advantages_of(rewards: np.ndarray) -> np.ndarray:
    """Return TRL's advantages: centred and scaled within the group, 0 for a missing reward."""
    present = ~np.isnan(rewards)
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    centred = np.where(present, rewards - np.nansum(rewards, axis=1, keepdims=True) / count, 0)
    return centred / (np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1)) + 1e-4)


def sizes_of(advantages: np.ndarray) -> np.ndarray:
    return np.maximum(abs(advantages), FLOOR * abs(advantages).mean())


def reward_patterns(num_rollouts: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield rewards of single groups: k correct of G for every k, draws from four levels, and rewards without ties."""
    for num_right in range(num_rollouts + 1):
        yield rng.permutation(np.arange(num_rollouts) < num_right).astype(float)
    for _ in range(4):
        yield rng.choice(FOUR_LEVELS, num_rollouts)
    yield rng.normal(size=num_rollouts)
    yield rng.exponential(size=num_rollouts)


# Properties of every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("rollouts", "selected"), [(8, 1), (8, 2), (8, 3), (8, 8), (5, 2), (2, 1), (1, 1), (64, 16)])
def test_shape_and_order(strategy: Strategy, rollouts: int, selected: int, rng: np.random.Generator) -> None:
    for rewards in (rng.normal(size=(50, rollouts)), rng.choice([*FOUR_LEVELS, np.nan], (50, rollouts))):
        selection = choose(rewards, selected, strategy)
        assert selection.indices.shape == selection.weights.shape == (50, selected)
        assert (np.diff(selection.indices, axis=1) > 0).all()
        assert selection.indices.min() >= 0
        assert selection.indices.max() < rollouts
        assert selection.mask(rollouts).sum(axis=1).tolist() == [selected] * 50
        assert (selection.weights > 0).all()
        if strategy != "importance":
            assert (selection.weights == 1).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rollouts", [1, 3, 8, 49, 1000])
def test_with_m_equal_to_g_all_weights_are_one(strategy: Strategy, rollouts: int, rng: np.random.Generator) -> None:
    for rewards in (rng.normal(size=(20, rollouts)), rng.choice([*FOUR_LEVELS, np.nan], (20, rollouts))):
        selection = choose(rewards, rollouts, strategy)
        assert (selection.indices == np.arange(rollouts)).all()
        assert (selection.weights == 1).all()


def test_row_weights_are_zero_for_unselected_rollouts() -> None:
    selection = Selection(np.array([[0, 2], [1, 2]]), np.array([[0.5, 1.5], [2.0, 3.0]]))
    assert selection.row_weights(4).tolist() == [[0.5, 0, 1.5, 0], [0, 2.0, 3.0, 0]]
    assert selection.mask(4).tolist() == [[True, False, True, False], [False, True, True, False]]


@pytest.mark.parametrize("strategy", REWARD_BLIND)
def test_a_reward_blind_strategy_uses_only_the_shape(strategy: Strategy) -> None:
    shape = SimpleNamespace(shape=(20, 8))
    blind = select_rollouts(shape, shape, 3, strategy=strategy, seed=0, step=0)
    assert np.array_equal(blind.indices, choose(np.ones((20, 8)), 3, strategy).indices)


@pytest.mark.parametrize("strategy", READING)
def test_other_strategies_use_rewards(strategy: Strategy) -> None:
    shape = SimpleNamespace(shape=(20, 8))
    with pytest.raises((TypeError, AttributeError)):
        select_rollouts(shape, shape, 3, strategy=strategy, seed=0, step=0)


def test_reward_blind_strategies_are_strategies() -> None:
    assert set(REWARD_BLIND) < set(STRATEGIES) == set(get_args(Strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_single_precision(strategy: Strategy, rng: np.random.Generator) -> None:
    rewards = rng.choice(FOUR_LEVELS, (200, 8))
    advantages = advantages_of(rewards).astype(np.float32)
    key = {"strategy": strategy, "seed": 0, "step": 0}
    single = select_rollouts(rewards.astype(np.float32), advantages, 3, **key)
    double = select_rollouts(rewards, advantages.astype(np.float64), 3, **key)
    assert np.array_equal(single.indices, double.indices)
    assert np.array_equal(single.weights, double.weights)
    assert single.weights.dtype == np.float64


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_global_generators_are_not_used(strategy: Strategy) -> None:
    before = np.random.get_state()
    choose(np.eye(8), 3, strategy)
    after = np.random.get_state()
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_batch_as_one_group(strategy: Strategy, rng: np.random.Generator) -> None:
    rewards = rng.choice([*FOUR_LEVELS, np.nan], (2_000, 8))
    rewards[:500] = 1  # some groups have no signal
    advantages = advantages_of(rewards).reshape(1, -1)
    selection = select_rollouts(rewards.reshape(1, -1), advantages, 4_000, strategy=strategy, seed=0, step=0)
    assert len(np.unique(selection.indices)) == 4_000
    if strategy == "abs_advantage":
        kept = selection.mask(16_000)
        assert abs(advantages[kept]).min() >= abs(advantages[~kept]).max()
    if strategy == "importance":  # weights sum to m in expectation; drawing in the order of A keeps the sum close to m
        assert selection.weights.sum() == pytest.approx(4_000, rel=1e-3)


# Keys


@pytest.mark.parametrize("rollouts", [3, 4, 8, 9])
def test_the_draws_of_a_group_do_not_depend_on_the_start_of_its_batch(rollouts: int) -> None:
    whole = group_draws(12, rollouts, seed=7, step=3)
    for first in range(12):
        part = group_draws(12 - first, rollouts, seed=7, step=3, first_group=first)
        assert np.array_equal(part, whole[first:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_selection_does_not_depend_on_the_start_of_its_batch(strategy: Strategy, rng: np.random.Generator) -> None:
    for rewards in (rng.choice(FOUR_LEVELS, (24, 9)), rng.normal(size=(24, 9))):
        whole = choose(rewards, 4, strategy, seed=7, step=3)
        for first, last in ((0, 5), (5, 6), (6, 24)):
            part = choose(rewards[first:last], 4, strategy, seed=7, step=3, first_group=first)
            assert np.array_equal(part.indices, whole.indices[first:last])
            assert np.array_equal(part.weights, whole.weights[first:last])


@pytest.mark.parametrize("strategy", KEYED)
def test_seed_step_and_group_all_matter(strategy: Strategy) -> None:
    rewards = np.tile([1.0, 0, 0, 0, 1, 0, 0, 0], (20, 1))
    base = choose(rewards, 3, strategy).indices
    assert not np.array_equal(base, choose(rewards, 3, strategy, seed=1).indices)
    assert not np.array_equal(base, choose(rewards, 3, strategy, step=1).indices)
    assert not np.array_equal(base, choose(rewards, 3, strategy, first_group=20).indices)
    assert np.array_equal(base, choose(rewards, 3, strategy).indices)


@pytest.mark.parametrize("strategy", KEYED)
@pytest.mark.parametrize("selected", [1, 3, 4])
def test_equal_rollouts_are_selected_equally_often(strategy: Strategy, selected: int) -> None:
    num_groups = 20_000
    rewards = np.array([1.0, 0, 0, 1, 0, 0, 0, 0])
    chosen = choose(np.tile(rewards, (num_groups, 1)), selected, strategy).mask(8).mean(axis=0)
    for level in (0, 1):  # a frequency has a standard deviation of at most sqrt(0.25 / 20000) = 0.0035
        frequencies = chosen[rewards == level]
        assert np.ptp(frequencies) < 5 * 0.0035 * np.sqrt(2)


@pytest.mark.parametrize("strategy", KEYED)
@pytest.mark.parametrize("reward", [0.0, 0.1, np.nan])
def test_with_equal_rewards_every_subset_is_equally_likely(strategy: Strategy, reward: float) -> None:
    num_groups = 60_000
    selection = choose(np.full((num_groups, 5), reward), 2, strategy)
    counts = Counter(map(tuple, selection.indices.tolist()))
    assert counts.keys() == set(combinations(range(5), 2))
    # 10 subsets of probability 1/10: standard deviation sqrt(60000 * 0.09) = 73
    assert max(abs(count - num_groups / 10) for count in counts.values()) < 5 * 73
    assert (selection.weights == 1).all()


# random and first


def test_the_draws_never_change() -> None:
    """A run resumed by a later version makes the same selections."""
    assert select(4, 8, 3, seed=1, step=2, first_group=5).indices.tolist() == [
        [0, 2, 5],
        [2, 6, 7],
        [4, 5, 6],
        [0, 2, 5],
    ]


def test_subsets_are_nested() -> None:
    for fewer in range(1, 8):
        few, more = select(30, 8, fewer).mask(8), select(30, 8, fewer + 1).mask(8)
        assert (few <= more).all()


def test_uniform_subsets_are_unbiased(rng: np.random.Generator) -> None:
    """`random` selects every subset equally often (tested above), so its estimate is unbiased."""
    values = rng.normal(size=6)
    subsets = np.array(list(combinations(range(6), 2)))
    every = Selection(subsets, np.ones(subsets.shape))
    assert (every.row_weights(6) @ values / 2).mean() == pytest.approx(values.mean(), rel=1e-12)


def test_unbiased(rng: np.random.Generator) -> None:
    """The weighted mean over the selected rollouts, averaged over many keys, is the mean over the group."""
    values = rng.normal(size=6)
    selection = select(40_000, 6, 2)
    estimates = (selection.weights * values[selection.indices]).mean(axis=1)
    assert estimates.mean() == pytest.approx(values.mean(), abs=5 * estimates.std() / 200)


def test_first() -> None:
    assert choose(np.eye(8)[:3], 2, "first").indices.tolist() == [[0, 1]] * 3


# max_variance


@pytest.mark.parametrize("kind", ["continuous", "offset", "outlier", "tied", "binary", "decimal"])
@pytest.mark.parametrize("rollouts", [2, 3, 5, 8, 10])
def test_no_subset_has_a_larger_variance(kind: str, rollouts: int, rng: np.random.Generator) -> None:
    shape = (40, rollouts)
    rewards = {
        "continuous": rng.normal(size=shape),
        "offset": 1e6 + rng.normal(size=shape),
        "outlier": rng.standard_cauchy(shape),
        "tied": rng.choice(FOUR_LEVELS, shape),
        "binary": rng.choice([0.0, 1.0], shape),
        "decimal": rng.choice([0.1, 0.7], shape),
    }[kind]
    for selected in range(1, rollouts + 1):
        subsets = np.array(list(combinations(range(rollouts), selected)))
        greatest = rewards[:, subsets].var(axis=2).max(axis=1)
        chosen = np.take_along_axis(rewards, choose(rewards, selected, "max_variance").indices, axis=1)
        assert chosen.var(axis=1) == pytest.approx(greatest, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (0.1, 0.7), (-3.3, 1e6)])
def test_between_equal_variances_more_high_rewards_win(levels: tuple[float, float]) -> None:
    low, high = levels
    rewards = np.array([[low, high, low, high, high, low, low]])
    for selected, num_high in ((1, 1), (3, 2), (5, 3)):
        chosen = rewards[0, choose(rewards, selected, "max_variance").indices[0]]
        assert (chosen == high).sum() == num_high


def test_with_m_1_max_variance_selects_the_highest_reward(rng: np.random.Generator) -> None:
    rewards = rng.normal(size=(200, 8))
    assert np.array_equal(choose(rewards, 1, "max_variance").indices[:, 0], rewards.argmax(axis=1))


@pytest.mark.parametrize("strategy", ["max_variance", "abs_advantage"])
def test_without_a_signal_the_subset_is_that_of_random(strategy: Strategy) -> None:
    for reward in (0.0, 0.1, np.nan):
        rewards = np.full((50, 7), reward)
        assert np.array_equal(choose(rewards, 3, strategy).indices, select(50, 7, 3).indices)


# abs_advantage and balanced


def test_largest_absolute_advantages(rng: np.random.Generator) -> None:
    rewards = rng.exponential(size=(50, 8))
    for selected in range(1, 8):
        expected = [sorted(sorted(range(8), key=lambda i: -abs(row[i]))[:selected]) for row in advantages_of(rewards)]
        assert choose(rewards, selected, "abs_advantage").indices.tolist() == expected


def test_best_and_worst(rng: np.random.Generator) -> None:
    rewards = rng.normal(size=(50, 8))
    for selected, num_best in ((1, 1), (2, 1), (3, 2), (4, 2), (7, 4)):
        expected = [
            sorted([*ranked[:num_best], *ranked[8 - selected + num_best :]])
            for ranked in (sorted(range(8), key=lambda i: -row[i]) for row in rewards)
        ]
        assert choose(rewards, selected, "balanced").indices.tolist() == expected


def test_balanced_subsets_of_binary_rewards_have_the_largest_variance() -> None:
    rewards = np.tril(np.ones((9, 8)), -1)  # k correct of 8, for k from 0 to 8
    for selected in range(1, 9):
        variances = [
            np.take_along_axis(rewards, choose(rewards, selected, strategy).indices, axis=1).var(axis=1)
            for strategy in EXTREMES
        ]
        assert variances[0] == pytest.approx(variances[1])


# Rollouts without a reward


@pytest.mark.parametrize("strategy", EXTREMES)
def test_a_missing_reward_is_selected_last(strategy: Strategy, rng: np.random.Generator) -> None:
    rewards = rng.choice(FOUR_LEVELS, (300, 8))
    rewards[rng.random(rewards.shape) < 0.4] = np.nan
    num_present = (~np.isnan(rewards)).sum(axis=1)
    for selected in range(1, 9):
        chosen = np.take_along_axis(rewards, choose(rewards, selected, strategy).indices, axis=1)
        assert np.array_equal((~np.isnan(chosen)).sum(axis=1), np.minimum(selected, num_present))


@pytest.mark.parametrize("strategy", EXTREMES)
def test_missing_rewards_do_not_change_the_selection_among_the_others(
    strategy: Strategy, rng: np.random.Generator
) -> None:
    rewards = rng.normal(size=(100, 6))
    holes = np.full((100, 9), np.nan)
    holes[:, [0, 2, 3, 5, 7, 8]] = rewards
    for selected in range(1, 7):
        expected = np.take_along_axis(rewards, choose(rewards, selected, strategy).indices, axis=1)
        assert np.array_equal(np.take_along_axis(holes, choose(holes, selected, strategy).indices, axis=1), expected)


@pytest.mark.parametrize("strategy", EXTREMES)
def test_missing_rewards_are_drawn_uniformly(strategy: Strategy) -> None:
    rewards = np.tile([np.nan, 1, np.nan, 0, np.nan], (20_000, 1))
    chosen = choose(rewards, 3, strategy).mask(5).mean(axis=0)
    # standard deviation sqrt(2/9 / 20000) = 0.0033
    assert chosen == pytest.approx([1 / 3, 1, 1 / 3, 1, 1 / 3], abs=5 * 0.0033)


# importance


def reference_probabilities(sizes: np.ndarray, num_selected: int) -> list[Fraction]:
    """Compute the probabilities slowly, in exact arithmetic: cap those above 1, scale the others up, and repeat."""
    exact = [Fraction(float(size)) for size in sizes]
    certain: set[int] = set()
    while True:
        rest = [i for i in range(len(exact)) if i not in certain]
        share = (num_selected - len(certain)) / sum((exact[i] for i in rest), Fraction())
        exceeding = {i for i in rest if share * exact[i] > 1}
        if not exceeding:
            return [Fraction(1) if i in certain else share * exact[i] for i in range(len(exact))]
        certain |= exceeding


@pytest.mark.long
@pytest.mark.parametrize("rollouts", [1, 2, 3, 5, 8, 17])
def test_inclusion_probabilities_equal_a_slow_reference(rollouts: int, rng: np.random.Generator) -> None:
    sizes = np.concatenate(
        [
            rng.random((20, rollouts)) + 0.01,
            rng.lognormal(sigma=4, size=(20, rollouts)),
            rng.choice([0.1, 0.5, 3.0], (20, rollouts)),
            1e-30 * rng.choice([1.0, 100.0], (20, rollouts)),
        ]
    )
    for selected in range(1, rollouts + 1):
        probabilities = inclusion_probabilities(sizes, selected)
        expected = np.array([reference_probabilities(row, selected) for row in sizes], dtype=float)
        assert probabilities == pytest.approx(expected, rel=1e-12)
        assert (probabilities <= 1).all()
        assert probabilities.sum(axis=1) == pytest.approx([selected] * 80, rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 0.1, 49.0, 1e-7])
def test_equal_sizes_have_exactly_equal_probabilities(size: float) -> None:
    for rollouts in (3, 7, 10, 49):
        for selected in range(1, rollouts + 1):
            assert (inclusion_probabilities(np.full((1, rollouts), size), selected) == selected / rollouts).all()


def test_a_size_of_zero_is_rejected() -> None:
    with pytest.raises(AssertionError):
        inclusion_probabilities(np.array([[1.0, 0.0]]), 1)


def test_a_draw_has_m_rollouts_despite_rounding(rng: np.random.Generator) -> None:
    """The draws start at, just before and just after the ends of intervals, at 0, and as close to 1 as possible."""
    for selected in (1, 4, 7, 8):
        probabilities = inclusion_probabilities(rng.lognormal(sigma=2, size=(2_000, 8)), selected)
        on_an_end = rng.permuted(np.cumsum(probabilities, axis=1) % 1, axis=1)[:, :1]
        last = np.full((2_000, 1), np.nextafter(1, 0))
        for start in (on_an_end, np.nextafter(on_an_end, 2) % 1, abs(np.nextafter(on_an_end, -1)), last, last * 0):
            assert (systematic_draw(probabilities, start, selected).sum(axis=1) == selected).all()


def every_draw(advantages: np.ndarray, num_selected: int, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random draws `(N, G + 1)` that lead to all possible subsets of one group, and their probabilities `(N,)`.

    The subset depends on the order of equal rollouts and on the start of the systematic draw. All orders are returned.
    If the probabilities are laid end to end, the fractional parts of their ends cut [0, 1) into intervals. All starts
    in the same interval give the same subset, so one start of each interval is returned.
    """
    rollouts = len(advantages)
    probabilities = np.array(reference_probabilities(sizes_of(advantages) * factors, num_selected))
    orders = np.array(list(permutations(range(rollouts)))) / rollouts
    draws, shares = [], []
    for order in orders:
        ends = np.cumsum(probabilities[np.lexsort((order, -advantages))])
        cuts = sorted({Fraction(0), Fraction(1), *(end % 1 for end in ends)})
        for low, high in pairwise(cuts):
            draws.append([*order, float(low + high) / 2])
            shares.append(float(high - low) / len(orders))
    return np.array(draws), np.array(shares)


@pytest.mark.parametrize("cost", ["rows", "tokens"])
@pytest.mark.parametrize("selected", range(1, 6))
def test_importance_is_exactly_unbiased(selected: int, cost: str, rng: np.random.Generator) -> None:
    """The expectation is computed exactly, as a sum over all possible draws, weighted by their probabilities."""
    lengths = np.array([[3, 200, 20, 20, 1]])
    factors = cost_factors(np.full((1, 5), 30), lengths, selected, mean_of_row=selected % 2 == 0, shared=True)[0]
    if cost == "rows":
        factors = np.ones(5)
    for rewards in reward_patterns(5, rng):
        advantages = advantages_of(rewards[None])[0]
        values = rng.normal(size=(5, 3))
        values[:, 2] = 1  # so the weights sum to m in expectation
        if not advantages.any():
            continue  # a uniform subset: tested above
        draws, probabilities = every_draw(advantages, selected, factors)
        selection = _importance(np.tile(advantages, (len(draws), 1)), draws, selected, factors)
        estimates = selection.row_weights(5) @ values / selected
        assert probabilities @ estimates == pytest.approx(values.mean(axis=0), rel=1e-11, abs=1e-11)
        included = [float(p) for p in reference_probabilities(sizes_of(advantages) * factors, selected)]
        assert probabilities @ selection.mask(5) == pytest.approx(included, rel=1e-11)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mean_of_row", [True, False])
def test_costs_give_the_least_variance_per_token(mean_of_row: bool, shared: bool, rng: np.random.Generator) -> None:
    """No small change of the probabilities, with the same sum, lowers variance x cost."""
    group, selected, prompt = 8, 3, 120
    lengths, advantages = rng.integers(20, 60, size=group), np.abs(rng.normal(size=group)) + 1
    squares = (advantages * lengths / (lengths if mean_of_row else 1)) ** 2 / lengths  # of the gradients of L tokens
    factors = cost_factors(np.full((1, group), prompt), lengths[None], selected, mean_of_row=mean_of_row, shared=shared)
    if not mean_of_row:
        squares = advantages**2 * lengths

    def product(probabilities: np.ndarray) -> float:
        prompts = prompt * (1 if shared else probabilities.sum())
        return (squares / probabilities).sum() * (prompts + probabilities @ lengths)

    [best] = inclusion_probabilities(advantages * factors, selected)
    assert best.max() < 1
    changes = rng.normal(size=(200, group))
    changes -= changes.mean(axis=1, keepdims=True)
    assert all(product(best) < product(best + 1e-3 * change) for change in changes)
    [by_rows] = inclusion_probabilities(advantages[None], selected)
    assert product(best) < product(by_rows)


def test_importance_is_unbiased_over_keys(rng: np.random.Generator) -> None:
    for rewards in reward_patterns(8, rng):
        values = rng.normal(size=8)
        estimates = choose(np.tile(rewards, (20_000, 1)), 3, "importance").row_weights(8) @ values / 3
        assert estimates.mean() == pytest.approx(values.mean(), abs=5 * estimates.std() / np.sqrt(20_000) + 1e-12)


def test_no_weight_exceeds_its_bound(rng: np.random.Generator) -> None:
    for selected in (1, 2, 5):
        weights = choose(rng.normal(size=(5_000, 8)), selected, "importance").weights
        assert 2 < weights.max() <= (1 + FLOOR) / FLOOR
    one_large = np.append(1, np.full(9_999, 1e-9))[None]  # comes close to the bound
    weights = select_rollouts(one_large, one_large, 1, strategy="importance", seed=0, step=0).weights
    assert weights.max() == pytest.approx((1 + FLOOR) / FLOOR, rel=1e-3)


def test_binary_rewards_give_half_correct_half_wrong_with_unbiased_weights() -> None:
    """Advantages sum to 0, so correct and wrong rollouts have equal shares, and the floor has no effect."""
    for num_right in range(1, 8):
        rewards = np.tile(np.arange(8) < num_right, (50, 1)).astype(float)
        for selected in (2, 4, 6):
            selection = choose(rewards, selected, "importance")
            right = min(num_right, max(selected // 2, selected - (8 - num_right)))
            assert (selection.mask(8)[:, :num_right].sum(axis=1) == right).all()
            share = {True: num_right / right, False: (8 - num_right) / (selected - right)}  # 1/p
            expected = [[share[i < num_right] * selected / 8 for i in row] for row in selection.indices.tolist()]
            assert selection.weights == pytest.approx(np.array(expected), rel=1e-12)


def relative_variances(rewards: np.ndarray, num_selected: int, common: float) -> tuple[float, float]:
    """Return the variance of the estimated gradient with `importance`, relative to the variance with `random`.

    The second number is the same for an `importance` that draws from the group in random order, not in the order of A.
    The gradient of rollout i is A_i v_i. Each v_i is the sum of an independent direction of length 1 and a direction of
    length `common` that is the same for all rollouts.
    """
    rng, num_rollouts, num_groups, width = np.random.default_rng(0), len(rewards), 4_000, 200
    advantages = advantages_of(rewards[None])
    directions = rng.normal(size=(num_rollouts, width)) + common * rng.normal(size=width)
    gradients = advantages.T * directions / np.sqrt(width)
    random = (1 - num_selected / num_rollouts) / num_selected * gradients.var(axis=0, ddof=1).sum()  # Cochran, eq. 2.8
    probabilities = inclusion_probabilities(sizes_of(advantages), num_selected)[0]
    order = rng.permuted(np.tile(np.arange(num_rollouts), (num_groups, 1)), axis=1)
    mask = np.empty(order.shape, dtype=bool)
    drawn = systematic_draw(probabilities[order], rng.random((num_groups, 1)), num_selected)
    np.put_along_axis(mask, order, drawn, axis=1)
    importance = choose(np.tile(rewards, (num_groups, 1)), num_selected, "importance").row_weights(num_rollouts)
    return tuple(
        float(((weights @ gradients / num_selected - gradients.mean(axis=0)) ** 2).sum(axis=1).mean() / random)
        for weights in (importance, mask * (num_selected / num_rollouts / probabilities))
    )


TWO_OF_EACH = np.repeat(FOUR_LEVELS, 2)
CONTINUOUS = np.random.default_rng(1).normal(size=8)


@pytest.mark.parametrize(
    ("rewards", "selected", "independent", "shared"),
    [
        (np.arange(8) < 1, 2, 0.26, 0.11),
        (np.arange(8) < 1, 4, 0.17, 0.07),
        (np.arange(8) < 2, 2, 0.66, 0.29),
        (np.arange(8) < 2, 4, 0.47, 0.21),
        (np.arange(8) < 3, 2, 0.89, 0.40),
        (np.arange(8) < 3, 4, 0.84, 0.38),
        (np.arange(8) < 4, 2, 0.97, 0.43),
        (np.arange(8) < 4, 4, 0.97, 0.43),
        (np.arange(8) < 5, 2, 0.88, 0.39),
        (np.arange(8) < 5, 4, 0.84, 0.38),
        (np.arange(8) < 6, 2, 0.63, 0.29),
        (np.arange(8) < 6, 4, 0.46, 0.21),
        (np.arange(8) < 7, 2, 0.26, 0.11),
        (np.arange(8) < 7, 4, 0.17, 0.08),
        (TWO_OF_EACH, 2, 0.64, 0.34),
        (TWO_OF_EACH, 4, 0.45, 0.28),
        (CONTINUOUS, 2, 0.53, 0.26),
        (CONTINUOUS, 4, 0.32, 0.21),
    ],
)
def test_importance_has_less_variance_than_random(
    rewards: np.ndarray, selected: int, independent: float, shared: float
) -> None:
    """The expected numbers are variances of `importance` relative to `random`, from an earlier run of this test."""
    alone, _ = relative_variances(rewards, selected, common=0)
    together, unordered = relative_variances(rewards, selected, common=1)
    assert alone == pytest.approx(independent, rel=0.1)
    assert together == pytest.approx(shared, rel=0.1)
    assert together < 0.8
    assert together < 1.05 * unordered
