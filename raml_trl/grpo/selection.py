"""Selects the m of G rollouts of every group that carry gradient.

Every strategy is one pure function. Random draws decide between equal rollouts; only `first` uses the position in the
group. To select over the whole batch instead of within each group, pass the batch as one group of P * G rollouts.

Randomness is keyed: the draws for a group depend only on the seed, the step (the number of the generation) and the
index of the group in the global batch. The subset of a group is therefore the same for any number of processes, any
layout of micro-batches, and after a resume. No global random generator is used.

Notation: A is the advantage of a rollout, S the selected subset of a group, w_i the weight of rollout i, and x_i its
gradient. A strategy is unbiased if the expectation of the mean over S, `(1/m) sum_S w_i x_i`, is the mean over the
group, `(1/G) sum x_i`. Its subsets are nested if, for the same key, the subset of m contains the subset of m - 1.

Shapes: P groups (one per prompt), G rollouts in each group, M of them selected.
"""

from functools import partial
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo.inclusion import inclusion_probabilities, systematic_draw
from raml_trl.grpo.user_selection import Selection, Selector, Strategy, check_selection, path_of

REWARD_BLIND: tuple[str, ...] = ("random", "first")
"""Strategies that use neither rewards nor advantages, so their subset is known before generation."""

FLOOR = 0.5
"""`importance` treats every |A| as at least this fraction of the mean |A| of its group.

Without a floor, a rollout with |A| near 0 would be drawn rarely and then get a huge weight. With a KL term it has a
gradient even if A = 0. With the floor no weight exceeds (1 + FLOOR) / FLOOR = 3. One half is the largest floor that has
no effect on binary rewards: if a fraction q of the rollouts is correct, the smallest |A| is 1 / (2 max(q, 1 - q)) of
the mean, which is at least one half. For rewards with more than two values, the variance is at most about a tenth
larger with this floor than with a floor near 0.
"""

_DRAWS_PER_COUNT = 4  # Philox4x64 yields four numbers per counter value
_ROUNDING = 1e-12  # variances whose relative difference is smaller count as equal


def select_rollouts(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    num_selected: int,
    *,
    strategy: Strategy | Selector,
    seed: int,
    step: int,
    first_group: int = 0,
    lengths: NDArray[np.int64] | None = None,
    factors: NDArray[np.float64] | None = None,
) -> Selection:
    """Select m of the G rollouts of each of P groups; return their indices and weights.

    With m = G every strategy of `STRATEGIES` selects all rollouts with weight 1.

    Args:
        rewards: `(P, G)`; NaN for a rollout without a reward.
        advantages: `(P, G)`, computed over the whole group; never NaN.
        num_selected: m, from 1 to G.
        strategy: one of `STRATEGIES`, or a function. Strategies in `REWARD_BLIND` use only the shape of rewards and
            advantages.
        seed: seed of the run.
        step: number of the generation, counted from the start of the run.
        first_group: index of the first of these groups in the global batch; 0 if the strategy is a function.
        lengths: `(P, G)`: completion tokens; needed if the strategy is a function.
        factors: `(P, G)`: the factors by which `importance` multiplies |A|, from `cost_factors`; None for 1.

    Raises:
        InputError: if the strategy is a function and its result is no selection of m rollouts per group.
    """
    num_groups, num_rollouts = rewards.shape
    assert advantages.shape == rewards.shape, (advantages.shape, rewards.shape)
    assert 1 <= num_selected <= num_rollouts, (num_selected, num_rollouts)
    if callable(strategy):
        assert lengths is not None, strategy
        assert first_group == 0, first_group
        rng = np.random.Generator(_philox(seed, step))
        selection = strategy(rewards.copy(), advantages.copy(), lengths.copy(), num_selected, rng)
        return check_selection(selection, path_of(strategy), (num_groups, num_selected), num_rollouts)
    draw = partial(group_draws, num_groups, seed=seed, step=step, first_group=first_group)
    match strategy:
        case "random":
            return _random(draw(num_rollouts), num_selected)
        case "first":
            return _first(num_groups, num_selected)
        case "max_variance":
            return _max_variance(rewards, draw(num_rollouts), num_selected)
        case "abs_advantage":
            return _abs_advantage(advantages, draw(num_rollouts), num_selected)
        case "balanced":
            return _balanced(rewards, draw(num_rollouts), num_selected)
        case "importance":
            return _importance(advantages, draw(num_rollouts + 1), num_selected, factors)
        case _:
            assert_never(strategy)


