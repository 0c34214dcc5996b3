r"""Normalises the spelling of answers, and splits lists, tuples and other groups into their parts.

This module handles notation only; the module `equality` decides which answers are equal.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache


def _small_fraction(character: str) -> str:
    above, below = unicodedata.normalize("NFKC", character).split("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


def _raised(match: re.Match[str]) -> str:
    return "^{" + unicodedata.normalize("NFKC", match.group()).replace("\N{MINUS SIGN}", "-") + "}"


def _joined(match: re.Match[str]) -> str:
    return match.group().replace(" ", "")


_FUNCTION = r"(\\(?:sin|cos|tan|cot|sec|csc))"
_LARGER_UNIT = "hours?|minutes?|days?|weeks?|months?|years?|feet|foot|pounds?|dollars?"
_ORDINAL = r"(\d)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm)\s*\{\s*)?(?:st|nd|rd|th)\s*(?:\}\s*){0,2}"
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]+(?:[./][0-9]+)?", re.ASCII)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SIGNS = str.maketrans(
    {
        **{"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "°": r"^\circ "},  # noqa: RUF001
        **{"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in "},  # noqa: RUF001
        **{"∅": r"\emptyset ", "Ω": r"\Omega ", "ℝ": r"\mathbb{R}"},  # noqa: RUF001
        **{"⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "、": ",", "。": ".", "～": "~", "⁄": "/", "∕": "/"},  # noqa: RUF001
        **{"‐": "-", "‑": "-", "—": "-", "\N{NO-BREAK SPACE}": " ", "’": "'"},  # noqa: RUF001
        **{chr(0xFF01 + code): chr(0x21 + code) for code in range(94)},  # full-width signs
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),  # zero-width characters
        **{"\u3000": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " "},
        **{character: _small_fraction(character) for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
    }
)
# Each row has a string without which its pattern cannot match, the pattern, and the replacement.
_SPELLINGS = [
    (marker, re.compile(pattern), replacement)
    for marker, pattern, replacement in (
        (",", r",\\!\s*|\{,\}", ","),
        ("**", r"^\s*\*\*(.*)\*\*\s*$", r"\1"),
        ("\\", r"(?<!\\)\\[()\[\]]", " "),
        ("\\", r"\\(?:tiny|small|large|Large|LARGE|huge|Huge)(?![A-Za-z])", " "),
        ("color", r"\\(?:text)?color\s*\{[a-z]+\}", " "),
        ("\\", r"\\(?:bm|boldsymbol|pmb)\s*\{([^{}]*)\}", r" \1 "),
        (":", r"^\s*(?i:final )?(?i:answer)\s*:|^\s*\\text\s*\{\s*(?i:final )?(?i:answer)\s*:\s*\}", ""),
        ("e", r"^\s*([+-]?\d(?:\.\d+)?)e([+-]\d{2,3})\s*$", r"\1 \\cdot 10^{\2}"),  # as JSON spells small numbers
        (r"\text", r"^\s*\\text\s*\{\s*([+-]?\d[\d.,]*)\s+([^{}]*)\}\s*$", r"\1 \\text{\2}"),
        ("ll real", r"^\s*(?:\\text\s*\{)?\s*(?i:all real numbers)\s*\}?\s*$", r"\\mathbb{R}"),
        (r"\mathbb", r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        ("", r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|ln|log)(?![A-Za-z])", r"\\\1"),
        (r"\sqrt", r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        ("", rf"{_ORDINAL}$", r"\1"),
        ("√", r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        ("", r"\\\$|\$|£|€|¥|₹", ""),
        ("", r"(?<!\\)\\[!,;: ]|\\q?quad(?![A-Za-z])|\\displaystyle(?![A-Za-z])|~", " "),
        (r"\%", r"\\%", "%"),
        ("\\", r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        ("frac", r"\\[dtcs]frac(?![A-Za-z])", r"\\frac"),
        (r"\frac", r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\frac", r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\frac", r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\sqrt", r"\\sqrt\s*(\d|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        ("", r"\\leq(?:slant|q)?(?![A-Za-z])|<=", r"\\le "),
        ("", r"\\geq(?:slant|q)?(?![A-Za-z])|>=", r"\\ge "),
        ("", r"\\neq(?![A-Za-z])|!=|\\not\s*=", r"\\ne "),
        (r"\lt", r"\\lt(?![A-Za-z])", "<"),
        (r"\gt", r"\\gt(?![A-Za-z])", ">"),
        (r"\varnothing", r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
        (r"\langle", r"\\langle(?![A-Za-z])", "("),
        (r"\rangle", r"\\rangle(?![A-Za-z])", ")"),
        (r"\lbrace", r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\rbrace", r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\colon", r"\\colon(?![A-Za-z])", ":"),
        ("**", r"\*\*", "^"),
        ("\\", r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z])", r" \\text{degrees} "),
        ("", r"([\^_])\s*([+-]?\d+|[A-Za-z])", r"\1{\2}"),
        ("", r"\s+", " "),
        (
            "degrees}",
            rf"{_FUNCTION}[ {{(]*(\d+(?:\.\d+)?)[ )}}]*\\text\{{degrees\}}[ )}}]*",
            r"\1(\\frac{\2\\pi}{180})",
        ),
        ("to", r"(\d+) (?:\\text ?\{ ?to ?\}|to) ?(\d+)", r"\1:\2"),
        ("and", rf"(\\text ?\{{ ?(?:{_LARGER_UNIT})) and ?\}}", r"\1}"),  # 3 hours and 30 minutes
        ("_", r"\(([0-9A-Z]+)\) ?_", r"\1_"),
        ("C", r"(?:\{ ?\} ?)?\^\{(\d+)\} ?C ?_\{(\d+)\}", r"\\binom{\1}{\2}"),
        ("C", r"(?<![A-Za-z\\])C ?_\{(\d+)\} ?\^\{(\d+)\}", r"\\binom{\1}{\2}"),
        (" ", r"(?<![\d.^{}])(\d{1,3})((?: \d{3})+)(?! ?[\d/.])", _joined),
    )
]
TEXT = r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf)|[mh]box|operatorname)\s*\{([^{}]*)\}"
_TEXTS = re.compile(TEXT)
_SPACE = re.compile(r"(?<![0-9]) +| +(?![0-9])")

_CONJUNCTION = r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or|或|和)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
_SEPARATORS = re.compile(rf"{_CONJUNCTION}|[,;或和]")
_TOKEN = re.compile(rf"{_CONJUNCTION}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING, _CLOSING = {"(", "[", "{", r"\{", r"\begin"}, {")", "]", "}", r"\}", r"\end"}
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_SYSTEM = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?", re.ASCII)


@lru_cache(maxsize=4096)
def normalise(answer: str) -> str:
    r"""Return `answer` with a single spelling for each symbol, such as `\frac` for `\dfrac`, and `\pi` for π.

    Units and text commands such as `\text{cm}` are left unchanged.
    """
    if _PLAIN_NUMBER.fullmatch(answer):
        return answer
    answer = _RAISED.sub(_raised, answer).translate(_SIGNS)
    for marker, pattern, replacement in _SPELLINGS:
        if marker in answer:
            answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    if answer.endswith(".") and not answer.endswith(r"\."):
        answer = answer[:-1].rstrip()
    return _without_brackets(answer)


def plain(answer: str) -> str:
    r"""Return `answer` without `\text{...}` and similar commands around words. The words remain."""
    return _TEXTS.sub(r"\1", answer).strip()


def compact(answer: str) -> str:
    """Return `answer` without text commands and spaces. Only compare the result: words may have merged.

    Spaces between digits stay: `5 6` is not 56.
    """
    return _SPACE.sub("", plain(answer))


def split(answer: str, separator: re.Pattern[str]) -> list[str]:
    """Split `answer` at the tokens that match `separator`, except inside brackets, and return the pieces."""
    pieces, start, depth = list[str](), 0, 0
    for match in _TOKEN.finditer(answer):
        token = match.group()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and separator.fullmatch(token):
            pieces.append(answer[start : match.start()].strip())
            start = match.end()
    return [*pieces, answer[start:].strip()]


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
    match = _SYSTEM.fullmatch(answer)
    if match and "&" not in match[1]:
        members = [member for member in split(match[1], _ROW) if member]
        return Group("list", tuple(members)) if len(members) > 1 else None
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
