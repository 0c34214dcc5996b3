"""Tests the metrics against an enumeration of all draws of k samples from n."""

from fractions import Fraction
from itertools import combinations
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.evaluation.metrics import avg_at_n, each_question, g_pass_at_k, mg_pass_at_k, pass_at_k, summarise
from raml_trl.evaluation.voting import Votes


def enumerated(n: int, c: int, k: int, threshold: int) -> Fraction:
    """Returns the share of k-subsets with at least `threshold` correct samples, if c of n samples are correct."""
    draws = list(combinations(range(n), k))
    return Fraction(sum(sum(sample < c for sample in draw) >= threshold for draw in draws), len(draws))


CASES = [(n, c, k) for n in range(1, 9) for c in range(n + 1) for k in range(1, n + 1)]
CASES += [(10, c, k) for c in range(11) for k in (3, 6, 10)]


@st.composite
def counts(draw: st.DrawFn, most: int = 64) -> tuple[int, int, int]:
    """Draws n samples, c of them correct, and a k up to n."""
    n = draw(st.integers(1, most))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def test_pass_at_k_equals_the_enumeration() -> None:
    for n, c, k in CASES:
        assert pass_at_k(n, c, k) == float(enumerated(n, c, k, 1)), (n, c, k)


@pytest.mark.parametrize("tau", ["0", "0.25", "0.5", "0.75", "1"])
def test_g_pass_at_k_equals_the_enumeration(tau: str) -> None:
    for n, c, k in CASES:
        threshold = max(ceil(Fraction(tau) * k), 1)
        assert g_pass_at_k(n, c, k, tau) == float(enumerated(n, c, k, threshold)), (n, c, k)


def test_mg_pass_at_k_equals_the_enumeration() -> None:
    for n, c, k in CASES:
        if k % 2 == 0:
            expected = Fraction(2, k) * sum(enumerated(n, c, k, i) for i in range(k // 2 + 1, k + 1))
            assert mg_pass_at_k(n, c, k) == float(expected), (n, c, k)


def test_known_values() -> None:
    assert pass_at_k(32, 4, 8) == pytest.approx(0.705, abs=5e-4)
    assert [mg_pass_at_k(32, c, 8) for c in (4, 8, 16, 24, 32)] == pytest.approx([0, 0.003, 0.118, 0.503, 1], abs=5e-4)


@pytest.mark.parametrize(("k", "tau", "needed"), [(25, 0.28, 7), (25, 0.56, 14), (50, 0.14, 7), (100, 0.07, 7)])
def test_tau_is_read_as_a_decimal(k: int, tau: float, needed: int) -> None:
    # 25 * 0.28 is 7.000000000000001 in floating point
    assert ceil(k * tau) == needed + 1
    assert g_pass_at_k(k, needed, k, tau) == 1.0
    assert g_pass_at_k(k, needed - 1, k, tau) == 0.0


@given(counts())
def test_stricter_metrics_are_lower(case: tuple[int, int, int]) -> None:
    n, c, k = case
    taus = [0, "0.25", "0.5", "0.75", 1]
    values = [g_pass_at_k(n, c, k, tau) for tau in taus]
    assert values == sorted(values, reverse=True)
    assert values[0] == pass_at_k(n, c, k)
    if k % 2 == 0:
        # mG-Pass@k is the mean over thresholds above 1/2, so G-Pass@k at 1 and at 1/2 are its bounds
        assert values[-1] <= mg_pass_at_k(n, c, k) <= values[2]


@given(counts())
def test_more_correct_samples_are_never_worse(case: tuple[int, int, int]) -> None:
    n, c, k = case
    if c < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k)
        assert g_pass_at_k(n, c, k, "0.6") <= g_pass_at_k(n, c + 1, k, "0.6")
    assert pass_at_k(n, n, k) == 1
    assert g_pass_at_k(n, n, k, 1) == 1
    assert pass_at_k(n, 0, k) == 0


@given(counts())
def test_average_is_pass_at_one(case: tuple[int, int, int]) -> None:
    n, c, _ = case
    assert avg_at_n(n, c) == c / n == pass_at_k(n, c, 1)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 0, 8), (4, 5, 2), (4, 2, 0), (4, -1, 2)])
def test_impossible_counts_are_rejected(n: int, c: int, k: int) -> None:
    for metric in (pass_at_k, mg_pass_at_k):
        with pytest.raises(ValueError, match=rf"must lie between \d and n = 4, got {c if 0 < k <= n else k}"):
            metric(n, c, k)
    with pytest.raises(ValueError, match="n = 0, got 1"):
        avg_at_n(0, 0)


@pytest.mark.parametrize("tau", [-0.1, 1.5])
def test_threshold_outside_0_to_1_is_rejected(tau: float) -> None:
    with pytest.raises(ValueError, match=f"tau must lie between 0 and 1, got {tau}"):
        g_pass_at_k(4, 2, 2, tau)


def test_mg_pass_at_odd_k_is_rejected() -> None:
    with pytest.raises(ValueError, match="even k"):
        mg_pass_at_k(8, 4, 3)


