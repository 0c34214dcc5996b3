"""Every reason to leave a question out, one at a time, and what passes."""

import pytest

from raml_trl.data.duplicates import Benchmarks
from raml_trl.data.records import Question, Task, Trajectory
from raml_trl.data.screening import REASONS, Refusal, Screen

BENCHMARK = "How many positive integers below one thousand are divisible by seven but by no other prime?"


def task(question: str, answer: str = "3") -> Task:
    return Task(Question("1", question, answer, "test"), (Trajectory("t", True, "m"),))


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("  ", "3", "no question"),
        ("<p></p>", "3", "no question"),
        ("What?", " ", "no answer"),
        ("De\x0cne it", "3", "garbled"),
        ("Define it", "\x0crac12", "garbled"),
        (r"Find it. Solution: \boxed{3}", "3", "solution in the question"),
        ("In the figure below, find it", "3", "needs a figure"),
        ("Find it, " * 50, "3", "too long"),
        (f"Again: {BENCHMARK}", "3", "overlaps a benchmark"),
        ("What is it?", "$$", "answer the grader cannot read"),
    ],
)
def test_reasons(question: str, answer: str, reason: str) -> None:
    screen = Screen(
        count_tokens=lambda text: len(text.split()),
        max_question_tokens=40,
        benchmarks=Benchmarks([("quiz", "1", BENCHMARK)], ngram_size=8),
    )
    refused = screen.check(task(question, answer))
    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert (refused.overlap is not None) == (reason == "overlaps a benchmark")
    assert reason in REASONS


def test_duplicates_of_both_kinds() -> None:
    screen = Screen()
    assert isinstance(screen.check(task("What is $x$ ?")), Task)
    for question, reason in (("What is $x$ ?", "duplicate"), ("what is  x?", "near duplicate"), ("What is y?", None)):
        checked = screen.check(task(question))
        assert (checked.reason if isinstance(checked, Refusal) else None) == reason


def test_a_copy_may_stand_in_for_one_that_was_left_out() -> None:
    screen = Screen()
    assert isinstance(screen.check(task("What is x?", "$$")), Refusal)
    assert isinstance(screen.check(task("What is x?", "3")), Task)


def test_what_passes_is_as_it_was_but_for_its_markup() -> None:
    screen = Screen()
    plain = task(" Find $a<b$. ")
    assert screen.check(plain) == plain
    cleaned = screen.check(task("Find [it](https://example.org)"))
    assert isinstance(cleaned, Task)
    assert cleaned.question.question == "Find it"
    assert cleaned.trajectories == plain.trajectories


def test_every_check_can_be_turned_off() -> None:
    screen = Screen(markup=False, figures=False, duplicates=False)
    for _ in range(2):
        assert isinstance(screen.check(task("In the figure below, [it](https://example.org) is <p>x</p>")), Task)
