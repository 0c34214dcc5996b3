"""Names that an equation or an inequality may give a value."""

import re

_NAME = re.compile(
    r"(?:[A-Za-z]|\\(?!frac|sqrt|l?not|neg|ne|exists|forall)[a-z]+|(?:\\(?:angle|triangle)\s*)?[A-Z]{2,3}|[A-Za-z]{4,})"
    r"'*(?:_\{\w+\})?(?:\s*\([A-Za-z](?:\s*,\s*[A-Za-z])*\))?"
    r"|\\frac\{[A-Z]{1,2}\}\{[A-Z]{1,2}\}|[A-Z]{1,2} ?: ?[A-Z]{1,2}|\([A-Za-z](?: ?, ?[A-Za-z])+\)|[fghFGHPT]\(-?\d+\)"
)
CONSTANTS = {r"\pi", r"\infty", "e", "i"}
"""Names that are constants, unless an equation gives them another value."""


def is_name(text: str) -> bool:
    """Return whether `text` is a name that an equation or inequality may give a value, such as `x`, `AB` or `f(2)`."""
    return _NAME.fullmatch(text) is not None


def is_variable(text: str) -> bool:
    """Return whether `text` is a name, but not that of a constant."""
    return is_name(text) and text not in CONSTANTS
