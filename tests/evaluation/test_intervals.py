"""Tests that intervals have their nominal coverage, and that p-values agree with enumerations of all sign patterns."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from raml_trl.evaluation.intervals import (
    Difference,
    SeedMean,
    bootstrap_interval,
    mean_over_seeds,
    paired_difference,
    student_difference,
    student_interval,
)


def naive_interval(values: np.ndarray, rng: np.random.Generator, num_resamples: int) -> tuple[float, float]:
    """Returns the bootstrap interval, computed one resample at a time."""
    means = [values[rng.integers(values.size, size=values.size)].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("questions", "resamples"), [(1, 50), (3, 2_000), (200, 2_000), (129, 300), (20_001, 20)])
def test_resampling_in_blocks_gives_the_same_interval(questions: int, resamples: int) -> None:
    values = np.random.default_rng(1).random(questions)
    ours, plain = np.random.default_rng(2), np.random.default_rng(2)
    assert bootstrap_interval(values, ours, num_resamples=resamples) == naive_interval(values, plain, resamples)
    assert ours.random() == plain.random()


def test_interval_has_its_nominal_coverage(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(600):
        ability = rng.beta(2, 2, size=80)  # mean 1/2
        low, high = bootstrap_interval(rng.binomial(16, ability) / 16, rng, num_resamples=500)
        covered += low <= 0.5 <= high
    # The nominal value is 0.95, and the standard error 0.009. With 80 questions, the coverage of a percentile interval
    # is about half a percentage point too low.
    assert 0.92 <= covered / 600 <= 0.97


def test_higher_confidence_gives_a_wider_interval() -> None:
    values = np.random.default_rng(0).random(50)
    intervals = [
        bootstrap_interval(values, np.random.default_rng(0), confidence=confidence) for confidence in (0.5, 0.95, 0.99)
    ]
    lows, highs = zip(*intervals, strict=True)
    assert list(lows) == sorted(lows, reverse=True)
    assert list(highs) == sorted(highs)


def test_interval_without_values_is_rejected(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([], rng)


@pytest.mark.parametrize("samples", [16, 10])  # with 10, values are inexact, and equal sums may differ by rounding
def test_p_value_equals_the_enumeration_of_signs(samples: int, rng: np.random.Generator) -> None:
    for size in (1, 2, 5, 6, 7, 8, 9, 10, 12):
        counts = rng.integers(-3, 6, size=size)
        nonzero = [int(count) for count in counts if count]
        flipped = [abs(sum(signed)) for signed in product(*((count, -count) for count in nonzero))]
        expected = Fraction(sum(total >= abs(sum(nonzero)) for total in flipped), len(flipped))
        first = rng.integers(0, samples // 2, size=size + 30) / samples
        second = first.copy()
        second[:size] += counts / samples  # the other thirty differences are 0 and have no effect on p
        difference = paired_difference(first, second, rng)
        assert difference.p_value == float(expected), size
        assert difference.mean == pytest.approx(counts.sum() / samples / (size + 30))


def test_equal_sums_count_despite_rounding(rng: np.random.Generator) -> None:
    # In floating point, 0.1 + 0.2 - 0.3 is not exactly 0. All 8 sign patterns count as at least as far from 0.
    assert paired_difference([0, 0, 0.3], [0.1, 0.2, 0], rng).p_value == 1
    # only the two patterns of equal signs reach |0.1 + 0.2 + 0.3|
    assert paired_difference([0, 0, 0], [0.1, 0.2, 0.3], rng).p_value == 2 / 8


def test_drawn_signs_agree_with_the_enumeration(rng: np.random.Generator) -> None:
    differences = np.array([5, 4, 3, -2, 1, 1, -1, 2, 2, -3, 1, 2, 1]) / 16  # `paired_difference` enumerates up to 12
    signs = np.array(list(product((1, -1), repeat=13)))
    exact = np.mean(np.abs(signs @ (16 * differences)) >= 16 * differences.sum())
    drawn = paired_difference(np.zeros(13), differences, rng, num_flips=40_000).p_value
    assert drawn == pytest.approx(exact, abs=0.01)  # the standard error is at most 0.0025


def test_p_value_is_never_zero(rng: np.random.Generator) -> None:
    assert paired_difference(np.zeros(100), np.ones(100), rng, num_flips=999).p_value == 1 / 1_000
    assert paired_difference([1] * 5, [1] * 5, rng).p_value == 1


def test_p_values_are_uniform_without_a_difference(rng: np.random.Generator) -> None:
    p_values = []
    for _ in range(400):
        ability = rng.beta(2, 2, size=40)
        first, second = rng.binomial(64, ability) / 64, rng.binomial(64, ability) / 64
        p_values.append(paired_difference(first, second, rng, num_resamples=1, num_flips=499).p_value)
    shares = np.searchsorted(np.sort(p_values), np.linspace(0.05, 0.95, 19)) / 400
    # Kolmogorov-Smirnov: exceeds 1.63 / sqrt(400) = 0.08 with probability 0.01
    assert np.abs(shares - np.linspace(0.05, 0.95, 19)).max() < 0.08


def test_pairing_detects_a_difference_that_separate_intervals_miss(rng: np.random.Generator) -> None:
    first = np.linspace(0, 0.9, 60)
    second = first + 0.05 + 0.01 * rng.standard_normal(60)
    difference = paired_difference(first, second, rng)
    assert difference.low < difference.mean < difference.high
    assert 0.04 < difference.low < difference.high < 0.06
    assert difference.p_value < 0.001
    assert bootstrap_interval(first, rng)[1] > bootstrap_interval(second, rng)[0]  # the separate intervals overlap


def test_paired_interval_has_its_nominal_coverage(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(300):
        ability = rng.beta(2, 2, size=80) * 0.8
        first, second = rng.binomial(16, ability) / 16, rng.binomial(16, ability + 0.1) / 16
        difference = paired_difference(first, second, rng, num_resamples=500, num_flips=1)
        covered += difference.low <= 0.1 <= difference.high
    assert 0.91 <= covered / 300 <= 0.98


def test_runs_that_cannot_be_paired_are_rejected(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"same questions, got values of shape \(2,\) and \(3,\)"):
        paired_difference([1, 2], [1, 2, 3], rng)
    with pytest.raises(ValueError, match=r"question 1: values must be finite, got 2\.0 and nan"):
        paired_difference([1, 2], [1, float("nan")], rng)
    with pytest.raises(ValueError, match="at least one value"):
        paired_difference([], [], rng)


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216)])
def test_seeds_are_compared_by_students_t(degrees: int, t: float, rng: np.random.Generator) -> None:
    """The differences are scaled to the t value for p = 0.05 in published tables, so the interval must end at zero."""
    noise = rng.standard_normal(degrees + 1)
    noise -= noise.mean()
    mean = t * noise.std(ddof=1) / np.sqrt(degrees + 1)
    first = rng.standard_normal(degrees + 1)
    difference = student_difference(list(first), list(first + mean + noise))
    assert difference.mean == pytest.approx(mean)
    assert difference.low == pytest.approx(0, abs=1e-4 * mean)
    assert difference.high == pytest.approx(2 * mean, rel=1e-4)
    assert difference.p_value == pytest.approx(0.05, abs=1e-5)
    reverse = student_difference(list(first + mean + noise), list(first))
    assert (reverse.mean, reverse.p_value) == pytest.approx((-mean, difference.p_value))


def test_equal_differences_of_all_seeds() -> None:
    assert student_difference([1, 2], [1, 2]) == Difference(0, 0, 0, 1)
    assert student_difference([1, 2], [2, 3]) == Difference(1, 1, 1, 0)
    with pytest.raises(ValueError, match="same seeds, got 2 and 3 values"):
        student_difference([1, 2], [1, 2, 3])


def test_mean_over_seeds_has_an_interval_from_two_seeds_on() -> None:
    assert mean_over_seeds([]) == SeedMean(n=0, mean=None, low=None, high=None)
    assert mean_over_seeds([0.25]) == SeedMean(n=1, mean=0.25, low=None, high=None)
    low, high = student_interval([0.25, 0.5, 0.75])
    assert mean_over_seeds([0.25, 0.5, 0.75]) == SeedMean(n=3, mean=0.5, low=low, high=high)
