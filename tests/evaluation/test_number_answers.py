r"""Tests that equal answers get the same number: in a table of cases, for fractions, and if samples are reordered."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raml_trl.evaluation.voting import number_answers
from raml_trl.grading.grader import Outcome
from raml_trl.grading.pool import GradingPool, Pair

Samples = list[tuple[str, Outcome]]


class Recording(GradingPool):
    """A pool that records the pairs of each call."""

    def __init__(self, num_workers: int) -> None:
        super().__init__(num_workers)
        self.calls: list[list[Pair]] = []

    def compare(self, pairs: Sequence[Pair]) -> list[Outcome]:
        self.calls.append(list(pairs))
        return super().compare(pairs)


@pytest.fixture(scope="module")
def pool() -> Iterator[Recording]:
    with Recording(1) as pool:
        yield pool


def graded(pool: GradingPool, reference: str, answers: Sequence[str]) -> Samples:
    """Returns graded samples with these answers in their boxes. The answer "-" stands for a sample without a box."""
    texts = ["I pass" if answer == "-" else rf"So \boxed{{{answer}}}." for answer in answers]
    grades = pool.grade([(text, reference) for text in texts], style="bare")
    return [(text, grade.outcome) for text, grade in zip(texts, grades, strict=True)]


def partition(numbers: Sequence[int | None], names: Sequence[object]) -> set[frozenset[object]]:
    """Returns the names of the samples, grouped by number. The two arguments have one entry per sample."""
    pairs = list(zip(names, numbers, strict=True))
    return {frozenset(name for name, number in pairs if number == shared) for shared in set(numbers)}


@pytest.mark.children
@pytest.mark.parametrize(
    ("reference", "answers", "expected"),
    [
        ("7", ["1/2", "0.5", r"\frac{1}{2}", "7", "0.50", "8"], [0, 0, 0, 1, 0, 2]),
        ("7", [r"\sqrt{12}", "8", r"2\sqrt{3}", r"\sqrt{13}"], [0, 1, 0, 2]),  # needs algebra
        (r"\frac12", ["1/2", "2", "0.5", "2.0", r"\frac{1}{2}"], [0, 1, 0, 1, 0]),
        ("7", ["-", r"\foo(3", "8", "", r"\foo(3", "7"], [None, None, 0, None, None, 1]),
        ("7", ["-", ""], [None, None]),
        ("7", [], []),
        (r"\{1,2\}", ["2, 3", "1", "3, 2", "2, 1", "1, 2"], [0, 1, 0, 2, 2]),
        ("C", ["B", "(B)", "C", r"\text{B}", "A"], [0, 0, 1, 0, 2]),
        (r"\foo(3", ["0.5", "1/2", "8"], [0, 0, 1]),  # only the reference is unreadable
        (
            "9^{9^{9^9}}",
            ["8", r"\foo(3", r"\foo(3", "8.0", r"\bar(3"],
            [0, 1, 1, 0, 2],
        ),  # with a huge reference, unreadable answers are wrong and vote
    ],
)
def test_equal_answers_share_a_number(
    pool: Recording, reference: str, answers: list[str], expected: list[int | None]
) -> None:
    assert number_answers([graded(pool, reference, answers)], pool) == [expected]


def test_no_wrong_answer_joins_the_correct_answer(pool: Recording) -> None:
    # 50% equals the reference 50, and 0.5 equals 50%, but 0.5 is wrong.
    samples = graded(pool, "50", ["50%", "0.5", "50", "50%", "1/2"])
    assert [outcome for _, outcome in samples] == ["correct", "wrong", "correct", "correct", "wrong"]
    assert pool.compare([("0.5", "50%")]) == ["correct"]
    assert number_answers([samples], pool) == [[0, 1, 0, 0, 1]]


def spellings(value: Fraction) -> list[str]:
    """Returns spellings of a fraction whose denominator divides a power of ten."""
    top, bottom = value.numerator, value.denominator
    return [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        str(float(value)),
        f"{float(value)}0",
        f"{3 * top}/{3 * bottom}",
    ]


VALUES = st.builds(Fraction, st.integers(-6, 6), st.sampled_from([1, 2, 4, 5]))


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(VALUES, st.integers(0, 4)), max_size=12), min_size=1, max_size=4))
def test_numbers_agree_if_their_fractions_do(pool: Recording, questions: list[list[tuple[Fraction, int]]]) -> None:
    samples = [graded(pool, "1/2", [spellings(value)[way] for value, way in own]) for own in questions]
    expected = []
    for own in questions:
        order = list(dict.fromkeys(value for value, _ in own))
        expected.append([order.index(value) for value, _ in own])
    assert number_answers(samples, pool) == expected


# 0.5 and 50 both equal 50%, but do not equal each other. Several answers have more than one spelling.
ANSWERS = ["50%", "0.5", "50", "1/2", "1/2", "-", r"\foo(3", "12", "12.0", "7", "7.0", "x+1", "1+x", "x+2", "0.50"]


@pytest.mark.children
@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(range(len(ANSWERS))), unique=True, min_size=2), st.data())
def test_order_of_samples_does_not_matter(pool: Recording, drawn: list[int], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(drawn))
    numbers = []
    for names in (drawn, shuffled):
        [numbered] = number_answers([graded(pool, "12", [ANSWERS[name] for name in names])], pool)
        first_seen = list(dict.fromkeys(number for number in numbered if number is not None))
        assert first_seen == list(range(len(first_seen)))
        numbers.append(partition(numbered, names))
    assert numbers[0] == numbers[1]


def test_questions_share_rounds_but_do_not_affect_each_other(pool: Recording) -> None:
    answers = [["1", "2", "3", "2.0"], ["7", "7.0", "-"], [], ["0.5", "7", "1/2", "7", "8"]]
    samples = [graded(pool, "7", own) for own in answers]
    pool.calls.clear()
    together = number_answers(samples, pool)
    # Round 1 compares 1 with 2, 3 and 2.0, and 8 with 0.5 and 1/2. Round 2 compares 2 with 3 and 2.0, and 0.5 with 1/2.
    # In round 3, only the answer 3 remains, with nothing to compare.
    assert [len(pairs) for pairs in pool.calls] == [3 + 2, 2 + 1, 0]
    assert together == [number_answers([own], pool)[0] for own in samples]
    assert together == [[0, 1, 2, 1], [0, 0, None], [], [0, 1, 0, 1, 2]]


def test_answers_that_timed_out_vote_by_spelling(pool: Recording) -> None:
    tower, other = r"\boxed{e^{e^{e^{79}}}}", r"\boxed{\binom{10^7}{5}}"
    samples: Samples = [(tower, "timeout"), (r"\boxed{8}", "wrong"), (other, "crash"), (tower, "timeout")]
    pool.calls.clear()
    assert number_answers([samples], pool) == [[0, 1, 2, 0]]
    assert not any(pool.calls)
