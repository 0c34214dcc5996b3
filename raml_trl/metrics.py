"""What n samples per question say about a model: Pass@k, G-Pass@k, mG-Pass@k, and bootstrap intervals.

They take counts, never rewards: n samples of a question, c of them correct. Arithmetic is in exact integers up to the
one division at the end.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from the n, is correct.

    Source: Chen et al., arXiv 2107.03374, eq. 1: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    return float(_at_least(n, c, k, 1))


def g_pass_at_k(n: int, c: int, k: int, tau: float | Fraction | str) -> float:
    """Probability that at least ceil(tau * k) of k samples are correct; at least one for tau = 0, which is Pass@k.

    `tau` is read as the decimal it is written as: in floating point, 25 * 0.28 exceeds 7 and rounds up to 8.

    Source: GPassK, arXiv 2412.13147, eq. 2.

    Raises:
        ValueError: unless 0 <= c <= n, 1 <= k <= n and 0 <= tau <= 1.
    """
    threshold = Fraction(str(tau))
    if not 0 <= threshold <= 1:
        raise ValueError(f"tau must lie between 0 and 1, got {tau}")
    return float(_at_least(n, c, k, max(ceil(threshold * k), 1)))


def mg_pass_at_k(n: int, c: int, k: int) -> float:
    """Mean of G-Pass@k over the thresholds above one half: (2/k) * sum over i from k/2 + 1 to k of P[X >= i].

    Source: GPassK, arXiv 2412.13147, eq. 5; RaML, arXiv 2505.19815, eq. 23.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n; for odd k, where (k-1)/2 terms are weighed by 2/k, so that a
            model that is always right would score (k-1)/k.
    """
    if k % 2:
        raise ValueError(f"mG-Pass@k is defined for even k, got {k}: for odd k a perfect model would score (k-1)/k")
    return float(Fraction(2, k) * sum(_at_least(n, c, k, i) for i in range(k // 2 + 1, k + 1)))


def _at_least(n: int, c: int, k: int, threshold: int) -> Fraction:
    """P[X >= threshold] for X hypergeometric: k draws without replacement from n samples of which c are correct."""
    if not 0 <= c <= n:
        raise ValueError(f"c must lie between 0 and n = {n}, got {c}")
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n = {n}, got {k}: draw more samples or lower k")
    ways = sum(comb(c, i) * comb(n - c, k - i) for i in range(threshold, min(c, k) + 1))
    return Fraction(ways, comb(n, k))


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating],
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2_000,
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` `(Q,)`, questions drawn with replacement.

    Raises:
        ValueError: if `values` is empty.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("an interval needs at least one value, got none")
    means = np.array([array[rng.integers(array.size, size=array.size)].mean() for _ in range(num_resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def summarise(
    correct: Sequence[int], num_samples: int, ks: Sequence[int], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval over questions of Pass@k for every k, and of mG-Pass@k for every even one.

    Args:
        correct: `(Q,)` correct samples of each question.
        num_samples: n, the same for every question.
        ks: k for the metrics that take one.
        rng: for the bootstrap.
    """
    summary = {}
    for name, metric in (("pass@{}", pass_at_k), ("mg_pass@{}", mg_pass_at_k)):
        for k in ks:
            if metric is mg_pass_at_k and k % 2:
                continue
            values = [metric(num_samples, count, k) for count in correct]
            low, high = bootstrap_interval(values, rng)
            summary[name.format(k)] = {"mean": float(np.mean(values)), "low": low, "high": high}
    return summary
