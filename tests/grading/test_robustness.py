"""Tests that hostile texts neither hang the grader nor take much time or memory."""

import time
from collections.abc import Callable

import pytest

from benchmarks.grading.robustness import Report, inputs
from raml_trl.grading import grader
from raml_trl.grading.bases import read_based
from raml_trl.grading.boxes import box_end, extract_answer
from raml_trl.grading.equality import leaves, same
from raml_trl.grading.grader import decide_with_algebra, decide_without_algebra, formatted, readable
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import MAX_CHARACTERS, exact, has_huge_number, is_too_long
from raml_trl.grading.pool import GradingPool
from raml_trl.grading.rule import MAX_STEPS, TooManyStepsError, undecided
from raml_trl.prompts import STYLES

LONGER = 16
MOST_GROWTH = 64  # of the time, if a text gets 16 times as long; quadratic time would grow 256-fold


def growth(run: Callable[[str], object], make: Callable[[int], str], size: int) -> float:
    """Return the ratio of the CPU times of `run` for `make(LONGER * size)` and `make(size)`, each the least of five."""

    def seconds(text: str) -> float:
        started = time.process_time()
        run(text)
        return time.process_time() - started

    shorter, longer = make(size), make(LONGER * size)
    return min(seconds(longer) for _ in range(5)) / min(seconds(shorter) for _ in range(5))


COMPLETIONS: dict[str, Callable[[int], str]] = {
    "open boxes": lambda n: "\\boxed{" * n,
    "nested boxes": lambda n: "\\boxed{" * n + "}" * n,
    "nested boxes and spaces": lambda n: "\\boxed{" * n + " " * n + "}" * n,
    "boxes": lambda n: "\\boxed{1}" * n,
    "closing braces": lambda n: "\\boxed{" + "1}" * n,
    "escaped braces": lambda n: "\\boxed{" + r"\}" * n,
    "boxes and spaces": lambda n: "\\boxed " * n,
    "a conclusion without end": lambda n: "<think></think><conclusion>\\boxed{" + "}" * n + "<conclusion>" * n,
    "thoughts": lambda n: "<think>" * n,
    "ended thoughts": lambda n: "</think>" * n,
    "conclusions": lambda n: "<think></think>" + "<conclusion>" * n + "\\boxed{1}</conclusion> " + "</conclusion>" * n,
    "spaces": lambda n: "<think></think>" + " " * n + "x",
    "lines": lambda n: "\\boxed{\n" * n + "}",
}


@pytest.mark.parametrize("shape", COMPLETIONS)
def test_time_is_linear_in_the_completion(shape: str) -> None:
    def run(text: str) -> None:
        extract_answer(text)
        box_end("The answer is \\boxed{", text)
        for style in STYLES:
            formatted(text, style)

    # The limit is four times the linear growth and a quarter of the quadratic one, so a busy machine does not decide.
    assert growth(run, COMPLETIONS[shape], 2_000) < MOST_GROWTH


def nested(inner: str, depth: int) -> str:
    for level in range(depth):
        inner = rf"\{{x+{level},{inner}\}}"
    return inner


def spread(number: int) -> str:
    """Return a list of sets of sets, each with `number` parts."""
    return ",".join(rf"\{{{','.join(rf'({a}x,{b}y)' for b in range(number))}\}}" for a in range(number))


HOSTILE = {
    "nested sets": (nested("y", 13), nested("z", 13)),
    "large powers": tuple(",".join(f"{base}^{{9{last}}}" for base in range(20, 90)) for last in (999, 998)),
    "large roots": tuple(rf"\sqrt{{{3 + 2 * k}^{{20000}}}}," * 30 for k in range(2)),
    "large binomials": tuple(",".join(rf"\binom{{9999}}{{{4000 + k}}}" for k in range(s, s + 32)) for s in (0, 9)),
    "sum of fractions": ("+".join(rf"\frac{{1}}{{{7919 + k}^{{7000}}}}" for k in range(40)), "1"),
    "degrees": ("°" * 1_000, "°" * 999),
    "halves": ("½" * 1_000, "½" * 999),
    "brackets that close too often": ("\\sin 30^\\circ 1:\\}" * 50, "x"),
    "factorials": ("+".join(["2000!"] * 150), "2000!" * 150),
    "equations": ("=".join(f"x+{k}" for k in range(140)), "=".join(f"y+{k}" for k in range(140))),
    "signs": (",".join(rf"1\pm {k}" for k in range(90)), ",".join(rf"1\pm {k}" for k in range(90, 0, -1))),
    "sets of pairs": (spread(7), spread(7).replace("y", "z")),
    "units": ("1 " + "kg/" * 300, "1 " + "m/" * 400),
}  # fmt: skip


