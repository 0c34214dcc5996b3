r"""Reads qualifiers, which describe the free letters of an answer: `k \in \mathbb{Z}`, "where c is a constant"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raml_trl.grading.tokens import cut

_LETTER = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|lambda|mu|theta))(?:_\{\w+\})?'*"
_LETTERS = rf"(?P<names>{_LETTER}(?: ?(?:,|and) ?{_LETTER}){{0,5}})"
_DOMAIN = r"(?:\\mathbb\{(?P<set>[RZNQC])\}|(?P<letter>[RZNQC]))(?P<mark>(?: ?[\^_] ?(?:\{[^{}]*\}|[+*-]))*)"
_SORT = (
    r"(?:(?:an?|any|some|arbitrary|fixed|all|every) )*"
    r"(?P<sign{0}>positive |non-?negative |non-?zero |negative )?(?:arbitrary )?"
    r"(?P<sort{0}>(?:real |natural )?(?:integer|constant|number)|natural|real)s?"
)
_LINK = r"(?:(?:where|for|with|here|any|all|some|every|each|is|that) )*"
_QUALIFIER = re.compile(
    rf"{_LINK}(?:{_LETTERS} ?(?:\\in ?{_DOMAIN}|(?:(?:is|are|being|as) )?{_SORT.format('')})"
    rf"|{_SORT.format('_before')} {_LETTERS.replace('names', 'names_behind')})"
)
_HINT = re.compile(r"\\in(?![A-Za-z])|integer|constant|real|natural|number")
_BRACKET = re.compile(r"(.+[^ ,;:]) ?\(([^()]+)\)", re.DOTALL)
_WORD = re.compile(r"(.+?) ?[,;:]? ?\b((?:where|for|with|here) .+)", re.DOTALL)
_SEPARATOR = re.compile("[,;:]")
_SORTS = {"integer": "Z", "natural": "N", "natural number": "N", "real": "R", "real number": "R", "real constant": "R"}


@dataclass(frozen=True)
class Qualified:
    """The text before a qualifier such as "where k is an integer", and the free letters it names, with their domain.

    A domain is, for example, "Z" or "positive Z", or "" if the qualifier states none.
    """

    value: str
    names: frozenset[str]
    domain: str


def read_qualified(text: str) -> Qualified | None:
    """Split `text` into a value and the qualifier at its end, such as "where c is a constant".

    Return None if there is no qualifier. The text must be spelled as `notation.normalise` returns it, without
    text commands.
    """
    if not _HINT.search(text):
        return None
    for value, qualifier in _divisions(" ".join(text.split())):
        match = _QUALIFIER.fullmatch(qualifier)
        if match:
            names = match["names"] or match["names_behind"]
            return Qualified(
                value.rstrip(" ,;:"), frozenset(re.findall(_LETTER, names.replace("and", ","))), _domain(match)
            )
    return None


def _divisions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to divide a text into a value and a qualifier: at a bracket, a word such as "where", a comma."""
    for pattern in (_BRACKET, _WORD):
        match = pattern.fullmatch(text)
        if match:
            yield match[1], match[2].strip()
    pieces, signs = cut(text, _SEPARATOR)
    for number in range(1, len(pieces)):  # `a, b \in \mathbb{R}` is one qualifier, so the longest comes first
        value = "".join(piece + sign for piece, sign in zip(pieces[:number], signs, strict=False))
        yield value, ", ".join(pieces[number:])


def _domain(match: re.Match[str]) -> str:
    """Return the domain that a qualifier states. The sets of positive integers have one name."""
    sort = match["sort"] or match["sort_before"]
    letter = _SORTS.get(sort, "") if sort else match["set"] or match["letter"]
    mark = re.sub(r"[\\^_{} ]", "", match["mark"] or "")
    sign = (match["sign"] or match["sign_before"] or "").strip().replace("-", "")
    sign = sign or {"+": "positive", ">0": "positive", "*": "nonzero", "-": "negative", "ge0": "nonnegative"}.get(
        mark, mark
    )
    if letter == "N" and sign in ("positive", "nonzero"):
        return "positive Z"
    if (letter, sign) == ("Z", "nonnegative"):
        return "N"
    return f"{sign} {letter}".strip()
