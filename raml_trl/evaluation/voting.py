"""The majority vote of k of n samples, maj@k: its exact expectation over all draws of k."""

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

_CORRECT = ""  # stands for all correct answers; none is empty
_ABSTAINING = ("no answer", "unreadable answer")
_UNFINISHED = ("timeout", "crash")


@dataclass(frozen=True)
class Votes:
    """The samples of one question as `majority_at_k` counts them."""

    counts: tuple[int, ...]
    correct_index: int | None
    abstaining: int = 0

    @property
    def n(self) -> int:
        """All samples, voting or not."""
        return sum(self.counts) + self.abstaining


def number_answers(questions: Sequence[Sequence[tuple[str, Outcome]]], pool: GradingPool) -> list[list[int | None]]:
    """The number of every sample's answer within its question, from 0 in order of first appearance; None abstains.

    Samples graded correct have one answer, since each is equal to the reference, and no other sample joins them. The
    others are held against each other by the grader, all questions at once in as many rounds as one of them has
    different answers: in each, what is left of a question is held against the commonest of it, as the reference.

    Who has no answer abstains, and so does who has one that cannot be read: no other can be told to equal it, so that
    counting it as a vote would scatter what may be one answer. An answer on which the grader ran out of time or died
    can be read. It votes, together with those spelt alike, and is not compared again, as that would end no better.

    The grader's equality is not quite one: 50% equals 0.5 and 50, which differ, and it may say another thing of two
    answers held against each other the other way round. Which answers are held against which follows from their number
    and spelling, not from the order of the samples; so which samples agree does not depend on the order either, unless
    a comparison is near its deadline.

    Args:
        questions: of every sample of each, its text and the outcome of its grading.
        pool: compares, with its deadline for each pair.
    """
    keys = [[_key(text, outcome) for text, outcome in samples] for samples in questions]
    leaders: list[dict[str, str]] = [{} for _ in questions]
    waiting = [_to_compare(own, samples) for own, samples in zip(keys, questions, strict=True)]
    while any(waiting):
        told = iter(pool.compare([(one, left[0]) for left in waiting for one in left[1:]]))
        for led, left in zip(leaders, waiting, strict=True):
            led |= {one: left[0] for one in left[1:] if next(told) == "correct"}
            left[:] = [one for one in left[1:] if one not in led]
    return [_numbers(own, led) for own, led in zip(keys, leaders, strict=True)]


def _key(text: str, outcome: Outcome) -> str | None:
    """What is equal for samples that need no comparison; None for one that abstains."""
    if outcome in _ABSTAINING:
        return None
    return _CORRECT if outcome == "correct" else extract_answer(text)


def _to_compare(keys: Sequence[str | None], samples: Sequence[tuple[str, Outcome]]) -> list[str]:
    """The answers to hold against each other, the commonest first, then the shortest."""
    counts = Counter(key for key in keys if key)
    unfinished = {key for key, (_, outcome) in zip(keys, samples, strict=True) if outcome in _UNFINISHED}
    return sorted(counts.keys() - unfinished, key=lambda one: (-counts[one], len(one), one))


def _numbers(keys: Sequence[str | None], leaders: dict[str, str]) -> list[int | None]:
    numbers: dict[str, int] = {}
    return [None if key is None else numbers.setdefault(leaders.get(key, key), len(numbers)) for key in keys]


def majority_at_k(counts: Sequence[int], correct_index: int | None, k: int, abstaining: int = 0) -> float:
    """Probability that the plurality vote of k samples, drawn without replacement, is correct: maj@k, exactly.

    Answers tied for most votes share the question equally. A draw of abstaining samples alone has no winner. A question
    takes half a millisecond for n = 64, a tenth of a second for n = 256 and some seconds for n = 512, at the worst.

    Args:
        counts: `(A,)` samples that gave each of the A distinct answers.
        correct_index: which answer is correct, or None if none is.
        k: samples that vote or abstain.
        abstaining: samples without an answer. They are drawn like the others; one whose unreadable answer should vote
            for itself is an answer with a count of one instead.

    Source: Wang et al., arXiv 2203.11171 (self-consistency); here its mean over all draws.

    Raises:
        ValueError: if a count is negative, `correct_index` is none of `counts`, or not 1 <= k <= n, the sum of all.
    """
    if min((*counts, abstaining)) < 0:
        raise ValueError(f"counts must not be negative, got {list(counts)} and {abstaining} abstaining")
    if correct_index is not None and not 0 <= correct_index < len(counts):
        raise ValueError(f"correct_index must be one of the {len(counts)} answers or None, got {correct_index}")
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
    """In how many ways of `draws` samples no answer gets more than `votes`, by the number of answers that get as many.

    What an answer with c samples can add to a draw is (1 + x)^c, cut after x^votes, the power of x being the samples
    drawn; abstaining ones, and answers that cannot reach `votes`, add (1 + x)^c whole. A polynomial is one integer, x
    being a power of two too great for a coefficient to carry: none exceeds 2^n. At most n / votes answers reach `votes`
    and draws / votes of them tie: together O(n k) products, of which those of long factors are few.
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
    """`majority_at_k` for every question `(Q,)`; like votes are counted once.

    Raises:
        ValueError: what `majority_at_k` raises, with the position of the question.
    """
    return by_question(lambda one: majority_at_k(one.counts, one.correct_index, k, one.abstaining), votes)


def by_question(value: Callable[[Question], float], questions: Iterable[Question]) -> NDArray[np.float64]:
    """`value` of every question `(Q,)`, worked out once for those that are equal.

    Raises:
        ValueError: what `value` raises, with the position of the question.
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
    """Refuse to draw k of n.

    Raises:
        ValueError: unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n = {n}, got {k}: draw more samples or lower k")
