r"""Where a text first states an answer: from there on the answer can be copied, and need no longer be found."""

import re
from collections.abc import Iterator

from raml_trl.grading.notation import compact, normalise
from raml_trl.grading.numbers import MAX_CHARACTERS, exact

_NUMBER = re.compile(
    r"\\[dtc]?frac\s*\{[^{}]{1,40}\}\s*\{[^{}]{1,40}\}|[0-9][0-9,]*(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?|\.[0-9]+", re.ASCII
)
_SIGN = re.compile(r"[-−]\s*\Z")  # noqa: RUF001


def first_statement(text: str, answer: str) -> int | None:
    r"""How many characters of `text` it takes until the answer stands in it; None if it never does.

    A number stands there in any form, and is no part of a longer one: `\frac{1}{2}` in `0.50`, not `7` in `17`. It
    need not be meant as the answer, so this is the earliest place from which it could be copied. Other answers have to
    stand there as they are written, but for spaces and the forms that `answers.normalise` makes one.
    """
    value = exact(normalise(answer))
    if value is None:
        return _first_spelling(text, answer)
    for match in _NUMBER.finditer(text):
        negative = _SIGN.search(text, max(0, match.start() - 3), match.start()) is not None
        for length in _prefixes(match.group()):
            number = exact(normalise(match.group()[:length]))
            # After a number a minus may be its sign or an operation: either reading states it.
            if number is not None and (number == value or (negative and -number == value)):
                return match.start() + length
    return None


def _prefixes(number: str) -> Iterator[int]:
    """Where a number may end: `7,` and `3/4` may also be a 7 and a 3 with something after them."""
    yield len(number)
    for mark in (",", "/"):
        if mark in number and not number.startswith("\\"):
            yield number.index(mark)


def _first_spelling(text: str, answer: str) -> int | None:
    """Where an answer that is no number stands, as it is written or as `normalise` writes it, with any space in it."""
    if len(answer) > MAX_CHARACTERS:
        return None
    found = []
    for wanted in {"".join(answer.split()), compact(normalise(answer))} - {""}:
        pattern = r"\s*".join(map(re.escape, wanted))
        before = r"(?<![A-Za-z0-9])" if wanted[0].isalnum() else ""
        after = r"(?![A-Za-z0-9])" if wanted[-1].isalnum() else ""
        found += [match.end() for match in [re.search(before + pattern + after, text)] if match]
    return min(found, default=None)
