r"""Normalises the spelling of answers, separates units, and splits lists, tuples and other groups into their parts.

This module handles notation only; the module `equality` decides which answers are equal.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_SIGNS = str.maketrans(
    {
        **{"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "°": r"^\circ "},  # noqa: RUF001
        **{"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in "},  # noqa: RUF001
        **{"²": "^2", "³": "^3", "\N{NO-BREAK SPACE}": " ", "’": "'"},  # noqa: RUF001
    }
)
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r",\\!\s*|\{,\}", ","),
        (r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\\$|\$|£|€", ""),
        (r"(?<!\\)\\[!,;: ]|\\q?quad(?![A-Za-z])|\\displaystyle(?![A-Za-z])|~", " "),
        (r"\\%", "%"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"\\leq(?:slant|q)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?:slant|q)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\*\*", "^"),
        (r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z])", r" \\text{degrees} "),
        (r"([\^_])\s*([+-]?\d+|[A-Za-z])", r"\1{\2}"),
        (r"\s+", " "),
    )
]
_TEXT = r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf)|[mh]box|operatorname)\s*\{([^{}]*)\}"
_TEXTS = re.compile(_TEXT)

_UNIT_NAMES = {
    **{"cm": ("centimeter", "centimetre"), "mm": ("millimeter", "millimetre"), "km": ("kilometer", "kilometre")},
    **{"m": ("meter", "metre"), "in": ("inch", "inche"), "ft": ("foot", "feet"), "mi": ("mile",)},
    **{"s": ("sec", "second"), "min": ("minute",), "h": ("hr", "hour"), "day": (), "week": (), "year": ()},
    **{"dollar": ("usd",), "cent": (), "g": ("gram",), "kg": ("kilogram",), "mph": (), "unit": ()},
    **{"degree": ("deg",), "radian": ("rad",), "%": ("percent",)},
}
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in (unit, *names)}
# Outside \text{...}, only names that cannot be a product of variables count as units.
_PLAIN_UNITS = "|".join(name for name in _UNITS if len(name) > 2 or name in ("cm", "mm", "km", "kg"))
_UNIT = re.compile(
    rf"(?:{_TEXT}|(?<![A-Za-z\\])((?:sq(?:uare|\.)?\s*)?(?:{_PLAIN_UNITS})s?)|(%))\s*(\^\{{[23]\}})?\Z", re.IGNORECASE
)
_AMOUNT = re.compile(r"[\d)}]|\\pi")
_NO_UNIT = re.compile(r"\b(?:and|or|more|less|than|if|for|where|mod|base|not|is|to)\b", re.IGNORECASE)

_SEPARATORS = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[,;]")
_TOKEN = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\\[A-Za-z]+|\\.|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|.",
    re.DOTALL,
)
_OPENING, _CLOSING = {"(", "[", "{", r"\{", r"\begin"}, {")", "]", "}", r"\}", r"\end"}
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?", re.ASCII)


@lru_cache(maxsize=4096)
def normalise(answer: str) -> str:
    r"""Return `answer` with a single spelling for each symbol, such as `\frac` for `\dfrac`, and `\pi` for π.

    Units and text commands such as `\text{cm}` are left unchanged.
    """
    answer = answer.translate(_SIGNS)
    for pattern, replacement in _SPELLINGS:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    if answer.endswith(".") and not answer.endswith(r"\."):
        answer = answer[:-1].rstrip()
    return _without_brackets(answer)


def plain(answer: str) -> str:
    r"""Return `answer` without `\text{...}` and similar commands around words. The words remain."""
    return _TEXTS.sub(r"\1", answer).strip()


def compact(answer: str) -> str:
    """Return `answer` without text commands and spaces. Only compare the result: words may have merged."""
    return plain(answer).replace(" ", "")


def split_unit(answer: str) -> tuple[str, str]:
    """Return the answer without its unit, and the canonical name of the unit, or "" if there is none."""
    match = _UNIT.search(answer)
    if match is None or _AMOUNT.search(answer, 0, match.start()) is None:
        return answer, ""
    text, word, percent, power = match.groups()
    name = (text or word or percent or "").strip().lower()
    if _NO_UNIT.search(name) or not re.fullmatch(r"[a-z%][a-z%/. ]*", name):
        return answer, ""
    square = re.match(r"sq(?:uare|\.)?\s+|sq\.?(?=[a-z]{2}\b)", name)
    if square:
        name, power = name[square.end() :], "^{2}"
    unit = _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or name
    return answer[: match.start()].strip(), unit + (power or "")


def is_known_unit(unit: str) -> bool:
    """Return whether `unit`, a name from `split_unit`, is in our table. Different units in it are never equal."""
    return unit.partition("^")[0] in _UNIT_NAMES


def split(answer: str, separator: re.Pattern[str]) -> list[str]:
    """Split `answer` at the tokens that match `separator`, except inside brackets, and return the pieces."""
    pieces, depth = [""], 0
    for match in _TOKEN.finditer(answer):
        token = match.group()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and separator.fullmatch(token):
            pieces.append("")
        else:
            pieces[-1] += token
    return [piece.strip() for piece in pieces]


@dataclass(frozen=True)
class Group:
    """An answer that consists of parts: a list, a set, a tuple or interval, a union, a matrix or a ratio."""

    kind: str  # "list", "set", "union", "ratio", "matrix [row lengths]", or the brackets of a tuple or interval
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts matters."""
        return self.kind not in ("list", "set", "union")

    @property
    def is_interval(self) -> bool:
        """Whether the notation may be that of an interval. True for `(1, 2)`, which may also be a point."""
        return self.kind in ("()", "(]", "[)", "[]") and len(self.parts) == 2


