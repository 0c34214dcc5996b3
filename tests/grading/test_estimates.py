"""Tests that two expressions differ by their values at a point only if they differ."""

import random
from fractions import Fraction

import pytest

from raml_trl.grading.estimates import MAX_CHARACTERS, equal_at_point, estimate
from raml_trl.grading.grader import decide_without_algebra
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact


def arithmetic(drawn: random.Random, depth: int) -> str:
    """Return an expression of numbers in LaTeX, with brackets wherever they may be needed."""
    if depth == 0:
        return str(drawn.choice([drawn.randint(0, 9), drawn.randint(1, 10**12), round(drawn.random(), 9)]))
    form = drawn.choice(
        ["({}) + ({})", "({}) - ({})", r"({}) \cdot ({})", "({})({})", r"\frac{{{}}}{{{}}}", "({})/({})"]
    )
    form = drawn.choice([form, form, form, "({})^{{3}}", "-({})", r"\sqrt{{({})^{{2}}}}"])
    return form.format(*(arithmetic(drawn, depth - 1) for _ in range(form.replace("{{", "").count("{}"))))


def test_errors_are_bounded() -> None:
    """The exact value lies within the error, as the exact reader of numbers computes it."""
    drawn, compared = random.Random(0), 0
    for _ in range(600):
        text = normalise(arithmetic(drawn, drawn.randint(1, 4)))
        value, found = exact(text), estimate(text)
        if value is None or found is None:
            continue
        compared += 1
        assert found.value.imag == 0, text
        assert abs(Fraction(found.value.real) - value) <= Fraction(found.error), text
    assert compared > 300


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("n+1", "n"),
        ("n", "N"),
        ("x_{1}", "x_{2}"),
        (r"\frac{n(n+1)}{2}", r"\frac{n(n-1)}{2}"),
        (r"2\sqrt{3}", r"3\sqrt{2}"),
        ("1+2i", "1-2i"),
        (r"\sin(x)", r"\cos(x)"),
        ("n!", "n"),
        (r"\binom{10}{3}", "121"),
        ("e^{2}", r"\pi^{2}"),
        ("-x", "x"),
        (r"\cos^{2}(x)", r"\cos(x)"),
    ],
)
def test_other_values_differ(first: str, second: str) -> None:
    assert equal_at_point(first, second) is False
    assert equal_at_point(second, first) is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10^{20}+1-10^{20}", "1"),  # the floating-point values are 0 and 1
        (r"\frac{1}{10^{17}+2-10^{17}}", r"\frac{1}{2}"),
        ("(n+1)^{2}", "n^{2}+2n+1"),
        (r"\frac{n!}{(n-2)!}", "n(n-1)"),
        (r"\binom{n}{n}", "1"),
        (r"\sqrt{2}", "1.414"),
        (r"\sqrt{2}+10^{-9}", r"\sqrt{2}"),  # too close for floating-point numbers
        (r"\sin^{2}(x)+\cos^{2}(x)", "1"),
        ("i^{2}", "-1"),
        ("x^{2}+C", "x^{2}+c"),
    ],
)
def test_equal_or_close_values_need_algebra(first: str, second: str) -> None:
    assert equal_at_point(first, second) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "5 6", "1/2x", r"2\frac{1}{2}x", r"\sin 2x", r"\sin^{-1}(x)", "x = 3", "x < 3", "|x|", "50%", "(1, 2)"),
        *(
            r"\frac{1}{0}",
            r"\frac{1}{x-x}",
            r"\sqrt{-x}",
            r"(-8)^{\frac{1}{3}}",
            r"\log_{2} 3",
            r"\infty",
            "2^{10^{9}}",
        ),
        *(r"\cdot", "^", "x^", "(", "x)", r"\sin", r"\frac{1}", r"\lnot x", "1" * MAX_CHARACTERS + "1", "(" * 50 + "1"),
    ],
)
def test_uncertain_texts_have_no_value(text: str) -> None:
    assert estimate(text) is None


def test_values_decide_without_algebra() -> None:
    assert decide_without_algebra("n-1", r"\frac{n(n-1)}{2}") == "wrong"
    assert decide_without_algebra("(x+n, y)", r"\frac{n+1}{2}") == "wrong"
    assert decide_without_algebra(r"[-1, \infty)", "1120") == "wrong"
    assert decide_without_algebra("2n", "n+n") is None
