"""Tests that wrong answers made from right ones are wrong, and that the grader accepts none of them."""

import random
from itertools import islice

import pytest

from benchmarks.grading.mutations import CHANGES, accepted, mutations, right_pairs
from benchmarks.grading.pairs import right_answers
from benchmarks.grading.values import differ
from raml_trl.grading.pool import GradingPool


@pytest.mark.parametrize(
    ("first", "second", "different"),
    [
        ("1/2", "0.5", False),
        (r"\frac12", r"\frac{2}{4}", False),
        ("-0", "0", False),
        ("1,234", "1234", False),
        (r"1\frac{4}{5}", "1.8", False),
        (r"\sqrt{8}", r"2\sqrt{2}", False),
        ("1, 2", "2, 1", False),
        (r"\{1, 2\}", r"\{2, 1\}", False),
        ("x+y", "y+x", False),
        (r"\sin^2 x", r"1-\cos^2 x", False),
        ("50%", "50", False),
        ("-x = 0", "x = 0", None),  # the same equation
        ("(1, 2)", "(2, 1)", True),
        ("(1, 2)", "[1, 2)", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", True),
        ("n", "N", True),
        ("x = 3", "x = 4", True),
        ("x < 3", r"x \le 3", True),
        (r"123456\pi", r"123457\pi", True),
        ("2^{2000}", "2^{2000}+1", True),
        ("3:4", "4:3", True),
        ("5x", "5", True),
        (r"\text{east}", r"\text{west}", None),
    ],
)
def test_values_differ(first: str, second: str, different: bool | None) -> None:
    assert differ(first, second) is different
    assert differ(second, first) is different


def test_every_kind_of_change_is_made() -> None:
    made = list(islice(mutations(random.Random(0), right_answers()), 10 * len(CHANGES)))
    assert {mutation.kind for mutation in made} == CHANGES.keys()
    assert len(set(made)) == len(made)
    again = list(islice(mutations(random.Random(0), right_answers()), 10 * len(CHANGES)))
    assert made == again
    assert all(mutation.answer != mutation.right for mutation in made)


# Wrong answers that the second fuzzer found accepted.
FOUND = [
    (r"\not= 18", "18"),
    (r"\not= blue", "blue"),
    (r"|f_n + g_n| = 1", "|f_n - g_n| = 1"),
    ("295 + 2 = 27", "25 + 2 = 27"),
    ("f(0) + r(1) = 1", "f(0) + f(1) = 1"),
    ("x = Y = z = 3", "x = y = z = 3"),
    ("32I'", "32I"),
    (r"-0 \text{ is wrong}", "0"),
]


@pytest.fixture(scope="module")
def pool() -> GradingPool:
    with GradingPool(1) as pool:
        yield pool


@pytest.mark.children
def test_wrong_answers_that_were_accepted(pool: GradingPool) -> None:
    assert pool.compare(FOUND).count("correct") == 0


@pytest.mark.children
@pytest.mark.parametrize(
    ("number", "seed", "real"),
    [(100, 0, False), pytest.param(3_000, 1, True, marks=pytest.mark.slow)],
)
def test_no_mutation_is_accepted(pool: GradingPool, number: int, seed: int, real: bool) -> None:
    pairs = right_pairs(seed) if real else right_answers()
    made = list(islice(mutations(random.Random(seed), pairs), number))
    assert [(mutation.answer, mutation.reference) for mutation in accepted(pool, made)] == []
