r"""Grades a completion against a reference answer: is the answer correct, and does the text have the required layout?

The predicted answer is the content of the last complete `\boxed{...}` after the thinking block. The module `equality`
decides most pairs of predicted answer and reference. The other pairs need computer algebra. Algebra may never finish,
so the module `pool` runs it in child processes.
"""

import signal
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Literal, TypeVar

from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.equality import leaves, same
from raml_trl.grading.estimates import equal_at_point
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import has_huge_number, is_not_finite, is_too_long
from raml_trl.grading.rule import MAX_STEPS, TooManyStepsError
from raml_trl.prompts import find_style

Outcome = Literal["correct", "wrong", "no answer", "unreadable answer", "unreadable reference", "timeout", "crash"]
"""The result of grading. Every outcome except "correct" counts as wrong."""

SECONDS = 8.0
"""Time limit, in seconds, for parsing and comparing one pair of answers."""

_AGAIN_SECONDS = 0.5
_WEAK_REFERENCES = (weakref.__file__, weakref.WeakSet.__init__.__code__.co_filename)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Grade:
    """Whether a completion is correct, whether it is formatted (has the required layout), and the outcome of grading.

    Eq. 21 of the paper computes the reward from `correct` and `formatted`. `correct` is `outcome == "correct"`.
    """

    correct: bool
    formatted: bool
    outcome: Outcome


def grade(text: str, answer: str, *, style: str = "boxed") -> Grade:
    """Grade one completion against its reference answer.

    If the answers can be compared by algebra only and that takes longer than `SECONDS` (8 s), the outcome is "timeout".
    The time limit uses SIGALRM. It therefore applies on the main thread only and cannot interrupt a single long
    instruction of the interpreter. A SIGALRM timer that the caller has set keeps running. Memory is not limited. Use
    `GradingPool` to limit both time and memory reliably.

    Args:
        text: the completion, without the prompt.
        answer: the reference, as it would be written inside the box.
        style: a key of `prompts.STYLES`; the completion is `formatted` if it has the layout of this style.

    Raises:
        InputError: if `style` is unknown.
    """
    layout = formatted(text, style)
    predicted = extract_answer(text)
    outcome = decide_without_algebra(predicted, answer) or _decide_in_time(predicted, answer)
    return Grade(outcome == "correct", layout, outcome)


def formatted(text: str, style: str) -> bool:
    """Return whether `text` as a whole has the layout of `style`, a key of `prompts.STYLES`.

    Raises:
        InputError: if `style` is unknown.
    """
    return find_style(style).layout.fullmatch(text.strip()) is not None


def readable(answer: str) -> bool:
    """Return whether completions can be graded against the reference `answer`."""
    if is_too_long(answer) or is_not_finite(answer) or not normalise(answer):
        return False
    return has_huge_number(answer) or all(map(_parses, leaves(answer)))


def decide_without_algebra(predicted: str | None, answer: str) -> Outcome | None:
    """Return the outcome of comparing a predicted answer with its reference, or None if only algebra can decide it.

    `predicted` is None if the completion has no box.
    """
    if not predicted:
        return "no answer"
    if is_too_long(predicted) or is_not_finite(predicted):
        return "unreadable answer"
    if is_too_long(answer) or is_not_finite(answer):
        return "unreadable reference"
    try:
        verdict = same(predicted, answer, equal_at_point, max_steps=MAX_STEPS)
    except TooManyStepsError:
        return None
    except (ArithmeticError, RecursionError, ValueError):  # no text that a model writes may end a run
        return "unreadable answer"
    if verdict is None and has_huge_number(predicted):
        return "unreadable answer"
    if verdict is None and has_huge_number(answer):
        return "wrong"  # no other spelling of such a number is possible
    return None if verdict is None else "correct" if verdict else "wrong"


def decide_with_algebra(predicted: str, answer: str) -> Outcome:
    """Return the outcome of comparing a predicted answer with its reference, with algebra where it is needed.

    Neither time nor memory is limited.
    """
    from raml_trl.grading.symbolic import equal_expressions

    verdict = same(predicted, answer, equal_expressions)
    if verdict is None:
        return "unreadable answer" if readable(answer) else "unreadable reference"
    return "correct" if verdict else "wrong"


@cache
def load_algebra() -> None:
    """Import math-verify and run one comparison, because the first comparison imports further modules.

    This takes about a second, once per process. Call this function before the time limit of a comparison starts.
    """
    from raml_trl.grading.symbolic import equal_expressions

    equal_expressions("x + 1", "2x")


def _parses(expression: str) -> bool:
    from raml_trl.grading.symbolic import parse_expression

    return bool(parse_expression(expression))


def _decide_in_time(predicted: str | None, answer: str) -> Outcome:
    assert predicted is not None
    load_algebra()
    return limit_time(lambda: decide_with_algebra(predicted, answer), SECONDS, late="timeout")


class _LateError(BaseException):
    """Raised at the time limit. Not an `Exception`, because math-verify would catch that and report "not equal"."""


def limit_time(decide: Callable[[], Result], seconds: float, *, late: Result) -> Result:
    """Return `decide()`, or `late` if it takes more than `seconds`. Threads other than the main one have no limit."""
    if threading.current_thread() is not threading.main_thread():
        return decide()

    expired = finished = False

    def expire(_signal: int, frame: FrameType | None) -> None:
        nonlocal expired
        expired = True
        if not finished and _may_raise(frame):
            raise _LateError

    result = late
    previous = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    # The alarm repeats, because a library may swallow the exception or `_may_raise` may postpone it.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        try:
            result = decide()
        finally:
            finished = True
    except _LateError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - started)), interval)
    return late if expired else result  # a result reached after a swallowed exception is not reliable


def _may_raise(frame: FrameType | None) -> bool:
    """Return whether an exception raised in `frame` reaches `limit_time` and does no damage on the way.

    Python ignores an exception in a finalizer or in the callback of a weak reference (with a warning), and an exception
    in an import leaves broken modules behind. All of these end soon, and the alarm repeats, so a later alarm can raise.
    """
    while frame is not None and frame.f_code is not limit_time.__code__:
        name, path = frame.f_code.co_name, frame.f_code.co_filename
        if name == "__del__" or path in _WEAK_REFERENCES or path.startswith("<frozen importlib"):
            return False
        frame = frame.f_back
    return True