@pytest.mark.parametrize("shape", HOSTILE)
def test_the_calling_process_decides_hostile_answers_soon(shape: str) -> None:
    for pair in (HOSTILE[shape], HOSTILE[shape][::-1]):
        assert all(map(len, pair))
        normalise.cache_clear()
        exact.cache_clear()
        started = time.process_time()
        decide_without_algebra(*pair)
        for answer in pair:
            if not is_too_long(answer):
                leaves(answer)
                has_huge_number(answer)
        assert time.process_time() - started < 2


def test_steps_are_limited() -> None:
    """A comparison that takes too many steps is left to a child process, which has a deadline."""
    first, second = spread(5), spread(5).replace("y", "z")
    assert not is_too_long(first)
    assert same(first, second, undecided) is None
    with pytest.raises(TooManyStepsError):
        same(first, second, undecided, max_steps=20)
    assert same(first, first, undecided, max_steps=MAX_STEPS)
    assert decide_without_algebra(first.replace("y", r"\log y"), first.replace("y", r"\log z")) is None


def test_numbers_that_python_does_not_convert_are_not_read() -> None:
    assert read_based("1101_{①}") is None
    assert read_based("12 base ①") is None
    integers = r"\{x \in \mathbb{Z} \mid 10^{5000} < x < 10^{5000}+3\}"
    assert same(integers, r"\{1,2\}", undecided) is False


@pytest.mark.parametrize("fault", [ValueError, ZeroDivisionError, OverflowError, RecursionError])
def test_an_answer_that_raises_is_unreadable(monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise fault

    monkeypatch.setattr(grader, "same", fail)
    assert decide_without_algebra("1", "2") == "unreadable answer"


def test_spelling_that_grows_is_too_long() -> None:
    assert not is_too_long("½" * 100)
    assert is_too_long("½" * MAX_CHARACTERS)
    assert decide_without_algebra("½" * MAX_CHARACTERS, "1") == "unreadable answer"
    assert not readable("½" * MAX_CHARACTERS)


@pytest.mark.children
@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_inputs_cause_no_crash_and_no_hang(number: int) -> None:
    report = Report()
    with GradingPool(1) as pool:
        report.add(pool, list(inputs(number, seed=1)))
    assert report.outcomes.total() == number
    assert report.by_algebra > number / 20
    assert not report.fails, (report.crashes, report.slowest[0])


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (r"x^y = \{x\}", "wrong"),  # a set has no difference from a number
        (r"x^y = {{x ", "wrong"),
        (r"(\begin{pmatrix} 2 \\ i \end{pmatrix})^{\infty}", "unreadable"),  # only square matrices have powers
        (r"(\begin{pmatrix} 2 \\ i \end{pmatrix})^{2}", "unreadable"),
    ],
)
def test_what_sympy_cannot_compute_is_no_crash(text: str, outcome: str) -> None:
    for reference in ("x^y = y^x", "821"):
        assert decide_with_algebra(predicted=text, answer=reference).startswith((outcome, "wrong"))
        assert decide_with_algebra(predicted=reference, answer=text).startswith((outcome, "wrong"))


@pytest.mark.parametrize(
    "unit", ["^", "_", "x^", "^(", "{", r"\frac", r"\overline", r"\sqrt", r"\sqrt[", r"\exp", r"\textbf{", r"\dot"]
)
def test_deep_nesting_is_no_crash(unit: str) -> None:
    for text in (unit * 900, unit * 300 + "1", "2 + " + unit * 100 + "x"):
        assert decide_without_algebra(text, "1") != "correct"
        readable(text)
