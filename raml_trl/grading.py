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
    formatted = find_style(style).layout.fullmatch(text.strip()) is not None
    predicted = extract_box(text.rpartition("</think>")[2])
    return Grade(correct=predicted is not None and _equal(predicted, answer), formatted=formatted)


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


def _equal(predicted: str, answer: str) -> bool:
    answer = answer.strip()
    if _INTEGER.fullmatch(predicted) and _INTEGER.fullmatch(answer):
        return int(predicted) == int(answer)
    if predicted == answer:
        return True
    from math_verify import verify

    gold = _parse(answer)
    if not gold:
        raise InputError(f"reference answer {answer!r} cannot be read: prepare_data leaves such questions out")
    return verify(gold, _parse(predicted), timeout_seconds=_PARSING_SECONDS)


def _parse(expression: str) -> list[object]:
    """math-verify's reading of one expression; empty where it has none."""
    from math_verify import parse  # takes a second to import, and integers never need it

    return parse(f"${expression}$", parsing_timeout=_PARSING_SECONDS, fallback_mode="no_fallback")
