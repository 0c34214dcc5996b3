r"""Text and reference answer to a `Grade`: is the answer right, and is the text laid out as it was asked to be.

What stands in the last complete `\boxed{...}` after the thinking block counts. Most pairs are told by `equality`; the
rest takes algebra and goes to math-verify, which may not come back: `grading_pool` is where it can do no harm.
"""

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any, Literal

from raml_trl.grading.equality import endless, leaves, oversized, same
from raml_trl.grading.notation import normalise
from raml_trl.prompts import find_style

Outcome = Literal["correct", "wrong", "no answer", "unreadable answer", "unreadable reference", "timeout", "crash"]
"""How grading ended. Whatever is not "correct" is graded wrong."""

SECONDS = 8.0
"""For reading and comparing one pair of answers."""

_AGAIN_SECONDS = 0.5
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # an escaped brace is text
_DIGITS = 15
_RELATIVE = 1e-5  # decimals are often rounded to six digits
_STEP = 0.37  # between the values of one symbol and the next


@dataclass(frozen=True)
class Grade:
    """The two bits that eq. 21 of the paper rewards, and how the first came about: it is `outcome == "correct"`."""

    correct: bool
    formatted: bool
    outcome: Outcome


def grade(text: str, answer: str, *, style: str = "boxed") -> Grade:
    """Judge what a model wrote against the reference answer.

    A pair that takes algebra has `SECONDS` for it on an interpreter's main thread, by SIGALRM, which leaves a timer of
    the caller's as it was. On other threads, and inside one long instruction of the interpreter, nothing ends it, and
    nothing bounds its memory: a `grading_pool.GradingPool` does both.

    Args:
        text: the completion, without the prompt.
        answer: the reference, as it would stand inside the box.
        style: a key of `prompts.STYLES`, whose layout decides `formatted`.

    Raises:
        InputError: if `style` is unknown.
    """
    layout = formatted(text, style)
    predicted = extract_answer(text)
    outcome = tell(predicted, answer)
    if outcome is None:
        assert predicted is not None
        try:
            with _time_limit(SECONDS):
                outcome = compare(predicted, answer)
        except _Late:
            outcome = "timeout"
    return Grade(outcome == "correct", layout, outcome)


def formatted(text: str, style: str) -> bool:
    """Whether `text` as a whole has the layout of `style`.

    Raises:
        InputError: if `style` is unknown.
    """
    return find_style(style).layout.fullmatch(text.strip()) is not None


def extract_answer(text: str) -> str | None:
    """What stands in the last complete box after the thinking block, or None. Thinking that has no end says nothing."""
    return extract_box(text.rpartition("</think>")[2].partition("<think>")[0])


def extract_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` of `text` whose braces balance, or None."""
    if "\\boxed" not in text:
        return None
    opened: list[int] = []  # for every brace that is open, where its box begins, or -1 if it is none
    last = (-1, -1)
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "}":
            if opened:
                last = max(last, (opened.pop(), match.start()))
        elif token[-1] == "{" and token != r"\{":
            opened.append(match.end() if len(token) > 1 else -1)
    start, end = last
    return None if start < 0 else text[start:end].strip()


def readable(answer: str) -> bool:
    """Whether a reference answer can be graded against at all."""
    if oversized(answer) or not normalise(answer):
        return False
    return endless(answer) or all(map(_parse, leaves(answer)))


def tell(predicted: str | None, answer: str) -> Outcome | None:
    """The outcome, where it takes no algebra to tell, or none is to be tried."""
    if not predicted:
        return "no answer"
    if oversized(predicted):
        return "unreadable answer"
    if oversized(answer):
        return "unreadable reference"
    told = same(predicted, answer, lambda _predicted, _answer: None)
    if told is None and endless(predicted):
        return "unreadable answer"
    if told is None and endless(answer):
        return "wrong"  # written out as nothing else
    return None if told is None else "correct" if told else "wrong"


def compare(predicted: str, answer: str) -> Outcome:
    """The outcome of a pair that `tell` could not tell. It may take for ever, or all memory."""
    told = same(predicted, answer, _equal_as_symbols)
    if told is None:
        return "unreadable answer" if readable(answer) else "unreadable reference"
    return "correct" if told else "wrong"


def _equal_as_symbols(predicted: str, answer: str) -> bool | None:
    """Whether math-verify holds two expressions for the same; None if it cannot read one of them."""
    from math_verify import verify

    gold, target = _parse(answer), _parse(predicted)
    if not gold or not target:
        return None
    if _differ(gold[0], target[0]):
        return False
    # Intervals and inequalities are held against each other either way round.
    return verify(list(gold), list(target), allow_set_relation_comp=True, timeout_seconds=None)


@lru_cache(maxsize=256)
def _parse(expression: str) -> tuple[Any, ...]:
    """math-verify's reading of one expression; empty where it has none."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse  # takes a second to import, and most pairs never need it

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it keeps no time: others do
    # Without dollars `3\sqrt{13}` would be read as 3; not only as LaTeX, any number in a text would do.
    text = "$" + expression.replace("%", r"\%") + "$"
    # Units are off: they are told already, and it would take the h of 2h for one.
    spelling = NormalizationConfig(nits=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(normalization_config=spelling)
    return tuple(parse(text, [config], parsing_timeout=None, fallback_mode="no_fallback"))


def _differ(gold: Any, target: Any) -> bool:
    r"""Whether two expressions are plainly not the same, as they have other values at some point.

    It saves most of the algebra, and tells what is too small for math-verify, which holds 2^{-99}\pi for 0.
    """
    import sympy
    from sympy.core.relational import Relational
    from sympy.functions.elementary.trigonometric import TrigonometricFunction

    if isinstance(gold, Relational) and isinstance(target, Relational):  # those without a solution are all alike to it
        return {one.name for one in gold.free_symbols} != {one.name for one in target.free_symbols}
    # Nothing else has a value that is quick to find and sure to be one: no matrix, sum or infinity.
    numbers = (sympy.Rational, sympy.Float, sympy.NumberSymbol, sympy.core.numbers.ImaginaryUnit, sympy.Symbol)
    functions = (sympy.exp, sympy.log, sympy.Abs, TrigonometricFunction, sympy.binomial, sympy.factorial)
    scalars = (sympy.Add, sympy.Mul, sympy.Pow, *numbers, *functions)
    for one in (gold, target):
        if isinstance(one, sympy.Symbol) or not all(
            isinstance(node, scalars) for node in sympy.preorder_traversal(one)
        ):
            return False
    names = sorted({one.name for one in gold.free_symbols | target.free_symbols})
    try:
        a, b = (
            one.evalf(_DIGITS, subs={symbol: 1 + _STEP * (1 + names.index(symbol.name)) for symbol in one.free_symbols})
            for one in (gold, target)
        )
        return bool(a.is_finite and b.is_finite and abs(a - b) > _RELATIVE * abs(a))
    except (ArithmeticError, TypeError, ValueError, RecursionError):  # no value, or not at this point
        return False


class _Late(BaseException):
    """Not an Exception: math-verify would take it for a failure of its own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_Late` inside after `seconds`, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    fired = ended = False

    def late(_signal: int, _frame: FrameType | None) -> None:
        nonlocal fired
        fired = True
        if not ended:
            raise _Late

    previous = signal.signal(signal.SIGALRM, late)
    # And again, for a bare `except` of some library may catch it and go on.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    started = time.monotonic()
    try:
        try:
            yield
        finally:
            ended = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - started)), interval)
    if fired:  # it was caught, and what was found after that is nothing to go by
        raise _Late