def group_draws(
    num_groups: int, num_rollouts: int, *, seed: int, step: int, first_group: int = 0
) -> NDArray[np.float64]:
    """Draw numbers `(P, G)` in [0, 1) for P = `num_groups` groups of G = `num_rollouts` rollouts.

    Each number depends only on the seed, the step, the index of the group and the index of the rollout. `first_group`
    is the index of the first of these groups in the global batch.

    There is one counter-based generator per (seed, step), and its counter is set to the first group. All groups are
    then drawn in one call, which is fast for many groups. Source: Philox4x64-10, Salmon et al., SC 2011.
    """
    counts = -(-num_rollouts // _DRAWS_PER_COUNT)
    philox = _philox(seed, step)
    philox.advance(first_group * counts)
    draws = np.random.Generator(philox).random((num_groups, counts * _DRAWS_PER_COUNT))
    return draws[:, :num_rollouts]


def _philox(seed: int, step: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence([seed, step]))


def cost_factors(
    prompts: NDArray[np.int64], completions: NDArray[np.int64], num_selected: int, *, mean_of_row: bool, shared: bool
) -> NDArray[np.float64]:
    """Return the factors `(P, G)` by which the selection `importance` multiplies |A|, the size of the advantage.

    Without them, the variance of the gradient is least for a given number of rows in the update. With them, the product
    of variance and cost, the number of tokens in the update, is least.

    The factor of a rollout is the size of its gradient, apart from |A|, divided by the square root of its cost. With L
    completion tokens, the size is sqrt(L), or 1/sqrt(L) if the loss is a mean over the row. With T prompt tokens, the
    cost is L + T, or L + T/m if the prompt runs once for the m rollouts. docs/method.md derives both.

    Args:
        prompts: `(P, G)`: prompt tokens, for P groups of G rollouts.
        completions: `(P, G)`: completion tokens.
        num_selected: m, the number of rollouts to select in each group.
        mean_of_row: whether the loss is a mean over the tokens of each row, not a sum.
        shared: whether the rollouts of a group share their prompt in the update.
    """
    tokens = np.maximum(completions, 1).astype(np.float64)
    size = tokens**-0.5 if mean_of_row else tokens**0.5
    factors: NDArray[np.float64] = size / np.sqrt(tokens + prompts / (num_selected if shared else 1))
    return factors


def _random(draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Select m rollouts uniformly without replacement; rewards are not used.

    Source: RaML, arXiv 2505.19815, section 4.4 (n of 16 random trajectories carry the gradient).
    Unbiased: every rollout is selected with probability m/G and has weight 1. Subsets are nested. With m = 1 a group
    gives only a positive or only a negative signal. Equal or missing rewards do not change the selection.
    """
    return Selection.unweighted(np.argsort(draws, axis=1, kind="stable")[:, :num_selected])


def _first(num_groups: int, num_selected: int) -> Selection:
    """Select the first m rollouts of each group.

    This is a control: it equals GRPO with G = m, except that advantages are computed over all G rollouts.
    Unbiased only in expectation over the sampling of rollouts, which are exchangeable: once they are sampled, the
    subset is fixed. Subsets are nested. Equal or missing rewards do not change the selection.
    """
    return Selection.unweighted(np.tile(np.arange(num_selected), (num_groups, 1)))


def _max_variance(rewards: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Select the subset with the largest variance of rewards.

    Source: PODS, arXiv 2504.13818. This subset consists of the m - k highest and the k lowest rewards for some k from 0
    to m, so m + 1 candidates are compared, in O(G log G + m). Of candidates with equal variance, the one with the most
    high rewards wins.
    Biased: extremes are always selected and have weight 1. If all rewards are equal, the subset is that of `random`.
    With m = 1 it is the rollout with the highest reward. A rollout with reward NaN is selected only if fewer than m
    rollouts have a reward.
    """
    order = _descending(rewards, draws)
    num_present = np.count_nonzero(~np.isnan(rewards), axis=1, keepdims=True)
    ranked = np.take_along_axis(np.asarray(rewards, dtype=np.float64), order, axis=1)
    # Centring on the median leaves the variance unchanged and reduces rounding errors, because the median is close to
    # most rewards. The median is one of the rewards, so equal rewards become exactly 0.
    centred = ranked - np.take_along_axis(ranked, num_present // 2, axis=1)
    centred[np.isnan(centred)] = 0
    num_worst = np.arange(num_selected + 1)  # (M + 1,): the candidates k
    worst_begins = np.maximum(num_present, num_selected) - num_worst  # (P, M + 1)

    def candidate_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        from_best, from_worst = (np.pad(np.cumsum(v, axis=1), ((0, 0), (1, 0))) for v in (values, values[:, ::-1]))
        num_rest = values.shape[1] - worst_begins
        return from_best[:, num_selected - num_worst] + np.take_along_axis(from_worst, num_rest, axis=1)

    spread = num_selected * candidate_sums(centred**2) - candidate_sums(centred) ** 2  # m^2 times the variance
    greatest = spread.max(axis=1, keepdims=True)
    num_best = num_selected - np.argmax(spread >= greatest * (1 - _ROUNDING), axis=1)
    return Selection.unweighted(_best_and_worst(order, num_present, num_best[:, None], num_selected))


def _abs_advantage(advantages: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Select the m rollouts with the largest |A|.

    Source: CPPO, arXiv 2503.22342. CPPO keeps the largest |A| among the completions of a process; this function keeps
    the largest of each group.
    Biased: small |A| are never selected, so the terms of S are larger than those of the group on average. The rarer
    outcome (correct or wrong) has the larger |A| and is selected first, so all m rollouts may have advantages of the
    same sign. Subsets are nested. If all rewards are equal, the subset is that of `random`. With m = 1 it is the
    rollout farthest from the mean. A rollout without a reward has A = 0 and comes last.
    """
    return Selection.unweighted(_descending(np.abs(advantages), draws)[:, :num_selected])


def _balanced(rewards: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Select the rollouts with the ceil(m/2) highest and the floor(m/2) lowest rewards.

    For binary rewards this subset also has the largest variance (PODS, arXiv 2504.13818), for even and odd m.
    Biased like `max_variance`. If all rewards are equal, every subset is equally likely. With m = 1 it is the rollout
    with the highest reward. A rollout with reward NaN is selected only if fewer than m rollouts have a reward.
    """
    num_present = np.count_nonzero(~np.isnan(rewards), axis=1, keepdims=True)
    num_best = np.full_like(num_present, (num_selected + 1) // 2)
    return Selection.unweighted(_best_and_worst(_descending(rewards, draws), num_present, num_best, num_selected))


def _importance(
    advantages: NDArray[np.floating],
    draws: NDArray[np.float64],
    num_selected: int,
    factors: NDArray[np.float64] | None = None,
) -> Selection:
    """Draw rollouts with probability p proportional to |A| (raised to a `FLOOR`), and weight them by (m/G)/p.

    Unbiased: (1/m) sum_S w_i x_i = (1/G) sum_S x_i / p_i has expectation (1/G) sum x_i. Source: Horvitz and Thompson,
    JASA 1952. The gradient of a rollout is proportional to its A, so large terms are drawn more often with smaller
    weights. The variance is lower than that of `random`: see tests/grpo/test_selection.py for numbers.
    The rollouts are drawn systematically from the group sorted by A, so every subset has its share of high and low
    advantages. A sums to 0 over a group, so with binary rewards and even m the subset has m/2 correct and m/2 wrong
    rollouts, as in `balanced`, but with weights that remove the bias. If there are fewer than m/2 of one kind, all of
    them are selected.
    If all A are 0, every subset is equally likely and the weights are exactly 1. With m = 1 the subset is one rollout
    with an advantage of either sign. A rollout with reward NaN has A = 0.
    With `factors`, p is proportional to |A| times the factor, and the estimate is as unbiased; a weight may then exceed
    3, by at most the ratio of the largest and the smallest factor of the group.

    Args:
        advantages: `(P, G)`.
        draws: `(P, G + 1)`; the last number of a group is the start of the systematic draw, and the other numbers
            order its rollouts with equal advantages.
        num_selected: m.
        factors: `(P, G)`, positive; None for 1.
    """
    draws, start = draws[:, :-1], draws[:, -1:]
    sizes = np.abs(advantages, dtype=np.float64)
    sizes = np.maximum(sizes, FLOOR * sizes.mean(axis=1, keepdims=True))
    sizes[~sizes.any(axis=1)] = 1
    if factors is not None:
        sizes *= factors
    probabilities = inclusion_probabilities(sizes, num_selected)
    order = _descending(advantages, draws)
    drawn = systematic_draw(np.take_along_axis(probabilities, order, axis=1), start, num_selected)
    indices = np.sort(order[drawn].reshape(-1, num_selected), axis=1)
    return Selection(indices, num_selected / order.shape[1] / np.take_along_axis(probabilities, indices, axis=1))


def _descending(values: NDArray[np.floating], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rollouts `(P, G)` of each group by descending value: NaN last, equal values in random order."""
    return np.lexsort((draws, -values), axis=1)


def _best_and_worst(
    order: NDArray[np.int64], num_present: NDArray[np.int64], num_best: NDArray[np.int64], num_selected: int
) -> NDArray[np.int64]:
    """Return m rollouts `(P, M)` of each group: the `num_best` best, and the worst ones that have a reward.

    Rollouts without a reward are returned only if fewer than m rollouts have one.

    Args:
        order: `(P, G)`: the rollouts from best to worst; those without a reward come last.
        num_present: `(P, 1)`: number of rollouts with a reward.
        num_best: `(P, 1)`: number of rollouts to take from the start of `order`.
        num_selected: m.
    """
    ranks = np.arange(num_selected)
    skipped = np.maximum(num_present, num_selected) - num_selected
    return np.take_along_axis(order, ranks + (ranks >= num_best) * skipped, axis=1)
