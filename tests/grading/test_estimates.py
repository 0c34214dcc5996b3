"""Tests that two expressions differ by their values at a point only if they differ."""

import random
from fractions import Fraction

import pytest

from raml_trl.grading.estimates import MAX_CHARACTERS, equal_at_point, estimate, is_unknown
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
        (r"\sin 2x", r"2\sin x"),
        (r"\sin^{2}\alpha\cos\alpha", r"\sin\alpha\cos^{2}\alpha"),
        (r"\log_{2} 3", r"\log_{3} 2"),
        ("|x-9|", "x-9"),
        ("|a-|b-9||", "|a|-|b-9|"),
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
        (r"\sin 2x", r"2\sin x\cos x"),
        (r"\cos 2\alpha", r"1-2\sin^{2}\alpha"),
        (r"\sin\frac{A+B}{2}\sin\frac{A-B}{2}", r"\frac{\cos B-\cos A}{2}"),
        (r"\sec^{2} x-\tan^{2} x", r"\csc^{2} x-\cot^{2} x"),
        (r"\log_{2} 8", "3"),
        (r"\log_{a} b", r"\frac{\ln b}{\ln a}"),
        ("|x-9|", "9-x"),
        ("||a|-|b|-9|", "9+b-a"),
        ("|a||b-9|", "a(9-b)"),
        ("2|x|+1", "2x+1"),
        ("|3+4i|", "5"),
        ("x^{2}+C", "x^{2}+c"),
    ],
)
def test_equal_or_close_values_need_algebra(first: str, second: str) -> None:
    assert equal_at_point(first, second) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "5 6", "1/2x", r"2\frac{1}{2}x", r"\sin^{-1}(x)", "x = 3", "x < 3", "50%", "(1, 2)"),
        *(r"\sin x^{2}", r"\sin x/2", r"\sin x(x+1)", r"\sin 2\frac{x}{3}", r"\log x", "a|b", "|(a|b)", "||"),
        *(
            r"\frac{1}{0}",
            r"\frac{1}{x-x}",
            r"\sqrt{-x}",
            r"(-8)^{\frac{1}{3}}",
            r"\infty",
            "2^{10^{9}}",
        ),
        *(r"\cdot", "^", "x^", "(", "x)", r"\sin", r"\frac{1}", r"\lnot x", "1" * MAX_CHARACTERS + "1", "(" * 50 + "1"),
    ],
)
def test_uncertain_texts_have_no_value(text: str) -> None:
    assert estimate(text) is None


@pytest.mark.parametrize("text", ["f(x, y)", r"\triangle ABC", r"\min(a, b)", r"n-\gcd(n, k)", "x < 3", "so 3 apples"])
def test_unknown_names(text: str) -> None:
    assert is_unknown(text)
    assert decide_without_algebra(text, "7") == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        *("x", "2n+1", r"\min(3, 5)", "e^{i}", r"\sum_{k=1}^{3} k", r"\int_{0}^{1} x \, dx", r"\log 100"),
        *(r"\lim_{x \to 0} \frac{\sin x}{x}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
    ],
)
def test_texts_that_may_be_numbers(text: str) -> None:
    assert not is_unknown(text)


def test_algebra_finds_out_whether_a_reference_can_be_read() -> None:
    assert decide_without_algebra("7", r"\triangle ABC") is None


def test_values_decide_without_algebra() -> None:
    assert decide_without_algebra("n-1", r"\frac{n(n-1)}{2}") == "wrong"
    assert decide_without_algebra("(x+n, y)", r"\frac{n+1}{2}") == "wrong"
    assert decide_without_algebra(r"[-1, \infty)", "1120") == "wrong"
    assert decide_without_algebra("2n", "n+n") is None
