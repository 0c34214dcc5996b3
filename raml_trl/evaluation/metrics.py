"""What n samples per question say about a model: Pass@k, G-Pass@k, mG-Pass@k, with intervals.

They take counts, never rewards: n samples of a question, c of them correct. Arithmetic is in exact integers up to the
one division at the end.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import bootstrap_interval
from raml_trl.evaluation.voting import Votes, by_question, check_k, majority_each

Counts = Sequence[int] | NDArray[np.integer]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from the n, is correct.

    Source: Chen et al., arXiv 2107.03374, eq. 1: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    return float(_expected(n, c, k, lambda correct: correct >= 1))


def avg_at_n(n: int, c: int) -> float:
    """Share of the samples that are correct, c / n, which is Pass@1.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= n.
    """
    return pass_at_k(n, c, 1)


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
    needed = max(ceil(threshold * k), 1)
    return float(_expected(n, c, k, lambda correct: correct >= needed))


def mg_pass_at_k(n: int, c: int, k: int) -> float:
    """Mean of G-Pass@k over the thresholds above one half: (2/k) * sum over i from k/2 + 1 to k of P[X >= i].

    Summed by the correct ones of a draw instead of by threshold, that is (2/k) * E[max(X - k/2, 0)].

    Source: GPassK, arXiv 2412.13147, eq. 5; RaML, arXiv 2505.19815, eq. 23.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n; for odd k, where (k-1)/2 terms are weighed by 2/k, so that a
            model that is always right would score (k-1)/k.
    """
    if k % 2:
        raise ValueError(f"mG-Pass@k is defined for even k, got {k}: for odd k a perfect model would score (k-1)/k")
    beyond_half = _expected(n, c, k, lambda correct: max(correct - k // 2, 0))
    return float(Fraction(2, k) * beyond_half)


def _expected(n: int, c: int, k: int, worth: Callable[[int], int]) -> Fraction:
    """E[worth(X)] for X hypergeometric: k draws without replacement from n samples of which c are correct."""
    if not 0 <= c <= n:
        raise ValueError(f"c must lie between 0 and n = {n}, got {c}")
    check_k(n, k)
    ways = sum(worth(i) * comb(c, i) * comb(n - c, k - i) for i in range(min(c, k) + 1))
    return Fraction(ways, comb(n, k))


def each_question(
    metric: Callable[..., float], n: int | Counts, c: Counts, *settings: float | Fraction | str
) -> NDArray[np.float64]:
    """`metric(n, c, *settings)` for every question `(Q,)`, as `each_question(g_pass_at_k, n, c, 8, "0.5")`.

    A question has the n of its own, or all have the one given. What the values are depends on n and c alone, so each
    pair of them is worked out once, exactly: 100,000 questions take little longer than the pairs they hold.

    Args:
        metric: `pass_at_k`, `avg_at_n`, `g_pass_at_k` or `mg_pass_at_k`.
        n: samples, of every question or of each `(Q,)`.
        c: `(Q,)` correct ones.
        settings: k, and tau where there is one.

    Raises:
        ValueError: if there are not as many n as c; or what `metric` raises, with the position of the question, as for
            k above its n.
    """
    correct = np.asarray(c)
    samples = np.broadcast_to(n, correct.shape) if np.ndim(n) == 0 else np.asarray(n)
    if samples.shape != correct.shape:
        raise ValueError(f"every question needs an n and a c, got {samples.size} n and {correct.size} c")
    pairs = zip(samples.tolist(), correct.tolist(), strict=True)
    return by_question(lambda pair: metric(*pair, *settings), pairs)


def summarise(
    correct: Counts,
    num_samples: int | Counts,
    ks: Sequence[int],
    rng: np.random.Generator,
    *,
    thresholds: Sequence[float | Fraction | str] = (),
    votes: Sequence[Votes] | None = None,
) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval over questions of Pass@k for every k, and of mG-Pass@k for every even one.

    Args:
        correct: `(Q,)` correct samples of each question.
        num_samples: n, the same for every question or of each `(Q,)`.
        ks: k for the metrics that take one.
        rng: for the bootstrap.
        thresholds: each adds G-Pass@k for every k, under `g_pass@K_TAU`.
        votes: `(Q,)`, add the majority vote for every k above 1, of which a single vote is Pass@1, under `maj@K`.

    Raises:
        ValueError: what `each_question` raises; or if `votes` are not of these questions and samples.
    """
    columns = {f"pass@{k}": each_question(pass_at_k, num_samples, correct, k) for k in ks}
    columns |= {f"mg_pass@{k}": each_question(mg_pass_at_k, num_samples, correct, k) for k in ks if k % 2 == 0}
    columns |= {
        f"g_pass@{k}_{tau}": each_question(g_pass_at_k, num_samples, correct, k, tau) for tau in thresholds for k in ks
    }
    if votes is not None:
        _check_votes(votes, np.broadcast_to(num_samples, len(correct)))
        columns |= {f"maj@{k}": majority_each(votes, k) for k in ks if k > 1}
    summary = {}
    for name, values in columns.items():
        low, high = bootstrap_interval(values, rng)
        summary[name] = {"mean": float(np.mean(values)), "low": low, "high": high}
    return summary


def _check_votes(votes: Sequence[Votes], n: NDArray[np.integer]) -> None:
    if len(votes) != n.size:
        raise ValueError(f"every question needs its votes, got votes of {len(votes)} questions for {n.size}")
    for position, (one, samples) in enumerate(zip(votes, n, strict=True)):
        if one.n != samples:
            raise ValueError(f"question {position}: its votes and abstentions are of {one.n} samples, not of {samples}")
