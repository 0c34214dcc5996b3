"""Which m of the G rollouts of a group carry gradient.

Shapes: P groups (prompts), G rollouts in each, M selected of each.

Randomness is keyed, never global: what is drawn for a group depends on the seed, the step and the index of the group
in the global batch, and on nothing else. So the subset of a group is the same for any number of processes, any layout
of micro-batches, and after a resume; and drawing it leaves every global generator as it was.

A strategy is one function. Where rollouts are equal to it, keyed draws decide, never position (`first` apart).
To choose over the whole batch instead of within each group, hand it in as one group of P * G rollouts.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["random", "first", "max_variance", "abs_advantage", "balanced", "importance"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

REWARD_BLIND: tuple[str, ...] = ("random", "first")
"""Strategies that look at neither rewards nor advantages: their subset is known before anything is generated."""

FLOOR = 0.5
"""`importance` draws every rollout as if its |A| were at least this part of the mean |A| of its group.

Without a floor a rollout of |A| near 0 is drawn almost never and then with a weight near infinity, though with KL it
has a gradient whatever its advantage; with it no weight exceeds (1 + FLOOR) / FLOOR = 3. One half is the greatest floor
that never binds on binary rewards, where the least |A| is 1 / (2 max(q, 1 - q)) of the mean for a right part q. On
rewards of more levels it adds about a tenth at most to the variance that a floor near 0 has.
"""

_DRAWS_PER_COUNT = 4  # Philox4x64 turns one value of its counter into four numbers
_ROUNDING = 1e-12  # variances that differ by less than this part are equal


@dataclass(frozen=True)
class Selection:
    """The selected rollouts of P groups.

    `indices` `(P, M)`: positions within the group, ascending.
    `weights` `(P, M)`: what each selected row counts, so that `(1/m) sum_S w_i x_i` estimates `(1/G) sum x_i`.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float64]

    def mask(self, num_rollouts: int) -> NDArray[np.bool_]:
        """`(P, G)`: true where a rollout is selected."""
        mask = np.zeros((len(self.indices), num_rollouts), dtype=bool)
        np.put_along_axis(mask, self.indices, True, axis=1)
        return mask

    def row_weights(self, num_rollouts: int) -> NDArray[np.float64]:
        """`(P, G)`: the weight of a rollout that is selected, 0 for one that is not."""
        weights = np.zeros((len(self.indices), num_rollouts))
        np.put_along_axis(weights, self.indices, self.weights, axis=1)
        return weights


def select_rollouts(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    num_selected: int,
    *,
    strategy: Strategy,
    seed: int,
    step: int,
    first_group: int = 0,
) -> Selection:
    """Choose `num_selected` rollouts of every group; with m = G all of them, each of weight 1, for every strategy.

    Args:
        rewards: `(P, G)`; NaN where no reward function gave one.
        advantages: `(P, G)`, over the whole group; never NaN.
        num_selected: m, from 1 to G.
        strategy: which; those in `REWARD_BLIND` read of rewards and advantages only the shape.
        seed: of the run.
        step: of the generation, counted from the start of the run.
        first_group: index of the first of these groups in the global batch.
    """
    num_groups, num_rollouts = rewards.shape
    assert advantages.shape == rewards.shape, (advantages.shape, rewards.shape)
    assert 1 <= num_selected <= num_rollouts, (num_selected, num_rollouts)
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
            return _importance(advantages, draw(num_rollouts + 1), num_selected)
        case _:
            assert_never(strategy)


