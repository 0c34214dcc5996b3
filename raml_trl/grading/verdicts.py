"""Verdicts on whether two answers are equal: True, False, or None if only algebra can decide."""

from collections.abc import Callable, Iterable
from typing import Protocol

from raml_trl.grading.answers import Answer

Verdict = bool | None


class Comparison(Protocol):
    """Methods that compare two answers or their parts. Each returns True, False, or None if it cannot decide."""

    @property
    def silent(self) -> bool:
        """Whether this comparison compares expressions by spelling only, and leaves different spellings undecided."""
        ...

    @property
    def swapped(self) -> bool:
        """Whether the first argument of the methods is the reference, and the second one the predicted answer."""
        ...

    def same(self, first: Answer, second: Answer) -> Verdict:
        """Return whether two answers mean the same."""
        ...

    def spelled_alike(self, first: Answer, second: Answer) -> Verdict:
        """Return whether two answers mean the same; None if this depends on expressions spelled differently."""
        ...

    def expressions(self, first: str, second: str) -> Verdict:
        """Return whether two expressions are equal."""
        ...


Compare = Callable[[Answer, Answer, Comparison], Verdict]
"""Function that compares two answers of certain types."""


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return False if any verdict is False, otherwise None if any verdict is None, otherwise True."""
    known = True
    for verdict in verdicts:
        if verdict is False:
            return False
        known &= verdict is not None
    return True if known else None


def any_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return True if any verdict is True, otherwise None if any verdict is None, otherwise False."""
    verdict = all_of(None if verdict is None else not verdict for verdict in verdicts)
    return None if verdict is None else not verdict


def never(_first: Answer, _second: Answer, _comparison: Comparison) -> Verdict:
    """Return False. This is the rule for two types whose answers are never equal, such as a set and a number."""
    return False
