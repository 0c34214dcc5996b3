"""Compares the leaves of two answers, and limits the number of comparisons.

A leaf is a part of an answer that is an expression without parts of its own. The elements of two sets may match in any
order. With sets nested in sets, the number of comparisons therefore grows with a power of the length of the text.
"""

from collections.abc import Callable
from math import inf

Leaf = Callable[[str, str], bool | None]
"""Function that returns whether a leaf of the predicted answer equals a leaf of the reference; None if undecided."""

MAX_STEPS = 4_000
"""Limit on the comparisons of parts, which no answer written by a person reaches.

Without algebra, this many comparisons take a second.
"""


class TooManyStepsError(Exception):
    """Raised if comparing two answers takes more comparisons of parts than allowed."""


class Rule:
    """Compares two expressions by the function `leaf`, and limits how often parts of two answers are compared.

    `max_steps` is the number of comparisons that are allowed; the next one raises `TooManyStepsError`.
    """

    def __init__(self, leaf: Leaf, max_steps: float = inf) -> None:
        self.leaf = leaf
        self._left = [max_steps]

    def __call__(self, predicted: str, answer: str) -> bool | None:
        return self.leaf(predicted, answer)

    def count_step(self) -> None:
        """Count one comparison of two parts.

        Raises:
            TooManyStepsError: if `max_steps` comparisons have already been counted.
        """
        self._left[0] -= 1
        if self._left[0] < 0:
            raise TooManyStepsError

    def without_algebra(self) -> "Rule":
        """Return a rule that leaves all expressions undecided. Both rules count their comparisons towards one limit."""
        rule = Rule(undecided)
        rule._left = self._left
        return rule


def undecided(_predicted: str, _answer: str) -> None:
    """Return None, which means undecided, for any two expressions."""
