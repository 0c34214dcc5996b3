r"""Splits LaTeX into tokens: commands, escaped signs, conjunctions and single characters.

`cut` and `split` cut an answer at its separators, such as the commas between the members of a list, but not at those
inside brackets: `(1, 2), 3` has the members `(1, 2)` and `3`.
"""

import re
from collections.abc import Mapping

TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|[mh]box|operatorname|emph)\s*\{([^{}]*)\}"
"""Pattern of a command whose argument is words."""

_CONJUNCTION = r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or|或|和)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
SEPARATORS = re.compile(rf"{_CONJUNCTION}|[,;或和]")
"""Pattern of the tokens between the members of a list."""

_TOKEN = re.compile(rf"{_CONJUNCTION}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_NAMED = re.compile(rf"{TEXT}|\\mathbb\{{[^{{}}]*\}}|\\[A-Za-z]+|[A-Za-z]")
_OPENING, _CLOSING = {"(", "[", "{", r"\{", r"\begin"}, {")", "]", "}", r"\}", r"\end"}


def cut(answer: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Cut `answer` at the tokens outside brackets that match `separator`. Return the pieces and these tokens."""
    pieces, found, start, depth = list[str](), list[str](), 0, 0
    for match in _TOKEN.finditer(answer):
        token = match.group()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and separator.fullmatch(token):
            pieces.append(answer[start : match.start()].strip())
            found.append(token)
            start = match.end()
    return [*pieces, answer[start:].strip()], found


def split(answer: str, separator: re.Pattern[str]) -> list[str]:
    """Return the pieces of `answer` between the tokens outside brackets that match `separator`."""
    return cut(answer, separator)[0]


def is_enclosed(answer: str) -> bool:
    """Return whether the first token of `answer` is a bracket that the last token closes."""
    depth = 0
    for match in _TOKEN.finditer(answer):
        depth += (match.group() in _OPENING) - (match.group() in _CLOSING)
        if depth == 0:
            return match.start() > 0 and match.end() == len(answer)
    return False


def letters(expression: str) -> list[str]:
    r"""Return the distinct letters and commands of `expression`, such as `x` and `\alpha`, in order of appearance."""
    found = (match.group() for match in _NAMED.finditer(expression) if match[1] is None)
    return list(dict.fromkeys(found))


def rename(expression: str, names: Mapping[str, str]) -> str:
    """Return `expression` with the letters in `names` replaced, all at once. Words in text commands stay."""

    def renamed(match: re.Match[str]) -> str:
        name = names.get(match.group())
        # A command such as `\alpha` needs a space before a letter.
        return match.group() if name is None else name + " " * (name[0] == "\\")

    return _NAMED.sub(renamed, expression)
