"""Tests the readers of single types of answers, and the rules that compare types."""

from fractions import Fraction

import pytest

from raml_trl.grading import answers
from raml_trl.grading.bases import Based
from raml_trl.grading.choices import OPTION_LETTERS, read_choice, read_run
from raml_trl.grading.clock import read_time, same_time
from raml_trl.grading.grader import decide_without_algebra, grade
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact
from raml_trl.grading.qualifiers import Qualified, read_qualified
from raml_trl.grading.quantities import Quantity, counts_only, currency, read_compound, read_quantity, units_differ
from raml_trl.grading.reading import read
from raml_trl.grading.remainders import Division, ResidueClass
from raml_trl.grading.tokens import letters, rename
from raml_trl.grading.units import base_unit


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
    signs = {r"\$15": "dollar", "$15": "dollar", "€5": "euro", "15": "", "$5$": ""}  # two dollars enclose mathematics
    assert {text: currency(text) for text in signs} == signs
    verdicts = {
        **{(r"\$15", r"15\text{ cents}"): "wrong", ("€5", r"\$5"): "wrong", (r"\$0.40", r"40\text{ cents}"): "correct"},
        **{
            (r"\$15", r"15\text{ dollars}"): "correct",
            ("$5$", r"5\text{ cents}"): "correct",
            (r"\$15", "15"): "correct",
        },
    }
    assert {pair: decide_without_algebra(*pair) for pair in verdicts} == verdicts


def test_compound_quantities_and_conversion() -> None:
    assert read_compound(r"2 \text{ hours and } 30 \text{ minutes}") == Quantity("150", "min")
    assert read_compound(r"30 \text{ minutes } 2 \text{ hours}") is None
    assert read_compound(r"2 \text{ hours } 3 \text{ m}") is None
    assert base_unit("km/h") == ("m/s", Fraction(5, 18))
    assert base_unit("cm^{2}") == ("m^{2}", Fraction(1, 10_000))
    assert base_unit("degree C") == ("degree C", 1)


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
    assert [letters(f"Option {letter}") for letter in OPTION_LETTERS] == [{letter} for letter in OPTION_LETTERS]
    assert letters("Option K") is None
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


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5", answers.Number),
        (r"0.1\dot{6}", answers.Number),
        (r"1101_{\text{two}}", Based),
        (r"\text{no real solution}", answers.Words),
        (r"\text{Yes, it is}", answers.Affirmation),
        (r"\{\}", answers.EmptySet),
        (r"3\text{或}x", answers.Items),
        (r"\pm 1 \pm 2", answers.Items),
        (r"\left\{\begin{array}{l} x=7 \\ y=1 \end{array}\right.", answers.Items),
        (r"\{1, 2\}", answers.SetOf),
        (r"[1,2) \cup (3,4)", answers.Union),
        (r"\langle 1, 2, 3\rangle", answers.Tuple),
        (r"2\mathbf{i}-\mathbf{k}", answers.Tuple),
        (r"\begin{bmatrix}4&-1\end{bmatrix}^{\top}", answers.Tuple),
        ("(1,2]", answers.Interval),
        (r"\begin{pmatrix}1&2\end{pmatrix}", answers.Matrix),
        (r"1:\sqrt{3}", answers.Ratio),
        (r"\begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}", answers.Cases),
        ("x = 5", answers.Equation),
        ("f(x) = x^2", answers.Function),
        ("a < b < c", answers.Inequality),
        (r"\sqrt{2} \approx 1.41", answers.Approximation),
        (r"k\pi, k \in \mathbb{Z}", answers.Family),
        (r"\{x \in \mathbb{Z} \mid 0 < x < 3\}", answers.SetBuilder),
        (r"\{x \mid 0 < x < 3\}", answers.Inequality),
        (r"x \equiv 3 \pmod{7}", ResidueClass),
        (r"12 \text{ R } 3", Division),
        (r"x^2 + 1", answers.Expression),
    ],
)
def test_type(text: str, kind: type) -> None:
    assert type(read(text).value) is kind


@pytest.mark.parametrize(
    ("text", "qualified"),
    [
        (r"2k+1, where k is an integer", Qualified("2k+1", frozenset("k"), "Z")),
        (r"k\pi (k \in \mathbb{Z})", Qualified(r"k\pi", frozenset("k"), "Z")),
        (r"ax+b, a, b \in \mathbb{R}", Qualified("ax+b", frozenset("ab"), "R")),
        (r"cx for some constant c", Qualified("cx", frozenset("c"), "")),
        (r"n^2, n \in \mathbb{N}^{*}", Qualified("n^2", frozenset("n"), "positive Z")),
        ("x, y", None),
    ],
)
def test_qualifiers(text: str, qualified: Qualified | None) -> None:
    assert read_qualified(text) == qualified


def test_letters() -> None:
    assert letters(r"ax + \alpha \text{ cm}") == ["a", "x", r"\alpha"]
    assert rename(r"ax + x \text{ x}", {"x": "y", "a": "x"}) == r"xy + y \text{ x}"


@pytest.mark.parametrize(
    ("predicted", "answer"),
    [
        ("(D)x", "D"),
        ("(B)2", "B"),
        ("(A) + 3", "A"),
        (r"\{\emptyset\}", r"\emptyset"),
        ("f(y)=x^2", "f(x)=x^2"),
        ("x=3, y=2", "2, 3"),
        ("0, 1", "(0, 1]"),
        ("2:10", "1:05"),
        (r"x<-2 \text{ and } x>5", r"x<-2 \text{ or } x>5"),
        (r"k\pi, k \in \mathbb{R}", r"k\pi, k \in \mathbb{Z}"),
        ("0 < x < 3", r"\{x \in \mathbb{Z} \mid 0 < x < 3\}"),
        ("5 \\approx 7", "5"),
    ],
)
def test_look_alikes_are_wrong(predicted: str, answer: str) -> None:
    assert not grade(rf"\boxed{{{predicted}}}", answer).correct