def group_draws(
    num_groups: int, num_rollouts: int, *, seed: int, step: int, first_group: int = 0
) -> NDArray[np.float64]:
    """`(P, G)` numbers in [0, 1), each a function of (seed, step, group, rollout) alone.

    One counter-based generator per (seed, step), its counter set to the group: a million groups cost no more than a
    million draws. Source: Philox4x64-10, Salmon et al., SC 2011.
    """
    counts = -(-num_rollouts // _DRAWS_PER_COUNT)
    philox = np.random.Philox(np.random.SeedSequence([seed, step]))
    philox.advance(first_group * counts)
    draws = np.random.Generator(philox).random((num_groups, counts * _DRAWS_PER_COUNT))
    return draws[:, :num_rollouts]


def inclusion_probabilities(sizes: NDArray[np.floating], num_selected: int) -> NDArray[np.float64]:
    """`(P, G)` probabilities min(1, c * size) that sum to `num_selected`, with one c per group.

    Water-filling. Let the k largest sizes have probability 1; then c = (m - k) / (sum of the others), and k is the
    least for which no other exceeds 1. Equal sizes give exactly m/G, and m = G gives exactly 1.

    Args:
        sizes: `(P, G)`, positive.
        num_selected: m, from 1 to G.
    """
    assert (sizes > 0).all(), "a rollout of size 0 can never be drawn, so no weight makes up for it"
    num_rollouts = sizes.shape[1]
    if num_selected == num_rollouts:  # no c is large enough but infinity
        return np.ones(sizes.shape)
    sizes = sizes / sizes.max(axis=1, keepdims=True)  # so that the sum of equal sizes is exact
    descending = -np.sort(-sizes, axis=1)
    others = np.cumsum(descending[:, ::-1], axis=1)[:, ::-1]  # (P, G): sum of all but the k largest, for k = 0, 1, ...
    remaining = num_selected - np.arange(num_selected)  # (M,): m - k
    exceeds = remaining * descending[:, :num_selected] > others[:, :num_selected]
    num_certain = np.argmin(exceeds, axis=1)[:, None]  # (P, 1): k; with one left to draw none exceeds its own sum
    return np.minimum(1, remaining[num_certain] * sizes / np.take_along_axis(others, num_certain, axis=1))


def _random(draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Uniform without replacement, blind to reward.

    Source: RaML, arXiv 2505.19815, section 4.4 (n of 16 random trajectories carry the gradient).
    Every rollout is in the subset with probability m/G, so with weights 1 the mean over S is unbiased for the mean
    over the group. Subsets are nested: for one key, the m chosen contain the m - 1 chosen. With m = 1 many groups give
    only a positive or only a negative signal; equal or missing rewards change nothing, since rewards are not read.
    """
    return _unweighted(np.argsort(draws, axis=1, kind="stable")[:, :num_selected])


def _first(num_groups: int, num_selected: int) -> Selection:
    """The first m of each group: the control, what training with G = m would see, but advantages are over all G.

    Unbiased over the sampling of the rollouts, which are exchangeable; given the rollouts it is one fixed subset.
    Equal or missing rewards and m = 1 change nothing, since rewards are not read; subsets are nested.
    """
    return _unweighted(np.tile(np.arange(num_selected), (num_groups, 1)))


def _max_variance(rewards: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """The subset whose rewards have the greatest variance.

    Source: PODS, arXiv 2504.13818: it is made of the m - k highest and the k lowest for some k from 0 to m, so m + 1
    candidates are compared, in O(G log G + m). Of candidates with equal variance the one with most high rewards wins.
    Biased: extremes are taken for certain and count 1 each, so the mean over S is not that over the group.
    All rewards equal, every candidate has variance 0: the same subset as `random`. m = 1 likewise: the best one. A
    rollout whose reward is NaN is taken only where fewer than m have a reward.
    """
    order = _descending(rewards, draws)
    num_present = np.count_nonzero(~np.isnan(rewards), axis=1, keepdims=True)
    ranked = np.take_along_axis(np.asarray(rewards, dtype=np.float64), order, axis=1)
    # Variance does not change with the origin, but its rounding does. The median is near most rewards, and being one of
    # them keeps the differences of equal rewards exactly 0.
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
    return _unweighted(_best_and_worst(order, num_present, num_best[:, None], num_selected))


def _abs_advantage(advantages: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """The m rollouts of largest |A|.

    Source: CPPO, arXiv 2503.22342, which keeps the largest |A| of the completions of a process; here of each group.
    Biased: a small |A| never counts, so the mean over S is too large, and the rarer of right and wrong comes first, so
    all m may bear one sign. Subsets are nested. All rewards equal, A = 0 everywhere: the same subset as `random`.
    m = 1: the rollout farthest from the mean. A rollout without a reward has A = 0 and so comes last.
    """
    return _unweighted(_descending(np.abs(advantages), draws)[:, :num_selected])


def _balanced(rewards: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """The ceil(m/2) highest and the floor(m/2) lowest rewards.

    For binary rewards these have the greatest variance too (PODS, arXiv 2504.13818), with m odd also.
    Biased as `max_variance` is. All rewards equal: a uniform subset. m = 1: the highest. A rollout whose reward is NaN
    is taken only where fewer than m have a reward.
    """
    num_present = np.count_nonzero(~np.isnan(rewards), axis=1, keepdims=True)
    num_best = np.full_like(num_present, (num_selected + 1) // 2)
    return _unweighted(_best_and_worst(_descending(rewards, draws), num_present, num_best, num_selected))


def _importance(advantages: NDArray[np.floating], draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Drawn with a probability p proportional to |A| (with a `FLOOR`), and weighted by (m/G)/p.

    Unbiased: (1/m) sum_S w_i x_i = (1/G) sum_S x_i / p_i has the expectation (1/G) sum x_i. Source: Horvitz and
    Thompson, JASA 1952. The gradient of a rollout being proportional to its A, large terms are taken more often and
    count less, which has less variance than `random`: the numbers are in tests/grpo/test_selection.py.
    The m are drawn systematically from the group in the order of A, so that good and bad each get their share in every
    draw. A sums to 0 over a group, so that with binary rewards this is m/2 right and m/2 wrong rollouts (or all there
    are), as `balanced` has, but with the weights that make it unbiased.
    All A = 0: a uniform subset with weights exactly 1. m = 1: one rollout, of either sign. NaN rewards have A = 0.

    Args:
        advantages: `(P, G)`.
        draws: `(P, G + 1)`; the last is the start of the systematic draw, the others order equal advantages.
        num_selected: m.
    """
    draws, start = draws[:, :-1], draws[:, -1:]
    sizes = np.abs(advantages, dtype=np.float64)
    sizes = np.maximum(sizes, FLOOR * sizes.mean(axis=1, keepdims=True))
    sizes[~sizes.any(axis=1)] = 1
    probabilities = inclusion_probabilities(sizes, num_selected)
    order = _descending(advantages, draws)
    drawn = _systematic(np.take_along_axis(probabilities, order, axis=1), start, num_selected)
    indices = np.sort(order[drawn].reshape(-1, num_selected), axis=1)
    return Selection(indices, num_selected / order.shape[1] / np.take_along_axis(probabilities, indices, axis=1))


def _systematic(probabilities: NDArray[np.float64], start: NDArray[np.float64], num_selected: int) -> NDArray[np.bool_]:
    """`(P, G)`, m true in each row: rollout i with exactly its probability.

    Source: Madow, Annals of Mathematical Statistics 1949. Laid end to end, the probabilities are intervals of [0, m);
    the m points start, start + 1, ... fall into m different ones, since none is longer than 1.

    Args:
        probabilities: `(P, G)`, in the order in which they are laid.
        start: `(P, 1)`, in [0, 1).
        num_selected: m, the sum of each row.
    """
    points_before = np.ceil(np.cumsum(probabilities, axis=1) - start)  # (P, G): points before the end of interval i
    # Rounding may put two points into one interval, or the last one behind the end: the count grows by at most 1 for
    # an interval, and reaches m.
    intervals = np.arange(1, probabilities.shape[1] + 1)
    points_before = np.minimum.accumulate(points_before - intervals, axis=1) + intervals
    points_before = np.clip(points_before, num_selected - intervals[::-1] + 1, num_selected)
    return np.diff(points_before, axis=1, prepend=0) > 0


def _unweighted(indices: NDArray[np.int64]) -> Selection:
    """These rollouts, each of weight 1."""
    return Selection(np.sort(indices, axis=1), np.ones(indices.shape))


def _descending(values: NDArray[np.floating], draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """`(P, G)`: the rollouts of each group from the highest value to the lowest, NaN last, equal ones as drawn."""
    return np.lexsort((draws, -values), axis=1)


def _best_and_worst(
    order: NDArray[np.int64], num_present: NDArray[np.int64], num_best: NDArray[np.int64], num_selected: int
) -> NDArray[np.int64]:
    """`(P, M)`: the first `num_best` of each `order`, the rest of the m from its end.

    Args:
        order: `(P, G)`, best first.
        num_present: `(P, 1)`: how many have a reward; those behind them are taken where these are fewer than m.
        num_best: `(P, 1)`.
        num_selected: m.
    """
    ranks = np.arange(num_selected)
    skipped = np.maximum(num_present, num_selected) - num_selected
    return np.take_along_axis(order, ranks + (ranks >= num_best) * skipped, axis=1)
