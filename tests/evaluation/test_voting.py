"""Tests the majority vote against an enumeration of all draws of k samples."""

import time
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raml_trl.evaluation.metrics import avg_at_n
from raml_trl.evaluation.voting import Votes, majority_at_k, majority_each


def voted(counts: list[int], correct_index: int, k: int, abstaining: int) -> Fraction:
    """Returns maj@k as the mean over all k-subsets of the samples. A sample is the index of its answer, or None."""
    samples = [label for label, count in enumerate(counts) for _ in range(count)] + [None] * abstaining
    shares = []
    for draw in combinations(samples, k):
        votes = Counter(label for label in draw if label is not None)
        winners = [label for label, number in votes.items() if number == max(votes.values())]
        shares.append(Fraction(correct_index in winners, max(len(winners), 1)))
    return sum(shares, Fraction(0)) / len(shares)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(0, 4), st.data())
def test_majority_equals_the_enumeration(counts: list[int], abstaining: int, data: st.DataObject) -> None:
    n = sum(counts) + abstaining
    assume(1 <= n <= 10)
    k = data.draw(st.integers(1, n))
    for index in range(len(counts)):
        expected = voted(counts, index, k, abstaining)
        assert majority_at_k(counts, index, k, abstaining) == pytest.approx(float(expected), abs=1e-15)


def test_single_vote_is_the_average_and_all_votes_are_the_plurality() -> None:
    assert majority_at_k([3, 4, 1], 0, 1) == avg_at_n(8, 3)
    assert [majority_at_k([3, 4, 1], index, 8) for index in range(3)] == [0, 1, 0]
    assert majority_at_k([3, 3, 1], 0, 7) == 0.5
    assert majority_at_k([2, 2, 2], 2, 6) == float(Fraction(1, 3))


def test_abstaining_samples_do_not_vote() -> None:
    # half of the draws of 4 from 1 correct and 7 abstaining samples contain the correct sample
    assert majority_at_k([1], 0, 4, abstaining=7) == 0.5
    assert majority_at_k([2], 0, 5, abstaining=3) == 1
    assert majority_at_k([], None, 2, abstaining=3) == 0
    # an unreadable answer may vote for itself as a separate answer
    assert majority_at_k([1, 1], 0, 2) == 0.5
    assert majority_at_k([1], 0, 2, abstaining=1) == 1


def test_no_vote_is_right_without_a_correct_answer() -> None:
    assert majority_at_k([5, 3], None, 3) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=10), st.data())
def test_probabilities_of_all_answers_sum_to_one(counts: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, sum(counts)))
    assert sum(majority_at_k(counts, index, k) for index in range(len(counts))) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("counts", [[1] * 64, [2] * 32, [4] * 16, [16, 8, 8, 4, 4, 4, *[2] * 6, *[1] * 8]])
def test_64_samples_are_counted_quickly(counts: list[int]) -> None:
    started = time.perf_counter()
    for k in (8, 16, 32, 63, 64):
        majority_at_k(counts, 0, k)
    assert time.perf_counter() - started < 2  # takes 4 milliseconds


def test_majority_of_64_agrees_with_drawn_votes(rng: np.random.Generator) -> None:
    counts, k, abstaining = [14, 12, 12, 6, *[2] * 5], 24, 10
    drawn = rng.multivariate_hypergeometric([*counts, abstaining], k, size=200_000)[:, :-1]
    winners = drawn == drawn.max(axis=1, keepdims=True)
    estimate = (winners[:, 0] / winners.sum(axis=1)).mean()
    # the standard error is at most 0.5 / sqrt(200,000) = 0.0011
    assert majority_at_k(counts, 0, k, abstaining) == pytest.approx(estimate, abs=0.004)


@pytest.mark.parametrize(
    ("counts", "index", "k", "abstaining", "fault"),
    [
        ([2, 1], 0, 4, 0, "k must lie between 1 and n = 3, got 4"),
        ([2, 1], 0, 0, 0, "k must lie between 1 and n = 3, got 0"),
        ([2, 1], 2, 1, 0, "correct_index must be an index of the 2 answers or None, got 2"),
        ([2, 1], -1, 1, 0, "correct_index must be an index of the 2 answers or None, got -1"),
        ([2, -1], 0, 1, 0, r"must not be negative, got \[2, -1\]"),
        ([2], 0, 1, -1, "must not be negative"),
    ],
)
def test_impossible_votes_are_rejected(counts: list[int], index: int, k: int, abstaining: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        majority_at_k(counts, index, k, abstaining)


def test_majority_of_each_question() -> None:
    votes = [Votes((3, 1), 0), Votes((2, 2), 1, 4), Votes((3, 1), 0), Votes((5, 2), None)]
    assert [question.n for question in votes] == [4, 8, 4, 7]
    expected = [majority_at_k(question.counts, question.correct_index, 3, question.abstaining) for question in votes]
    assert majority_each(votes, 3).tolist() == expected
    with pytest.raises(ValueError, match="question 0: k must lie between 1 and n = 4, got 5"):
        majority_each(votes, 5)
