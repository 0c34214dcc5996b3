r"""Text and reference answer to a `Grade`: is the answer right, and is the text laid out as it was asked to be.

What stands in the last complete `\boxed{...}` after the thinking block counts. Digits are compared as integers; all
else goes to math-verify, with the reference wrapped in `$...$` (bare, `3\sqrt{13}` would be read as 3).
"""

import re
from dataclasses import dataclass

from raml_trl.errors import InputError
from raml_trl.prompts import find_style

MAX_ANSWER_CHARACTERS = 1_000
"""A longer answer is wrong: no reference comes near it, and symbolic parsing would not come back from it."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,100}", re.ASCII)
_BOX = "\\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is text
_PARSING_SECONDS = 5
_MAX_BOXES = 100  # unbalanced ones to look past


@dataclass(frozen=True)
class Grade:
    """The two bits that eq. 21 of the paper rewards."""

    correct: bool
    formatted: bool


def grade(text: str, answer: str, *, style: str = "boxed") -> Grade:
    """Judge what a model wrote against the reference answer.

    Args:
        text: the completion, without the prompt.
        answer: the reference, as it would stand inside the box.
        style: a key of `prompts.STYLES`, whose layout decides `formatted`.

    Raises:
        InputError: if `style` is unknown, or if math-verify cannot read `answer`.
    """
    predicted = extract_answer(text)
    return Grade(correct=predicted is not None and equal(predicted, answer), formatted=formatted(text, style))


def formatted(text: str, style: str) -> bool:
    """Whether `text` as a whole has the layout of `style`.

    Raises:
        InputError: if `style` is unknown.
    """
    return find_style(style).layout.fullmatch(text.strip()) is not None


def extract_answer(text: str) -> str | None:
    """What stands in the last complete box after the thinking block, or None."""
    return extract_box(text.rpartition("</think>")[2])


def extract_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` of `text` whose braces balance, or None."""
    start = text.rfind(_BOX)
    for _ in range(_MAX_BOXES):
        if start < 0:
            break
        content = text[start + len(_BOX) : start + len(_BOX) + MAX_ANSWER_CHARACTERS]
        depth = 1
        for match in _BRACE.finditer(content):
            depth += {"{": 1, "}": -1}.get(match.group(), 0)
            if depth == 0:
                return content[: match.start()].strip()
        start = text.rfind(_BOX, 0, start)
    return None


def readable(answer: str) -> bool:
    """Whether a reference answer can be graded against at all."""
    answer = answer.strip()
    return _INTEGER.fullmatch(answer) is not None or bool(_parse(answer))


def equal(predicted: str, answer: str) -> bool:
    """Whether two answers are the same.

    Raises:
        InputError: if it takes math-verify to tell, and it cannot read `answer`.
    """
    same = equal_as_text(predicted, answer)
    return equal_as_symbols(predicted, answer) if same is None else same


def equal_as_text(predicted: str, answer: str) -> bool | None:
    """Whether two answers are the same, as far as digits and letters tell; None where it takes symbols."""
    answer = answer.strip()
    if _INTEGER.fullmatch(predicted) and _INTEGER.fullmatch(answer):
        return int(predicted) == int(answer)
    return True if predicted == answer else None


def equal_as_symbols(predicted: str, answer: str, *, seconds: int | None = _PARSING_SECONDS) -> bool:
    """Whether math-verify holds two answers for the same.

    Args:
        seconds: for reading either one and for comparing them; None leaves it to the caller to end what takes too long.
            Only an interpreter's main thread can keep to a limit, by SIGALRM, and not inside one long instruction.

    Raises:
        InputError: if math-verify cannot read `answer`.
    """
    from math_verify import verify

    gold = _parse(answer.strip(), seconds)
    if not gold:
        raise InputError(f"reference answer {answer!r} cannot be read: prepare_data leaves such questions out")
    return verify(gold, _parse(predicted, seconds), timeout_seconds=seconds)


def _parse(expression: str, seconds: int | None = _PARSING_SECONDS) -> list[object]:
    """math-verify's reading of one expression; empty where it has none."""
    from math_verify import parse  # takes a second to import, and integers never need it

    return parse(f"${expression}$", parsing_timeout=seconds, fallback_mode="no_fallback")
