"""Reads answers to multiple-choice questions: letters of options, such as `(B)`, `Option B` or `A and C`."""

import re
from dataclasses import dataclass

from raml_trl.grading.quantities import CHANGING_WORDS

OPTION_LETTERS = "ABCDEFGHIJ"
"""The letters of the options that the patterns below read."""

_LABEL = r"(?:(?i:the )?(?i:correct |final )?(?i:options?|answers?|choices?)(?i: is| are)?:? )?"
# The content of an option stands behind a space or a full stop. It starts with no operator, and is no single letter:
# `(D)x` and `(D) x` are products.
_CONTENT = r"((?![A-Za-z]$)(?:[A-Za-z0-9.(\[|]|-[0-9]|\\(?:d?frac|sqrt|pi|text|\{)).*)"
_ONE = re.compile(
    rf"{_LABEL}(?:\(([A-J])\)(?:(?:[.:]\s*|\s+){_CONTENT}|[.:])?|([A-J])(?:[.)]\s+{_CONTENT}|[.):])?)", re.DOTALL
)
_SEVERAL = re.compile(rf"{_LABEL}(?:\(?[A-J]\)?(?:\s*,\s*(?:and )?|\s*&\s*|\s+and\s+))+\(?[A-J]\)?")
_RUN = re.compile("[A-J]{2,10}")
# Further options, as in `A. 5; B. 6`
_OPTION = re.compile(r"\([A-J]\)|(?:^|[\s,;|])[A-J][.):]|[,;|]\s*[A-J]$|(?i:\b(?:options?|choices?|also)) [A-J]\b")


@dataclass(frozen=True)
class Choice:
    """The letters of the chosen options.

    If there is only one letter, `content` is the text after it, such as `12` in `(B) 12`. Otherwise it is "".
    """

    letters: frozenset[str]
    content: str = ""


def read_choice(text: str) -> Choice | None:
    """Return the choice that `text` spells, or None. `(A) or (B)` is no choice, because it leaves the option open."""
    match = _ONE.fullmatch(text)
    if match:
        content = match[2] or match[4] or ""
        if (
            _OPTION.search(content)
            or r"\cup" in content
            or any(word.lower() in CHANGING_WORDS for word in re.findall("[A-Za-z']+", content))
        ):
            return None
        return Choice(frozenset(match[1] or match[3]), content)
    if _SEVERAL.fullmatch(text):
        return Choice(frozenset(re.findall(r"\b[A-J]\b", text)))
    return None


def read_run(text: str) -> Choice | None:
    """Return the choice that letters such as `ABD` stand for; None if they are not in alphabetical order."""
    if _RUN.fullmatch(text) and list(text) == sorted(set(text)):
        return Choice(frozenset(text))
    return None
