"""Tests the grader on the case table, real references, random numbers and hostile texts."""

import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.equality import leaves, same
from raml_trl.grading.grader import decide_with_algebra, decide_without_algebra, grade, readable
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact, is_not_finite, same_number
from raml_trl.grading.pool import GradingPool
from tests.helpers.grading_cases import BOMBS, BOXES, CASES, TEXTS

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# References of the real data that the grader can compare only as text, each with the reason.
UNREADABLE = {
    r"DQ \parallel AB": "a relation to prove",
    r"EH \parallel FG": "a relation to prove",
    r"\det(A) > 0": "a relation to prove",
}


def box(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def golds(shared_data: Path) -> list[str]:
    """The distinct references of the real questions. Skips `answer_pairs.jsonl`, which holds pairs, not questions."""
    references: dict[str, None] = {}
    for path in sorted({*shared_data.glob("*.jsonl"), *shared_data.glob("*.jsonl.gz")}):
        if path.name != "answer_pairs.jsonl":
            with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
                references.update(dict.fromkeys(json.loads(line)["answer"] for line in lines))
    return list(references)


@pytest.mark.children
def test_case_table(pool: GradingPool) -> None:
    assert len({case[:2] for case in CASES}) == len(CASES) >= 300
    grades = pool.grade([(text, answer) for text, answer, _ in CASES], style="boxed")
    assert [case[:2] for case, graded in zip(CASES, grades, strict=True) if graded.correct is not case[2]] == []
    assert {graded.outcome for graded in grades} <= {"correct", "wrong", "no answer", "unreadable answer"}


@pytest.mark.long
def test_reference_equals_itself(pool: GradingPool, golds: list[str]) -> None:
    assert len(golds) > 1_000
    grades = pool.grade([(box(answer), answer) for answer in golds], style="boxed")
    assert [answer for answer, graded in zip(golds, grades, strict=True) if graded.outcome != "correct"] == []
    assert {answer.strip() for answer in golds if not readable(answer)} == UNREADABLE.keys()


def test_respelled_reference_is_right_without_algebra(golds: list[str]) -> None:
    def respell(answer: str) -> str:
        answer = answer.replace(r"\frac{", r"\dfrac {").replace("(", r"\left(").replace(")", r"\right)")
        return rf"\displaystyle {answer.strip()} ."

    assert [answer for answer in golds if decide_without_algebra(respell(answer), answer) != "correct"] == []


@pytest.mark.children
# Every fifth pair takes three seconds, and all pairs take fifteen.
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_is_wrong_for_another_question(pool: GradingPool, golds: list[str], step: int) -> None:
    """Compares each reference, or every fifth one, with the next one in order of length and spelling.

    The two references of the few pairs that the grader considers equal differ in notation only.
    """
    ordered = sorted(golds, key=lambda answer: (len(answer), answer))
    pairs = list(pairwise(ordered))[::step]
    grades = pool.grade([(box(first), second) for first, second in pairs], style="boxed")
    equal = {pair for pair, graded in zip(pairs, grades, strict=True) if graded.correct}
    assert all(_bare(first) == _bare(second) for first, second in equal), equal
    assert sum(graded.outcome == "timeout" for graded in grades) == 0


def _bare(answer: str) -> str:
    answer = re.sub(r"[$\\{}() ]|frac|text|circ|\^", "", normalise(answer).partition("=")[2] or normalise(answer))
    return answer.replace("degrees", "")


def test_reference_equals_itself_without_algebra(golds: list[str]) -> None:
    assert {decide_without_algebra(answer, answer) for answer in golds} == {"correct"}


@pytest.mark.children
def test_labels_of_published_solutions(pool: GradingPool, shared_data: Path) -> None:
    """The grades equal the labels of 5,276 published solutions.

    The solutions have no box. The test therefore boxes the answer that follows "A:".
    """
    pairs, labels = [], []
    with gzip.open(shared_data / "gsm8k_rollouts_4x.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            for text, label in zip(row["generations"], row["labels"], strict=True):
                _, marker, answer = text.rpartition("A:")
                pairs.append((text + box(answer.strip()) if marker else text, row["answer"]))
                labels.append(bool(label))
    grades = pool.grade(pairs, style="boxed")
    differ = Counter((label, graded.correct) for label, graded in zip(labels, grades, strict=True))
    assert len(pairs) == 5_276
    assert differ == {(True, True): 2_001, (False, False): 3_275}
    assert {graded.outcome for graded in grades} <= {"correct", "wrong", "no answer"}


RATIONALS = st.fractions(min_value=-1000, max_value=1000, max_denominator=10_000)


def spellings(value: Fraction) -> list[str]:
    sign, top, bottom = "-" * (value < 0), abs(value.numerator), value.denominator
    spelled = [
        f"{sign}{top}/{bottom}",
        rf"{sign}\frac{{{top}}}{{{bottom}}}",
        rf"\frac{{{sign}{2 * top}}}{{{2 * bottom}}}",
    ]
    whole, rest = divmod(top, bottom)
    if whole and rest:
        spelled.append(rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}")
    if 10**4 % bottom == 0:
        spelled.append(f"{float(value):.4f}")
    if bottom == 1:
        spelled.append(f"{value.numerator:,}")
    return spelled


@given(RATIONALS, st.data())
def test_number_equals_itself_in_every_spelling(value: Fraction, data: st.DataObject) -> None:
    first, second = (data.draw(st.sampled_from(spellings(value))) for _ in range(2))
    assert exact(normalise(first)) == value
    assert decide_without_algebra(first, second) == "correct"


@pytest.mark.parametrize(("opening", "closing"), ["()", "{}", (r"\frac{1}{", "}")], ids=["round", "curly", "below"])
def test_deeply_nested_numbers_are_not_read(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    assert exact(nested(20)) == 1
    assert exact(nested(40)) is None
    assert exact("+".join(["(1)"] * 40)) == 40  # a row of brackets is not deep


@pytest.mark.long
@given(RATIONALS, RATIONALS | st.none(), st.data())
@settings(max_examples=60)
@example(Fraction(1, 2), Fraction(1, 3), None)
def test_numbers_are_compared_as_by_math_verify(first: Fraction, second: Fraction | None, data: Any) -> None:
    from math_verify import parse, verify

    second = -first if second is None else second
    texts = [
        (spellings(value)[1] if data is None else data.draw(st.sampled_from(spellings(value))))
        for value in (first, second)
    ]
    theirs = verify(*(parse(f"${text}$", parsing_timeout=None) for text in reversed(texts)), timeout_seconds=None)
    assert decide_without_algebra(texts[0], texts[1]) == ("correct" if theirs else "wrong")


FRAGMENTS = [
    *"0123456789xyneAB+-*/^_=<>(){}[],.;:!%$ \\|&'",
    *(
        r"\frac",
        r"\dfrac{1}{2}",
        r"\sqrt",
        r"\pi",
        r"\{",
        r"\}",
        r"\left(",
        r"\right]",
        r"\cup",
        r"\le ",
        r"\in ",
        r"\pm ",
    ),
    *(
        r"\text{",
        r"\text{ and }",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        r"^\circ",
        r"\%",
        r"\infty",
        r"\binom{3}{2}",
    ),
    *("²", "√", "−", "π", "½", "٣", "\x00", "\ud800", "\n", "and", "or", "cm", "degrees", "1,000", "10^", "<think>"),  # noqa: RUF001
]
GARBLED = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join) | st.text(max_size=40)


def check_garbled_texts(predicted: str, answer: str) -> None:
    outcome = decide_without_algebra(predicted, answer)
    assert outcome in ("correct", "wrong", "no answer", "unreadable answer", None)
    leaves(answer)
    extract_answer(predicted + box(answer))
    if predicted and answer:
        same_number(predicted, answer)
        # If the two sides are swapped, "equal" never becomes "different". It may become undecided.
        silent = same(predicted, answer, lambda _p, _a: None), same(answer, predicted, lambda _p, _a: None)
        assert {True, False} - set(silent), (predicted, answer)


def check_garbled_answer(answer: str) -> None:
    assert decide_without_algebra(answer, answer) in ("correct", "no answer", "unreadable answer", None)
    if normalise(answer) and len(answer) < 100 and not is_not_finite(answer):
        assert decide_without_algebra(answer, answer) == "correct"


NUM_GARBLED = [300, pytest.param(2_000, marks=pytest.mark.slow)]
"""Numbers of texts: 2,000 take fifteen seconds, of which most is the time to draw them."""


@pytest.mark.long
@pytest.mark.parametrize("number", NUM_GARBLED)
def test_garbled_texts_are_decided_or_left_to_algebra(number: int) -> None:
    settings(max_examples=number)(given(GARBLED, GARBLED)(check_garbled_texts))()


@pytest.mark.long
@pytest.mark.parametrize("number", NUM_GARBLED)
def test_garbled_answer_equals_itself(number: int) -> None:
    settings(max_examples=number)(given(GARBLED)(check_garbled_answer))()


@pytest.mark.children
def test_garbled_answers_crash_no_child(pool: GradingPool) -> None:
    drawn = random.Random(0)
    texts = ["".join(drawn.choices(FRAGMENTS, k=drawn.randint(1, 12))) for _ in range(600)]
    grades = pool.grade(
        [(box(answer), reference) for answer, reference in zip(texts, reversed(texts), strict=True)], style="boxed"
    )
    assert len(grades) == 600
    assert not {"crash", "timeout"} & {graded.outcome for graded in grades}


@pytest.mark.long
def test_algebra_is_symmetric() -> None:
    for predicted, answer, right in BOXES:
        if right and decide_without_algebra(predicted, answer) is None:
            assert decide_with_algebra(answer, predicted) == "correct", (predicted, answer)


ENDLESS = [(r"\boxed{e^{e^{e^{e^{e^{79}}}}}}", r"2\pi"), (r"\boxed{\binom{10000000}{5000000}}", r"\pi")]
HUGE = [
    (r"\boxed{" + "9" * 10**6 + "}", "x"),
    (r"\boxed{" + "(" * 10**6, "x"),
    ("{" * 10**6 + r"\boxed{" * 10**5, "x"),
    (r"\boxed{" + r"\frac{1}{" * 90 + "}" * 90 + "}", "x"),
    (r"\boxed{" + "1+" * 450 + "1}", "x"),
    (r"\boxed{" + r"\{" * 300 + r"\}" * 300 + "}", "x"),
    (r"\boxed{" + "1," * 400 + "2}", "2," * 400 + "1"),
    (r"\boxed{" + r"\text{" * 150 + "}" * 150 + "}", "x"),
    (r"\boxed{" + "-" * 900 + "}", "1"),
    (r"\boxed{" + "(1," * 240 + "1" + ")" * 239 + "}", "(1," * 240 + "2" + ")" * 239),
    (r"\boxed{" + "=" * 900 + "}", "1"),
    (r"\boxed{" + " " * 900 + "1}", "1" + " " * 10**6),
    (r"\boxed{" + "a or " * 150 + "a}", "a or " * 150 + "b"),
]


@pytest.mark.children
def test_hostile_answers_end_in_time_and_delay_no_others() -> None:
    harmless = [(rf"\boxed{{\sqrt{{{4 * p}}}}}", rf"2\sqrt{{{p}}}") for p in range(101, 201)]
    bombs = [*((box(text), answer) for text, answer, _ in BOMBS), *HUGE]
    with GradingPool(2, seconds=2) as pool:
        pool.grade(harmless[:2], style="boxed")  # start the children
        for pair in bombs:
            started = time.monotonic()
            pool.grade([pair], style="boxed")
            assert time.monotonic() - started < 8, pair[0][:60]
        started = time.monotonic()
        grades = pool.grade([*harmless[:50], *bombs, *ENDLESS, *harmless[50:]], style="boxed")
        assert time.monotonic() - started < 30  # three wait 4 s each; the machine may be busy
    assert all(graded.correct for graded in grades[:50] + grades[-50:])
    assert [graded.outcome for graded in grades[-52:-50]] == ["timeout"] * 2


def test_completions_of_a_megabyte_are_graded_quickly() -> None:
    started = time.monotonic()
    for text, answer, right in TEXTS:
        assert grade(text, answer).correct is right
    assert time.monotonic() - started < 8
