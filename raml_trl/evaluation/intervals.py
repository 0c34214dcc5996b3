"""Confidence intervals of means, and paired differences of two runs with p-values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 2**14  # numbers drawn at once: they fit the CPU cache, and memory does not grow with the number of questions
_MAX_ENUMERATED = 12  # up to this many differences, all sign patterns (2^12 = 4,096) are enumerated
_TIE = 1e-10  # share of the largest possible sum: above rounding errors, below the gap between two different sums


@dataclass(frozen=True)
class Difference:
    """Mean difference, second run minus first, with its confidence interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class MeanInterval:
    """Mean over questions with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedMean:
    """Mean of `n` values, one per seed, with its 95 % interval.

    `mean` is None if there are no values; `low` and `high` are None if there are fewer than two.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2_000,
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the mean of `values` `(Q,)`, one value per question.

    Questions are resampled with replacement, `num_resamples` times. The ends of the interval are the quantiles
    (1 - `confidence`) / 2 and (1 + `confidence`) / 2 of the resampled means.

    Source: Efron, Bootstrap methods, 1979; the percentile form.

    Raises:
        ValueError: if `values` is empty.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("an interval needs at least one value, got none")

    def means(rows: int) -> Floats:
        return array[rng.integers(array.size, size=(rows, array.size))].mean(axis=1)  # (rows, Q) -> (rows,)

    tail = (1 - confidence) / 2
    low, high = np.quantile(_in_blocks(means, num_resamples, array.size), [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: Sequence[float] | NDArray[np.floating], rng: np.random.Generator) -> MeanInterval:
    """Return the mean of `values` `(Q,)` over questions, with its `bootstrap_interval`."""
    low, high = bootstrap_interval(values, rng)
    return MeanInterval(float(np.mean(values)), low, high)


def student_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's confidence interval of the mean of a few `values`, such as one per seed.

    The interval assumes normally distributed values. A bootstrap interval of so few values would be far too narrow,
    because it never exceeds their range.

    Source: Student, The Probable Error of a Mean, 1908.

    Raises:
        ValueError: if there are fewer than two values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        raise ValueError(f"an interval of a mean needs two values or more, got {array.size}")
    half = student_quantile(confidence, array.size - 1) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return float(array.mean()) - half, float(array.mean()) + half


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Return the mean of `values`, one per seed, with Student's 95 % interval if there are at least two values."""
    low, high = student_interval(values) if len(values) > 1 else (None, None)
    return SeedMean(len(values), fmean(values) if values else None, low, high)


def student_difference(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Return the mean of `second` minus `first`, for two settings that were run with the same few seeds.

    The interval and the p-value of the result are those of a paired t-test, the interval with the level `confidence`.
    `first` and `second` hold one value per seed, in the same order of seeds. If all differences are equal, the interval
    is a single point, and the p-value is 1 if the differences are zero and 0 otherwise.

    Raises:
        ValueError: if `first` and `second` differ in length or have fewer than two values.
    """
    if len(first) != len(second):
        raise ValueError(f"two settings must have the same seeds, got {len(first)} and {len(second)} values")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    low, high = student_interval(differences.tolist(), confidence=confidence)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(differences.size)
    angle = math.atan2(abs(mean), error * math.sqrt(differences.size - 1))
    return Difference(mean, low, high, 1 - _student_probability(angle, differences.size - 1))


def student_quantile(confidence: float, degrees: int) -> float:
    """Return the t with P(|T| <= t) = `confidence`, by bisection. T is Student's t with `degrees` of freedom."""
    low, high = 0.0, math.pi / 2  # bounds of the angle whose tangent is t / sqrt(degrees)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_probability(middle, degrees) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _student_probability(angle: float, degrees: int) -> float:
    """Return P(|T| <= tan(angle) sqrt(degrees)), where T is Student's t with `degrees` of freedom.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    odd = degrees % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def paired_difference(
    first: Sequence[float] | NDArray[np.floating],
    second: Sequence[float] | NDArray[np.floating],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2_000,
    num_flips: int = 10_000,
) -> Difference:
    """Return the mean of `second` minus `first`, the values `(Q,)` of two runs on the same questions in the same order.

    The interval of the result is a paired bootstrap with the level `confidence` and `num_resamples` resamples: each
    resampled question contributes the values of both runs. The p-value is from a two-sided sign-flip test: if the runs
    were equally good, the difference of each question would be equally likely to have either sign. With at most 12
    nonzero differences, all sign patterns are enumerated and the p-value is exact. With more, `num_flips` patterns are
    drawn, and the observed pattern is added to them, so that p is never 0.

    Source: Fisher, The Design of Experiments, 1935, section 21. Phipson and Smyth, arXiv 1603.05766, for the added
    pattern.

    Raises:
        ValueError: if there are no questions, the runs have different numbers of them, or a value is not finite.
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"two runs must have the same questions, got values of shape {before.shape} and {after.shape}")
    differences = after - before
    if not np.isfinite(differences).all():
        position = int(np.flatnonzero(~np.isfinite(differences))[0])
        raise ValueError(f"question {position}: values must be finite, got {before[position]} and {after[position]}")
    low, high = bootstrap_interval(differences, rng, confidence=confidence, num_resamples=num_resamples)
    p_value = _sign_flip_p_value(differences[differences != 0], rng, num_flips)
    return Difference(float(differences.mean()), low, high, p_value)


def _sign_flip_p_value(differences: Floats, rng: np.random.Generator, num_flips: int) -> float:
    """Return the share of sign patterns with a sum of `differences` `(D,)` at least as far from 0 as the observed one.

    The observed sum is the one without any sign flipped.
    """
    as_far = abs(differences.sum()) - _TIE * np.abs(differences).sum()
    if differences.size <= _MAX_ENUMERATED:
        flipped = np.arange(2**differences.size)[:, None] >> np.arange(differences.size) & 1  # (2^D, D)
        return float(np.mean(np.abs((1 - 2 * flipped) @ differences) >= as_far))

    def sums(rows: int) -> Floats:
        return (1 - 2 * rng.integers(2, size=(rows, differences.size))) @ differences  # (rows, D) -> (rows,)

    drawn = np.abs(_in_blocks(sums, num_flips, differences.size))
    return float((1 + np.count_nonzero(drawn >= as_far)) / (1 + num_flips))


def _in_blocks(draw: Callable[[int], Floats], total: int, width: int) -> Floats:
    """Return the same values as `draw(total)`, but calls `draw` for only a few rows at a time to save memory.

    A row takes `width` random numbers, and a call draws about `_BLOCK` numbers.
    """
    step = max(1, _BLOCK // width)
    return np.concatenate([draw(min(step, total - start)) for start in range(0, total, step)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values `(N,)` of N comparisons, corrected for the number of comparisons.

    If differences with a corrected p-value below .05 count as significant, the probability of any false positive among
    the N comparisons is at most 5 %. The i-th smallest p-value p, counted from i = 0, becomes (N - i) p, but at most 1,
    and not less than the corrected value of a smaller p.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
