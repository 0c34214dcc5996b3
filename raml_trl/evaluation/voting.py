"""Computes maj@k: how often the most frequent answer among k of the n samples of a question is correct.

`number_answers` finds out which samples have the same answer. `majority_at_k` then computes the exact mean over all
draws of k samples.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.grader import Outcome
from raml_trl.grading.pool import GradingPool

Question = TypeVar("Question", bound=Hashable)

_CORRECT = ""  # key of all correct answers; no extracted answer is empty
_ABSTAINING = ("no answer", "unreadable answer")
_UNFINISHED = ("timeout", "crash")


@dataclass(frozen=True)
class Votes:
    """The votes of the samples of one question.

    `counts` holds the number of samples with each distinct answer. `correct_index` is the index of the correct answer
    in `counts` (None if no sample is correct). `abstaining` is the number of samples that do not vote.
    """

    counts: tuple[int, ...]
    correct_index: int | None
    abstaining: int = 0

    @property
    def n(self) -> int:
        """Number of samples, voting or abstaining."""
        return sum(self.counts) + self.abstaining


def number_answers(questions: Sequence[Sequence[tuple[str, Outcome]]], pool: GradingPool) -> list[list[int | None]]:
    """Find equal answers among the samples of each question. Return a label for every sample; None if it abstains.

    Samples of a question get the same label if they have the same answer. The labels are the numbers 0, 1, 2, ... in
    the order in which the answers first appear. All samples graded correct share one answer, because each equals the
    reference, and no other sample joins them. The grader compares the remaining answers in rounds, for all questions at
    once. In each round, the most frequent remaining answer of a question serves as the reference for its other
    remaining answers. The question with the most different answers determines the number of rounds.

    Samples without an answer abstain. Samples with an unreadable answer also abstain, because the grader cannot compare
    them, and equal answers would then count as different votes. A sample on which the grader timed out or crashed votes
    together with samples that spell the answer identically. Its answer is not compared with others, because the grader
    would time out or crash again.

    The grader's equality is not transitive (50% equals both 0.5 and 50, which differ from each other) and may depend on
    which side is the reference. The choice of comparisons depends on the frequency and spelling of the answers only,
    not on the order of the samples. The groups are therefore independent of the order of the samples, unless a
    comparison ends close to its deadline.

    Args:
        questions: for each question, the text of every sample and the outcome of its grading.
        pool: the pool that compares the answers.
    """
    keys = [[_key(text, outcome) for text, outcome in samples] for samples in questions]
    leaders: list[dict[str, str]] = [{} for _ in questions]  # by question: answer -> the equal reference
    remaining = [_to_compare(question_keys, samples) for question_keys, samples in zip(keys, questions, strict=True)]
    while any(remaining):
        outcomes = iter(pool.compare([(answer, answers[0]) for answers in remaining for answer in answers[1:]]))
        for led, answers in zip(leaders, remaining, strict=True):
            led |= {answer: answers[0] for answer in answers[1:] if next(outcomes) == "correct"}
            answers[:] = [answer for answer in answers[1:] if answer not in led]
    return [_numbers(question_keys, led) for question_keys, led in zip(keys, leaders, strict=True)]


def _key(text: str, outcome: Outcome) -> str | None:
    """Return the key of a sample, or None if the sample abstains. Samples with equal keys have the same answer."""
    if outcome in _ABSTAINING:
        return None
    return _CORRECT if outcome == "correct" else extract_answer(text)


def _to_compare(keys: Sequence[str | None], samples: Sequence[tuple[str, Outcome]]) -> list[str]:
    """Return the distinct answers to compare: the most frequent first, and the shortest first if equally frequent."""
    counts = Counter(key for key in keys if key)
    unfinished = {key for key, (_, outcome) in zip(keys, samples, strict=True) if outcome in _UNFINISHED}
    return sorted(counts.keys() - unfinished, key=lambda answer: (-counts[answer], len(answer), answer))


def _numbers(keys: Sequence[str | None], leaders: dict[str, str]) -> list[int | None]:
    numbers: dict[str, int] = {}
    return [None if key is None else numbers.setdefault(leaders.get(key, key), len(numbers)) for key in keys]


def majority_at_k(counts: Sequence[int], correct_index: int | None, k: int, abstaining: int = 0) -> float:
    """Return the exact probability that the plurality vote of k samples, drawn without replacement, is correct.

    If t answers tie for the most votes and the correct answer is among them, the draw counts 1/t. A draw that has only
    abstaining samples counts 0. At worst, the computation takes half a millisecond for n = 64, a tenth of a second for
    n = 256 and some seconds for n = 512.

    Args:
        counts: `(A,)` number of samples with each of the A distinct answers.
        correct_index: index of the correct answer in `counts`, or None if no sample is correct.
        k: number of samples in a draw, including abstaining samples.
        abstaining: number of samples that do not vote but are drawn like the others. To let a sample with an unreadable
            answer vote for itself, add a count of one to `counts` instead.

    Source: Wang et al., arXiv 2203.11171 (self-consistency). This function computes the mean of that vote over all
    draws.

    Raises:
        ValueError: if a count is negative, `correct_index` is out of range, or not 1 <= k <= n, where n is the sum of
            `counts` and `abstaining`.
    """
    if min((*counts, abstaining)) < 0:
        raise ValueError(f"counts must not be negative, got {list(counts)} and {abstaining} abstaining")
    if correct_index is not None and not 0 <= correct_index < len(counts):
        raise ValueError(f"correct_index must be an index of the {len(counts)} answers or None, got {correct_index}")
    n = sum(counts) + abstaining
    check_k(n, k)
    if correct_index is None:
        return 0.0
    others = [count for index, count in enumerate(counts) if index != correct_index]
    won = Fraction(0)
    for votes in range(1, min(counts[correct_index], k) + 1):
        ways = _ways_to_tie(others, votes, k - votes, abstaining)
        shared = sum(Fraction(number, tied + 1) for tied, number in enumerate(ways))
        won += comb(counts[correct_index], votes) * shared
    return float(won / comb(n, k))


def _ways_to_tie(counts: Sequence[int], votes: int, draws: int, abstaining: int) -> list[int]:
    """Count the ways to draw `draws` samples so that no answer has more than `votes` samples in the draw.

    Entry t of the result is the number of ways in which exactly t answers have `votes` samples in the draw.

    The generating function of an answer with c samples is (1 + x)^c, cut off after x^votes, where the power of x is the
    number of samples drawn. Abstaining samples, and answers with fewer than `votes` samples, contribute the complete
    (1 + x)^c. A polynomial is stored as one integer: its value at a power of two x that exceeds every coefficient. No
    coefficient exceeds 2^n. At most n / votes answers can reach `votes`, and at most draws / votes of them tie. That
    makes O(n k) products, few of which have long factors.
    """
    bits = sum(counts) + abstaining + 1
    x = 1 << bits
    beyond = x ** (draws + 1)
    free = abstaining + sum(count for count in counts if count < votes)
    by_ties = [pow(1 + x, free, beyond)]
    for count in counts:
        if count < votes:
            continue
        below = pow(1 + x, count, x**votes)
        level = comb(count, votes) * x**votes
        previous = zip([*by_ties, 0], [0, *by_ties], strict=True)  # ties without this answer, and with it
        by_ties = [(fewer * below + more * level) % beyond for fewer, more in previous][: draws // votes + 1]
    return [polynomial >> bits * draws for polynomial in by_ties]


def majority_each(votes: Iterable[Votes], k: int) -> NDArray[np.float64]:
    """Return `majority_at_k` of the votes of every question `(Q,)`. Questions with equal votes share one computation.

    Raises:
        ValueError: if `majority_at_k` raises it. The message names the position of the question.
    """
    return by_question(
        lambda question: majority_at_k(question.counts, question.correct_index, k, question.abstaining), votes
    )


def by_question(value: Callable[[Question], float], questions: Iterable[Question]) -> NDArray[np.float64]:
    """Return `value(question)` of every question `(Q,)`. For questions that compare equal, `value` is called only once.

    Raises:
        ValueError: if `value` raises it. The message names the position of the question.
    """
    known: dict[Question, float] = {}
    values = []
    for position, question in enumerate(questions):
        if question not in known:
            try:
                known[question] = value(question)
            except ValueError as error:
                raise ValueError(f"question {position}: {error}") from error
        values.append(known[question])
    return np.array(values, dtype=np.float64)


def check_k(n: int, k: int) -> None:
    """Check that k samples can be drawn from n.

    Raises:
        ValueError: unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n = {n}, got {k}: draw more samples or lower k")
