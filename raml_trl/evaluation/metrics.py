"""Metrics of n samples per question: Pass@k, G-Pass@k and mG-Pass@k, with confidence intervals.

The inputs are counts, never rewards: a question has n samples, and c of them are correct. The arithmetic uses exact
integers up to the final division.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import mean_interval
from raml_trl.evaluation.voting import Votes, by_question, check_k, majority_each

Counts = Sequence[int] | NDArray[np.integer]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that at least one of k samples, drawn without replacement from n, is correct.

    Source: Chen et al., arXiv 2107.03374, eq. 1: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    return float(_expected(n, c, k, lambda correct: correct >= 1))


def avg_at_n(n: int, c: int) -> float:
    """Return the share of correct samples, c / n. This equals Pass@1.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= n.
    """
    return pass_at_k(n, c, 1)


def g_pass_at_k(n: int, c: int, k: int, tau: float | Fraction | str) -> float:
    """Return the probability that at least max(ceil(tau * k), 1) of k samples, drawn without replacement, are correct.

    With tau = 0 this is Pass@k. A float `tau` is read as the decimal that Python prints for it, because in floating
    point 25 * 0.28 exceeds 7 and would round up to 8.

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
    """Return the mean of G-Pass@k over the thresholds tau = i/k above one half.

    If X is the number of correct samples among k, this is (2/k) * sum over i from k/2 + 1 to k of P[X >= i], which
    equals (2/k) * E[max(X - k/2, 0)].

    Source: GPassK, arXiv 2412.13147, eq. 5; RaML, arXiv 2505.19815, eq. 23.

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n, or if k is odd. For odd k there are (k-1)/2 terms with weight
            2/k, so a model that is always correct would score (k-1)/k.
    """
    if k % 2:
        raise ValueError(f"mG-Pass@k is defined for even k, got {k}: for odd k a perfect model would score (k-1)/k")
    beyond_half = _expected(n, c, k, lambda correct: max(correct - k // 2, 0))
    return float(Fraction(2, k) * beyond_half)


def _expected(n: int, c: int, k: int, worth: Callable[[int], int]) -> Fraction:
    """Return E[worth(X)], where X is the number of correct samples among k that are drawn without replacement."""
    if not 0 <= c <= n:
        raise ValueError(f"c must lie between 0 and n = {n}, got {c}")
    check_k(n, k)
    ways = sum(worth(i) * comb(c, i) * comb(n - c, k - i) for i in range(min(c, k) + 1))
    return Fraction(ways, comb(n, k))


def each_question(
    metric: Callable[..., float], n: int | Counts, c: Counts, *settings: float | Fraction | str
) -> NDArray[np.float64]:
    """Return `metric(n, c, *settings)` for every question `(Q,)`, as in `each_question(g_pass_at_k, n, c, 8, "0.5")`.

    The metric is computed once for each distinct pair of n and c, so even 100,000 questions are fast.

    Args:
        metric: `pass_at_k`, `avg_at_n`, `g_pass_at_k` or `mg_pass_at_k`.
        n: number of samples: one number for all questions, or `(Q,)`.
        c: `(Q,)` number of correct samples of each question.
        settings: k, and tau if the metric has one.

    Raises:
        ValueError: if n and c differ in length, or if `metric` raises a ValueError for a question. The message then
            names the position of the question.
    """
    correct = np.asarray(c)
    samples = np.broadcast_to(n, correct.shape) if np.ndim(n) == 0 else np.asarray(n)
    if samples.shape != correct.shape:
        raise ValueError(f"n and c must have one entry per question, got {samples.size} n and {correct.size} c")
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
    """Return Pass@k for every k and mG-Pass@k for every even k, each as a mean over questions with a 95 % interval.

    The keys of the result are names such as `pass@8` and `mg_pass@8`. Its values have the fields of `MeanInterval`.

    Args:
        correct: `(Q,)` number of correct samples of each question.
        num_samples: number of samples n: one number for all questions, or `(Q,)`.
        ks: values of k.
        rng: generator for the bootstrap. Each metric uses a copy of it, so all have the same resamples of the
            questions. Equal metrics have equal intervals, and an interval does not depend on the other metrics.
        thresholds: values of tau. Each adds G-Pass@k for every k, with a key such as `g_pass@8_0.5`.
        votes: `(Q,)` votes of each question. If given, they add the majority vote maj@k for every k above 1. For k = 1,
            it equals Pass@1.

    Raises:
        ValueError: if `each_question` raises it, or if `votes` do not match the questions and their samples.
    """
    columns = {f"pass@{k}": each_question(pass_at_k, num_samples, correct, k) for k in ks}
    columns |= {f"mg_pass@{k}": each_question(mg_pass_at_k, num_samples, correct, k) for k in ks if k % 2 == 0}
    columns |= {
        f"g_pass@{k}_{tau}": each_question(g_pass_at_k, num_samples, correct, k, tau) for tau in thresholds for k in ks
    }
    if votes is not None:
        _check_votes(votes, np.broadcast_to(num_samples, len(correct)))
        columns |= {f"maj@{k}": majority_each(votes, k) for k in ks if k > 1}
    return {name: asdict(mean_interval(values, copy.deepcopy(rng))) for name, values in columns.items()}


def _check_votes(votes: Sequence[Votes], n: NDArray[np.integer]) -> None:
    if len(votes) != n.size:
        raise ValueError(f"votes must have one entry per question, got {len(votes)} for {n.size} questions")
    for position, (question_votes, samples) in enumerate(zip(votes, n, strict=True)):
        if question_votes.n != samples:
            raise ValueError(
                f"question {position}: votes and abstentions cover {question_votes.n} samples instead of {samples}"
            )
