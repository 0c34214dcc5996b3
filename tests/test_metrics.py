"""Metrics against the enumeration of every way to draw k of n samples."""

from fractions import Fraction
from itertools import combinations
from math import ceil

import numpy as np
import pytest

from raml_trl.metrics import bootstrap_interval, g_pass_at_k, mg_pass_at_k, pass_at_k, summarise


def enumerated(n: int, c: int, k: int, threshold: int) -> Fraction:
    """Share of the k-subsets of n samples, the first c of them correct, with at least `threshold` correct."""
    draws = list(combinations(range(n), k))
    return Fraction(sum(sum(sample < c for sample in draw) >= threshold for draw in draws), len(draws))


CASES = [(n, c, k) for n in range(1, 9) for c in range(n + 1) for k in range(1, n + 1)]


def test_pass_at_k_is_the_enumeration() -> None:
    for n, c, k in CASES:
        assert pass_at_k(n, c, k) == float(enumerated(n, c, k, 1)), (n, c, k)


@pytest.mark.parametrize("tau", ["0", "0.25", "0.5", "0.75", "1"])
def test_g_pass_at_k_is_the_enumeration(tau: str) -> None:
    for n, c, k in CASES:
        threshold = max(ceil(Fraction(tau) * k), 1)
        assert g_pass_at_k(n, c, k, tau) == float(enumerated(n, c, k, threshold)), (n, c, k)


def test_mg_pass_at_k_is_the_enumeration() -> None:
    for n, c, k in CASES:
        if k % 2 == 0:
            expected = Fraction(2, k) * sum(enumerated(n, c, k, i) for i in range(k // 2 + 1, k + 1))
            assert mg_pass_at_k(n, c, k) == float(expected), (n, c, k)


def test_known_values() -> None:
    assert pass_at_k(32, 4, 8) == pytest.approx(0.705, abs=5e-4)
    assert [mg_pass_at_k(32, c, 8) for c in (4, 8, 16, 24, 32)] == pytest.approx([0, 0.003, 0.118, 0.503, 1], abs=5e-4)


def test_tau_is_the_decimal_it_is_written_as() -> None:
    # 25 * 0.28 is 7.000000000000001 in floating point
    assert g_pass_at_k(25, 7, 25, 0.28) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 0, 8), (4, 5, 2), (4, 2, 0), (4, -1, 2)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        pass_at_k(n, c, k)


def test_odd_k_has_no_mg_pass() -> None:
    with pytest.raises(ValueError, match="even k"):
        mg_pass_at_k(8, 4, 3)


def test_interval_covers_the_mean_as_often_as_it_says(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=60), rng, num_resamples=400)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_summary(rng: np.random.Generator) -> None:
    summary = summarise([0, 2, 4], 4, [1, 2], rng)
    assert summary.keys() == {"pass@1", "pass@2", "mg_pass@2"}
    assert summary["pass@1"]["mean"] == pytest.approx(0.5)
    # 2 of 4 correct: one of two draws is correct unless both are among the two wrong ones, 1 - 1/6
    assert summary["pass@2"]["mean"] == pytest.approx((0 + 5 / 6 + 1) / 3)
    # ... and both of two are correct with probability 1/6
    assert summary["mg_pass@2"]["mean"] == pytest.approx((0 + 1 / 6 + 1) / 3)
    assert summary["pass@1"]["low"] < 0.5 < summary["pass@1"]["high"]