_CUP, _ROW, _CELL, _COLON = (re.compile(pattern) for pattern in (r"\\cup", r"\\\\", "&", ":"))
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


def find_group(answer: str) -> Group | None:
    """Return the kind and the parts of an answer with several parts (a tuple, set, interval or list).

    Return None for a single answer.
    """
    if _THOUSANDS.fullmatch(answer):
        return None
    pieces = split(answer, _SEPARATORS)
    pieces = [piece for piece in pieces if piece]
    if len(pieces) > 1:
        return Group("list", tuple(part for piece in pieces for part in _both_signs(piece)))
    for separator, kind in ((_CUP, "union"), (_COLON, "ratio")):
        pieces = split(answer, separator)
        if len(pieces) > 1 and all(pieces):
            return Group(kind, tuple(pieces))
    if answer.startswith(r"\{") and _closes_at(answer) == len(answer) - 2:
        inside = find_group(answer[2:-2].strip())
        parts = inside.parts if inside and inside.kind == "list" else tuple(_both_signs(answer[2:-2].strip()))
        return Group("set", parts) if r"\mid" not in answer and "|" not in answer else None
    if answer[:1] in ("(", "[") and answer[-1:] in (")", "]") and _closes_at(answer) == len(answer) - 1:
        pieces = split(answer[1:-1], re.compile("[,;]"))
        if len(pieces) > 1:
            return Group(answer[0] + answer[-1], tuple(pieces))
    match = _MATRIX.fullmatch(answer)
    if match:
        rows = [split(row, _CELL) for row in split(match[2], _ROW)]
        rows = [row for row in rows if row != [""]]
        if len(rows) > 1 and all(len(row) == 1 for row in rows):
            return Group("()", tuple(row[0] for row in rows))  # a column vector is a point
        return Group(f"matrix {[len(row) for row in rows]}", tuple(cell for row in rows for cell in row))
    signs = list(_both_signs(answer))
    return Group("list", tuple(signs)) if len(signs) > 1 else None


def _both_signs(answer: str) -> Iterator[str]:
    r"""Yield `1 + 2` and `1 - 2` for `1 \pm 2`, and any other answer as it is."""
    if len(_PLUS_MINUS.findall(answer)) != 1:
        yield answer
    else:
        yield _PLUS_MINUS.sub("+", answer).removeprefix("+").strip()
        yield _PLUS_MINUS.sub("-", answer)


def _closes_at(answer: str) -> int:
    """Return the index at which the first bracket of `answer` closes, or -1 if it stays open."""
    depth = 0
    for match in _TOKEN.finditer(answer):
        depth += (match.group() in _OPENING) - (match.group() in _CLOSING)
        if depth == 0:
            return match.start()
    return -1


def _without_brackets(answer: str) -> str:
    """Remove round brackets or braces that enclose a complete single answer."""
    while answer[:1] in ("(", "{") and len(answer) > 2 and _closes_at(answer) == len(answer) - 1:
        inside = answer[1:-1].strip()
        if answer[0] == "(" and (len(split(inside, _SEPARATORS)) > 1 or re.fullmatch("[A-J]", plain(inside))):
            break
        answer = inside
    return answer
