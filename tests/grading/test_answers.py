"""Tests the readers of single types of answers: quantities, times of day, and choices."""

import pytest

from raml_trl.grading.choices import read_choice, read_run
from raml_trl.grading.clock import read_time, same_time
from raml_trl.grading.grader import decide_without_algebra
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact
from raml_trl.grading.quantities import Quantity, counts_only, currencies_differ, read_quantity, units_differ


def quantity(text: str) -> Quantity:
    return read_quantity(normalise(text))


@pytest.mark.parametrize(
    ("text", "value", "unit", "noun"),
    [
        (r"5 \text{ m/s}", "5", "m/s", ()),
        (r"9.8 \text{ m/s}^2", "9.8", "m/s^{2}", ()),
        ("72 km/h", "72", "km/h", ()),
        (r"60\text{ miles per hour}", "60", "mi/h", ()),
        (r"12\pi \text{ cubic inches}", r"12\pi", "in^{3}", ()),
        (r"20^\circ\text{C}", "20", "degree C", ()),
        (r"\frac{10}{3}\,\Omega", r"\frac{10}{3}", "ohm", ()),
        (r"12\text{平方厘米}", "12", "cm^{2}", ()),
        (r"\text{13 red apples}", "13", "", ("red", "apples")),
        (r"30^\circ \text{ east of north}", "30", "degree", ("east", "of", "north")),
        (r"2 \text{ million dollars}", r"(2) \cdot 10^{6}", "dollar", ()),
        *((text, normalise(text), "", ()) for text in (r"3\mathrm{x}", r"3\text{i}", r"5\text{ plus two}", "2ab")),
    ],
)
def test_quantity(text: str, value: str, unit: str, noun: tuple[str, ...]) -> None:
    assert quantity(text) == Quantity(value, unit, noun)


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        (r"12 \text{ N}", r"12 \text{ J}", True),
        (r"5 \text{ dollars}", r"5 \text{ chickens}", True),
        (r"14 \text{ boys}", r"14 \text{ girls}", True),
        (r"5 \text{ red balls}", r"5 \text{ blue balls}", True),
        (r"5 \text{ red balls}", r"5 \text{ balls}", False),
        (r"20^\circ", r"20^\circ\text{C}", False),
        (r"20^\circ\text{F}", r"20^\circ\text{C}", True),
        ("5", r"5 \text{ cm}", False),
        (r"10\text{ km}", r"10\text{ km west}", False),
    ],
)
def test_units_differ(first: str, second: str, differ: bool) -> None:
    assert units_differ(quantity(first), quantity(second)) is differ
    assert units_differ(quantity(second), quantity(first)) is differ


def test_counts_only() -> None:
    for text in (r"12\text{ different ways}", r"5\text{ people}", r"7\text{ dollars per ticket}", r"3\text{ cm}", "4"):
        assert counts_only(quantity(text)), text
    for text in (r"10\text{ km west}", r"5\text{ oder sechs}", r"5\text{ foolish}", r"5\text{ of }", r"3\text{ small}"):
        assert not counts_only(quantity(text)), text


def test_currencies() -> None:
    assert currencies_differ(r"\$15", r"15\text{ cents}")
    assert currencies_differ("€5", r"\$5")
    assert not currencies_differ(r"\$15", r"15\text{ dollars}")
    assert not currencies_differ("$5$", r"5\text{ cents}")  # the dollars enclose mathematics
    assert not currencies_differ(r"\$15", "15")


def test_times() -> None:
    def same(first: str, second: str) -> bool:
        times = read_time(first), read_time(second)
        assert times[0] is not None, first
        assert times[1] is not None, second
        return same_time(times[0], times[1])

    for second in ("3:45 p.m.", "3:45", "15:45", "3:45:00 PM"):
        assert same("3:45 PM", second), second
    for second in ("3:45 AM", "3:46 PM", "4:45 PM", "2:45"):
        assert not same("3:45 PM", second), second
    assert same("12:30 AM", "0:30")
    assert not same("12:30 AM", "12:30 PM")
    assert [text for text in ("9", "3:75", "13 PM", "x") if read_time(text)] == []


def test_choices() -> None:
    def letters(text: str) -> set[str] | None:
        choice = read_choice(text)
        return None if choice is None else set(choice.letters)

    for text in ("B", "(B)", "B.", "Option B", "Answer: B", "(B) 12"):
        assert letters(text) == {"B"}, text
    assert letters("A, C and D") == {"A", "C", "D"}
    for text in ("(A)(B)(C)", "(A) not (B)", "(A) is wrong", "A or B", "5"):
        assert letters(text) is None, text
    run = read_run("ABD")
    assert run is not None
    assert run.letters == {"A", "B", "D"}
    assert read_run("BAD") is None


def test_yes_with_an_explanation() -> None:
    assert decide_without_algebra(r"\text{Yes, it is possible}", r"\text{Yes}") == "correct"
    for text in (r"\text{Yes} + 1", r"\text{Yes and no}", r"\text{Yes, it is false}", r"\text{No, it is impossible}"):
        assert decide_without_algebra(text, r"\text{Yes}") != "correct", text


@pytest.mark.parametrize(
    ("text", "value"),
    [(r"0.1\overline{6}", "1/6"), (r"0.\overline{12}", "4/33"), (r"2.\overline{9}", "3"), ("1e-07", "1/10000000")],
)
def test_decimals(text: str, value: str) -> None:
    assert exact(normalise(text)) == exact(value)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("½", r"\frac{1}{2}"),
        ("x⁻¹²", "x^{-12}"),
        ("（1，2）", "(1,2)"),  # noqa: RUF001
        ("6\u200b4", "64"),
        ("**5**", "5"),
        (r"\textcolor{blue}{5}", "5"),
        ("1 234 567", "1234567"),
        ("5 6", "5 6"),
        (r"C_{10}^{3}", r"\binom{10}{3}"),
        (r"\langle 1, 2 \rangle", "( 1, 2 )"),
        ("21^{st}", "21"),
        ("sqrt(2)/2", r"\sqrt{2}/2"),
    ],
)
def test_spelling(text: str, spelled: str) -> None:
    assert normalise(text) == spelled