def test_each_question_equals_the_metric_of_its_counts(rng: np.random.Generator) -> None:
    n = rng.integers(8, 33, size=500)
    c = rng.integers(0, n + 1)
    for metric, settings in ((pass_at_k, (8,)), (g_pass_at_k, (8, "0.75")), (mg_pass_at_k, (8,)), (avg_at_n, ())):
        values = each_question(metric, n, c, *settings)
        assert values.tolist() == [metric(*pair, *settings) for pair in zip(n.tolist(), c.tolist(), strict=True)]
    correct = np.minimum(c, 8)
    for samples in (32, np.int64(32), [32] * 500):
        assert np.array_equal(each_question(pass_at_k, samples, correct, 4), [pass_at_k(32, c, 4) for c in correct])


def test_each_distinct_pair_of_counts_is_computed_once() -> None:
    computed = []

    def counted(n: int, c: int, k: int) -> float:
        computed.append((n, c))
        return pass_at_k(n, c, k)

    each_question(counted, 64, np.arange(100_000) % 65, 8)
    assert sorted(computed) == [(64, c) for c in range(65)]


def test_error_names_the_question() -> None:
    with pytest.raises(ValueError, match="question 2: k must lie between 1 and n = 3, got 4"):
        each_question(pass_at_k, [8, 8, 3, 8], [1, 2, 3, 9], 4)
    with pytest.raises(ValueError, match="question 3: c must lie between 0 and n = 8, got 9"):
        each_question(pass_at_k, [8, 8, 4, 8], [1, 2, 3, 9], 4)
    with pytest.raises(ValueError, match="got 2 n and 3 c"):
        each_question(pass_at_k, [8, 8], [1, 2, 3], 4)


def test_summary(rng: np.random.Generator) -> None:
    summary = summarise([0, 2, 4], 4, [1, 2], rng)
    assert summary.keys() == {"pass@1", "pass@2", "mg_pass@2"}
    assert summary["pass@1"]["mean"] == pytest.approx(0.5)
    # 2 of 4 correct: a draw of two has a correct sample unless both are wrong, 1 - 1/6
    assert summary["pass@2"]["mean"] == pytest.approx((0 + 5 / 6 + 1) / 3)
    # both are correct with probability 1/6
    assert summary["mg_pass@2"]["mean"] == pytest.approx((0 + 1 / 6 + 1) / 3)
    assert summary["pass@1"]["low"] < 0.5 < summary["pass@1"]["high"]


def test_thresholds_and_votes_do_not_change_other_metrics() -> None:
    votes = [Votes((3, 1), None), Votes((1, 2, 1), 1), Votes((4,), 0)]
    plain = summarise([0, 2, 4], 4, [1, 4], np.random.default_rng(0))
    full = summarise([0, 2, 4], [4] * 3, [1, 4], np.random.default_rng(0), thresholds=[0.5, 1], votes=votes)
    names = ["pass@1", "pass@4", "mg_pass@4", "g_pass@1_0.5", "g_pass@4_0.5", "g_pass@1_1", "g_pass@4_1"]
    assert list(full) == [*names, "maj@4"]
    assert {name: full[name] for name in plain} == plain
    # Two of the four samples of the second question are correct, which reaches tau = 0.5 but not tau = 1. In maj@4,
    # their two votes beat two wrong answers with one vote each.
    means = {name: full[name]["mean"] for name in full}
    assert means["g_pass@4_0.5"] == pytest.approx((0 + 1 + 1) / 3)
    assert means["g_pass@4_1"] == pytest.approx((0 + 0 + 1) / 3)
    assert means["maj@4"] == pytest.approx((0 + 1 + 1) / 3)


def test_equal_metrics_have_equal_intervals_whatever_else_is_computed() -> None:
    def drawn(*ks: int) -> dict[str, dict[str, float]]:
        return summarise([0, 2, 4, 1, 3], 4, ks, np.random.default_rng(0), thresholds=[0.5])

    assert drawn(2)["pass@2"] == drawn(2)["g_pass@2_0.5"]
    assert drawn(1, 2, 4)["pass@4"] == drawn(4)["pass@4"]


def test_number_of_samples_may_differ_between_questions(rng: np.random.Generator) -> None:
    summary = summarise([1, 2], [2, 8], [2], rng)
    # 1 - C(6, 2) / C(8, 2) = 1 - 15/28
    assert summary["pass@2"]["mean"] == pytest.approx((1 + 13 / 28) / 2)
    with pytest.raises(ValueError, match="question 0: k must lie between 1 and n = 2, got 4"):
        summarise([1, 2], [2, 8], [4], rng)


@pytest.mark.parametrize(
    ("votes", "fault"),
    [
        ([Votes((4,), 0)], "got 1 for 2 questions"),
        ([Votes((4,), 0), Votes((2, 1), 0)], r"question 1: .* 3 samples instead of 4"),
    ],
)
def test_votes_must_cover_the_same_samples(votes: list[Votes], fault: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=fault):
        summarise([4, 2], 4, [1], rng, votes=votes)
