"""Compares leaves, and limits the number of comparisons.

A set may match another in any order, so sets nested in sets take a number of comparisons that grows with a power of the
length of the text.
"""

from collections.abc import Callable
from math import inf

Leaf = Callable[[str, str], bool | None]
"""Function that returns whether a leaf of the predicted answer equals a leaf of the reference; None if undecided."""

MAX_STEPS = 4_000
"""Number of comparisons of parts that decides any answer that a person writes. Without algebra, they take a second."""


class TooManyStepsError(Exception):
    """A comparison takes more steps than allowed."""


class Rule:
    """Compares leaves by the function `leaf`, and counts the comparisons of all parts of an answer."""

    def __init__(self, leaf: Leaf, max_steps: float = inf) -> None:
        self.leaf = leaf
        self._left = [max_steps]

    def __call__(self, predicted: str, answer: str) -> bool | None:
        return self.leaf(predicted, answer)

    def count_step(self) -> None:
        """Count one comparison of two parts.

        Raises:
            TooManyStepsError: if `max_steps` comparisons were counted before.
        """
        self._left[0] -= 1
        if self._left[0] < 0:
            raise TooManyStepsError

    def without_algebra(self) -> "Rule":
        """Return a rule that decides no leaf, and counts its comparisons together with this one."""
        rule = Rule(undecided)
        rule._left = self._left
        return rule


def undecided(_predicted: str, _answer: str) -> None:
    """Compare no leaves: return None for all of them."""
