"""`first_statement` finds where a text first contains an answer, but not where the answer is part of something else."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.analysis.text import first_statement


@pytest.mark.parametrize(
    ("text", "answer", "stated"),
    [
        ("so 17 and then 7.", "7", "so 17 and then 7"),
        ("17 27 0.7 7/2 1,007", "7", "17 27 0.7 7"),  # the 7 of 7/2 may be the answer
        ("171", "7", None),
        ("the point (3,4)", "4", "the point (3,4"),
        ("values 3,4,5 hold", "5", "values 3,4,5"),
        ("{2,7}", "7", "{2,7"),
        ("12,345", "12", None),
        ("12,3456", "12", "12"),
        ("1,234.5", "1234.5", "1,234.5"),
        ("x=0.50 done", r"\frac{1}{2}", "x=0.50"),
        (r"so \frac{2}{4}", "0.5", r"so \frac{2}{4}"),
        ("3, 4 and 5", "3", "3"),
        ("1,234 people", "1234", "1,234"),
        ("we get -5", "-5", "we get -5"),
        ("we get 5", "-5", None),
        ("8-5=3", "-5", "8-5"),
        ("8-5=3", "5", "8-5"),
        ("it is B.", "B", "it is B"),
        ("BAD", "B", None),
        (r"thus 3 \sqrt{13} holds", r"3\sqrt{13}", r"thus 3 \sqrt{13}"),
        (r"thus 3\sqrt{131}", r"3\sqrt{13}", None),
        (r"\dfrac{x}{2} is it", r"\frac{x}{2}", None),  # spelled differently: only numbers are compared by value
        (r"so \frac{x}{2}", r"\dfrac{x}{2}", r"so \frac{x}{2}"),
        ("<think>b1+6=7;a9+7=6;</think>\\boxed{67}", "67", "<think>b1+6=7;a9+7=6;</think>\\boxed{67"),
        ("05 is five", "5", "05"),
        ("", "5", None),
        ("anything", " ", None),
    ],
)  # fmt: skip
def test_first_statement(text: str, answer: str, stated: str | None) -> None:
    place = first_statement(text, answer)
    assert (None if place is None else text[:place]) == stated


@given(st.lists(st.integers(0, 99), min_size=1, max_size=12), st.integers(0, 99))
def test_a_number_among_other_numbers(numbers: list[int], wanted: int) -> None:
    text = " ".join(f"{number}." if number % 2 else f"${number}$" for number in numbers)
    place = first_statement(text, str(wanted))
    if wanted not in numbers:
        assert place is None
    else:
        first = numbers.index(wanted)
        assert place is not None
        assert len([word for word in text[:place].split() if word]) == first + 1


@given(st.fractions(max_denominator=99, min_value=0, max_value=50))
def test_a_fraction_counts_in_any_form(value: Fraction) -> None:
    text = rf"first \frac{{{3 * value.numerator}}}{{{3 * value.denominator}}} then"
    assert first_statement(text, f"{value.numerator}/{value.denominator}") == len(text) - len(" then")
