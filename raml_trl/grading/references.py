"""Finds references that the grader cannot read, and says why it cannot."""

import re
from typing import Literal, get_args

from raml_trl.grading.grader import SECONDS, limit_time, readable
from raml_trl.grading.notation import normalise, plain
from raml_trl.grading.numbers import is_not_finite, is_too_long

UnreadableKind = Literal[
    "blank", "NaN or infinite", "too long", "unbalanced", "dots", "relation", "words", "too slow", "other"
]
"""The kinds of references that the grader cannot read."""

KINDS: tuple[UnreadableKind, ...] = get_args(UnreadableKind)

_DOTS = re.compile(r"\\[lcdv]?dots(?![A-Za-z])|\.\.\.|…")
_RELATION = re.compile(
    r"\\(?:parallel|perp|sim|simeq|cong|equiv|mid|nmid|ne|not|in|notin|subset|subseteq|implies|iff|to|rightarrow"
    r"|Rightarrow|triangle|angle|forall|exists|land|lor)(?![A-Za-z])|[=<>]|\\[lg]e(?![A-Za-z])"
)
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}[ ,]+[A-Za-z]{2,}|[\u0400-\u04ff\u4e00-\u9fff]{2,}")


def unreadable_kind(answer: str) -> UnreadableKind | None:
    """Return why no completion can be graded against the reference `answer`, or None if completions can be graded.

    The reason is one of `KINDS`. It is "too slow" if reading takes longer than `grader.SECONDS`; that limit applies
    on the main thread only.
    """
    if is_too_long(answer):
        return "too long"
    can_read = limit_time(lambda: readable(answer), SECONDS, late=None)
    if can_read is None:
        return "too slow"
    if can_read:
        return None
    spelled = normalise(answer)
    if not spelled:
        return "blank"
    if is_not_finite(answer):
        return "NaN or infinite"
    if not _balances(answer):
        return "unbalanced"
    if _DOTS.search(spelled):
        return "dots"
    if _WORDS.search(plain(spelled)):
        return "words"
    return "relation" if _RELATION.search(spelled) else "other"


def _balances(answer: str) -> bool:
    r"""Return whether the braces of `answer` balance, apart from `\{` and `\}`."""
    depth = 0
    for token in re.findall(r"\\.|[{}]", answer, re.DOTALL):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0
