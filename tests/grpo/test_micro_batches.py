"""Dealing and packing lose no row, give every process its share, and minimise padding."""

from itertools import combinations

import numpy as np
import pytest

from raml_trl.grpo.micro_batches import IDLE, cut_by_width, cut_for_scoring, deal_in_order, pack_steps
from raml_trl.grpo.row_rules import ModelTraits, RowRules, settle_row_rules


def random_choice(seed: int) -> tuple[np.ndarray, int, int]:
    """Return a random mask `(W, R)` of chosen rows, the number of micro-batches, and the rows of a micro-batch."""
    rng = np.random.default_rng(seed)
    num_processes, steps, each = rng.integers(1, 5), rng.integers(1, 4), rng.integers(1, 4)
    num_rows = steps * each + rng.integers(0, 5)
    chosen = np.zeros(num_processes * num_rows, dtype=bool)
    chosen[rng.permutation(chosen.size)[: num_processes * steps * each]] = True
    return chosen.reshape(num_processes, num_rows), int(steps), int(each)


@pytest.mark.parametrize("seed", range(20))
def test_every_process_gets_its_share_and_rows_move_only_if_needed(seed: int) -> None:
    chosen, steps, each = random_choice(seed)
    dealt = deal_in_order(chosen, steps)
    assert dealt.shape == (steps, len(chosen), each)
    assert sorted(dealt.ravel().tolist()) == np.flatnonzero(chosen).tolist()
    own = dealt // chosen.shape[1] == np.arange(len(chosen))[None, :, None]
    assert own.sum(axis=(0, 2)).tolist() == np.minimum(chosen.sum(axis=1), steps * each).tolist()


def test_rows_keep_their_order_if_none_has_to_move() -> None:
    chosen = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], dtype=bool)
    assert deal_in_order(chosen, 2).tolist() == [[[0, 1], [6, 7]], [[3, 4], [8, 9]]]


@pytest.mark.parametrize("seed", range(30))
def test_packing_keeps_live_rows_in_their_step_and_is_uniform_over_processes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen, steps, _ = random_choice(seed)
    window = int(rng.choice([divisor for divisor in range(1, steps + 1) if steps % divisor == 0]))
    dealt = deal_in_order(chosen, steps)
    lengths, live = rng.integers(1, 50, size=chosen.size), rng.random(chosen.size) < 0.6
    packed = pack_steps(dealt, lengths, live, window)
    assert len(packed) == steps
    for start in range(0, steps, window):
        before = dealt[start : start + window]
        after = np.concatenate([part.ravel() for part in packed[start : start + window]])
        assert sorted(after[after != IDLE].tolist()) == sorted(before[live[before]].tolist())
        idle = (after == IDLE).sum()
        # there are only as many idle rows as are needed to give all processes equally many rows, or one per micro-batch
        assert idle < len(chosen) or len(after) == len(chosen) * window
    assert all(part.shape[0] == len(chosen) and part.shape[1] >= 1 for part in packed)


def test_processes_get_nearly_equal_tokens(rng: np.random.Generator) -> None:
    num_processes, num_rows = 16, 64
    lengths = np.maximum(rng.lognormal(6, 1, size=num_processes * num_rows), 1).astype(np.int64)
    dealt = deal_in_order(np.ones((num_processes, num_rows), dtype=bool), 8)

    def imbalance(parts: list[np.ndarray]) -> float:
        tokens = sum(np.where(part == IDLE, 0, lengths[part]).sum(axis=1) for part in parts)
        return float(tokens.max() / tokens.mean() - 1)

    packed = pack_steps(dealt, lengths, np.ones_like(lengths, dtype=bool), 8)
    assert imbalance(list(dealt)) > 0.2
    assert imbalance(packed) < imbalance(list(dealt)) / 3


def padded(widths: np.ndarray, cuts: object) -> int:
    return sum(int(part[0]) * len(part) for part in np.split(widths, cuts))


@pytest.mark.parametrize("seed", range(40))
def test_the_cut_is_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 11))
    num_parts = int(rng.integers(1, num_rows + 1))
    widths = np.sort(rng.integers(1, 30, size=num_rows))[::-1]
    largest = -(-num_rows // num_parts) * widths[0]
    best = min(
        padded(widths, cuts)
        for cuts in combinations(range(1, num_rows), num_parts - 1)
        if all(part[0] * len(part) <= largest for part in np.split(widths, cuts))
    )
    cuts = cut_by_width(widths, num_parts)
    assert len(cuts) == num_parts - 1
    assert padded(widths, cuts) == best
    assert all(0 < part[0] * len(part) <= largest for part in np.split(widths, cuts))


def test_rows_of_one_length_are_cut_evenly() -> None:
    parts = np.split(np.arange(13), cut_by_width(np.full(13, 7), 4))
    assert max(map(len, parts)) == 4


@pytest.mark.parametrize(("num_rows", "num_parts"), [(513, 2), (5_000, 7), (5_000, 600), (3_000, 3_000), (2_000, 1)])
def test_many_rows_are_cut_in_pieces(rng: np.random.Generator, num_rows: int, num_parts: int) -> None:
    widths = np.sort(rng.lognormal(6, 1, size=num_rows).astype(np.int64) + 1)[::-1]
    cuts = cut_by_width(widths, num_parts)
    parts = np.split(widths, cuts)
    assert len(parts) == num_parts
    assert min(map(len, parts)) >= 1
    even = np.array_split(np.arange(num_rows), num_parts)
    assert padded(widths, cuts) <= padded(widths, [part[0] for part in even[1:]])


def test_packing_leaves_less_padding_than_an_even_cut(rng: np.random.Generator) -> None:
    widths = np.sort(rng.lognormal(6, 1, size=64).astype(np.int64) + 1)[::-1]
    assert padded(widths, cut_by_width(widths, 8)) < 0.9 * padded(widths, range(8, 64, 8))


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({}, (True, True)),
        ({"beta": 0.1}, (True, False)),
        ({"subset_mode": "mask"}, (True, False)),
        ({"loss_type": "bnpo"}, (False, False)),
        ({"entropy_coef": 0.01}, (False, False)),
        ({"use_adaptive_entropy": True}, (False, False)),
        ({"top_entropy_quantile": 0.2}, (False, False)),
        ({"router_aux_loss_coef": 0.1}, (False, False)),
        ({"router_aux_loss_coef": None, "entropy_coef": 0, "top_entropy_quantile": 1}, (True, True)),
        ({"length_bucketing": False, "skip_zero_advantage": None}, (False, True)),
        ({"loss_type": "bnpo", "skip_zero_advantage": False}, (False, False)),
    ],
)
def test_row_rules_are_on_by_default_if_they_are_exact(settings: dict[str, object], rules: tuple[bool, bool]) -> None:
    assert settle_row_rules(settings) == RowRules(*rules)


def test_a_router_loss_switches_them_off() -> None:
    assert settle_row_rules({}, ModelTraits(router_loss=True)) == RowRules(False, False)


def test_rows_to_score_are_sorted_by_length_if_bucketed() -> None:
    rows, lengths = np.array([0, 2, 3, 5]), np.array([4, 0, 9, 9, 0, 3])
    assert [part.tolist() for part in cut_for_scoring(rows, lengths, 2, bucketing=False)] == [[0, 2], [3, 5]]
    assert [part.tolist() for part in cut_for_scoring(rows, lengths, 2, bucketing=True)] == [[2, 3], [0, 5]]
