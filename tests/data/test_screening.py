"""Tests each reason to leave a question out, and its text pattern, also on similar texts that are to be kept."""

import pytest

from raml_trl.data.duplicates import Benchmarks
from raml_trl.data.records import Question, Task, Trajectory
from raml_trl.data.screening import (
    REASONS,
    Refusal,
    Screen,
    holds_solution,
    is_garbled,
    needs_figure,
    strip_markup,
)

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
def test_each_reason(question: str, answer: str, reason: str) -> None:
    screen = Screen(
        count_tokens=lambda text: len(text.split()),
        max_question_tokens=40,
        benchmarks=Benchmarks([("quiz", "1", BENCHMARK)], ngram_size=8),
    )
    refusal = screen.check(task(question, answer))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert (refusal.overlap is not None) == (reason == "overlaps a benchmark")
    assert reason in REASONS


def test_a_refusal_names_the_kind_of_an_unreadable_answer() -> None:
    for answer, kind in (("$$", "blank"), (r"1 + \ldots", "dots"), ("nan", "NaN or infinite"), ("3", None)):
        checked = Screen().check(task("What is it?", answer))
        assert (checked.kind if isinstance(checked, Refusal) else None) == kind


def test_duplicates_of_both_kinds() -> None:
    screen = Screen()
    assert isinstance(screen.check(task("What is $x$ ?")), Task)
    for question, reason in (("What is $x$ ?", "duplicate"), ("what is  x?", "near duplicate"), ("What is y?", None)):
        checked = screen.check(task(question))
        assert (checked.reason if isinstance(checked, Refusal) else None) == reason


def test_a_copy_of_a_question_that_was_left_out_is_kept() -> None:
    screen = Screen()
    assert isinstance(screen.check(task("What is x?", "$$")), Refusal)
    assert isinstance(screen.check(task("What is x?", "3")), Task)


def test_only_markup_is_changed() -> None:
    screen = Screen()
    plain = task(" Find $a<b$. ")
    assert screen.check(plain) == plain
    cleaned = screen.check(task("Find [it](https://example.org)"))
    assert isinstance(cleaned, Task)
    assert cleaned.question.question == "Find it"
    assert cleaned.trajectories == plain.trajectories


def test_checks_can_be_turned_off() -> None:
    screen = Screen(markup=False, figures=False, duplicates=False)
    for _ in range(2):
        assert isinstance(screen.check(task("In the figure below, [it](https://example.org) is <p>x</p>")), Task)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("In [right triangle](https://example.org/wiki/Right_triangle) $ABC$", "In right triangle $ABC$"),
        ("a [link](http://example.org/a_(b)) to it", "a link to it"),
        ("see https://example.org/x?y=1 now", "see  now"),
        ("![Image](https://example.org/a.png) find $x$", " find $x$"),
        ("$x$<sup>2</sup> and $a$<sub>10</sub>", "$x$^{2} and $a$_{10}"),
        ('<span style="font-size:75%">small</span>', " small "),
        ("<p>one<br/>two</p>", " one two "),
        ("Tom &amp; Ann &lt; 3 &#39;", "Tom & Ann < 3 '"),
        ("<b>bold</b>", " bold "),
    ],
)
def test_markup_is_removed(text: str, stripped: str) -> None:
    assert strip_markup(text) == stripped


@pytest.mark.parametrize(
    "text",
    [
        "if a<b and c>d then",
        "$a <b> c$",
        "$0<x<y$ and $p>q$",
        r"\langle x \rangle & y \\",
        "f[x](y) and [0,1](x)",
        "<think>",
        r"\begin{align} a&b \end{align}",
        "x<i and j>y",
    ],
)
def test_mathematics_is_kept(text: str) -> None:
    assert strip_markup(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "[asy]draw((0,0));[/asy]",
        "![](https://example.org/x.png)",
        "as shown in the figure below",
        "The diagram shows twenty circles",
        "In the accompanying figure, the square",
        "a circle is removed, as shown. Which",
        "the squares shown below",
        "(See figure.) Continue",
        "from the following diagram",
        r"\includegraphics{x}",
        "Problem 15.png",
    ],
)
def test_figures_are_recognised(text: str) -> None:
    assert needs_figure(text)


@pytest.mark.parametrize(
    "text",
    [
        "the image of $f$",
        "he earned it from selling pictures he took",
        "It can be shown that $x$ is",
        "as is shown that",
        "five-figure numbers",
        "inscribed in the remaining figure.",
        "the graph of $y = x$",
        "how many figures are below 10",
        "numbers below 100",
    ],
)
def test_text_that_resembles_a_figure(text: str) -> None:
    assert not needs_figure(text)


def test_solutions_are_recognised() -> None:
    assert holds_solution(r"Find $n$. <details><summary>Solution</summary>It is $\boxed{573}$.</details>")
    assert holds_solution("Find $n$.\n**Solution:** it is 3")
    assert not holds_solution("Find the solution: $x^2 = 1$. <summary>Clarifications</summary>")
    assert not holds_solution("What is the volume of the solution? The box is 3.")


@pytest.mark.parametrize(
    "text", ["The \x0cgure", "is \x08inom", "$\theta$".replace("\\t", "\t"), "$\times 2$", "a $\neq$", "bad \ud800"]
)
def test_garbled_text(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize("text", ["a\n\tb", r"$\theta \times \neq$", "one\r\ntwo", "a\n eq", "é ∑"])
def test_intact_text(text: str) -> None:
    assert not is_garbled(text)
