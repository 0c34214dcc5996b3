r"""Normalises the spelling of answers: one spelling for each symbol, whatever character or command it was written as.

This module handles notation only. The module `reading` finds out what an answer means. The module `characters` writes
characters as LaTeX, and the module `spelling` rewrites single commands and their arguments. The patterns below rewrite
notation that consists of several tokens.
"""

import re
from functools import lru_cache

from raml_trl.grading.characters import as_latex
from raml_trl.grading.spelling import spell
from raml_trl.grading.tokens import SEPARATORS, TEXT, is_enclosed, split


def _joined(match: re.Match[str]) -> str:
    return match.group().replace(" ", "")


def _combination(match: re.Match[str]) -> str:
    n, k = (group for group in match.groups() if group)
    if n.isdigit() and k.isdigit() and int(n) < int(k):
        return match.group()
    return rf"\binom{{{n}}}{{{k}}}"


def _arrangement(match: re.Match[str]) -> str:
    n, k = (int(group) for group in match.groups() if group)
    return rf"\frac{{{n}!}}{{{n - k}!}}" if n >= k else match.group()


_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]+(?:[./][0-9]+)?", re.ASCII)
_N = r"\{ ?([0-9a-z]{1,4}) ?\}"
_LETTER_C = r"(?:C|\\mathrm ?\{ ?C ?\})"
_VALUE = r"-?[0-9a-z]+|\\frac\{\d+\}\{\d+\}"
_EXCEPT = rf"(?: except(?: for)?(?: when)?|,? (?:but|other than)) ?\}}? ?(?:[a-z] ?= ?)?({_VALUE}) ?\}}?"
_REALS = r"(?:\\text ?\{ ?)?(?i:(?:x is )?(?:all|any|every|the(?: set of)?(?: all)?) real(?: number)?s?)"

# Each row has a string without which its pattern cannot match, the pattern, and the replacement.
_BEFORE = (
    ("e", r"^\s*([+-]?\d(?:\.\d+)?)e([+-]\d{2,3})\s*$", r"\1 \\cdot 10^{\2}"),  # as JSON spells small numbers
    ("", r"^\s*(\*{1,3}|__|`{1,3})(.*[^*_`])\1\s*$", r"\2"),  # as Markdown marks text
    (":", r"^\s*(?i:final )?(?i:answer)\s*:|^\s*\\text\s*\{\s*(?i:final )?(?i:answer)\s*:\s*\}", ""),
    (":", r"^\s*\\text\s*\{\s*(?i:final )?(?i:answer)\s*:\s*([^{}]*)\}\s*$", r"\\text{\1}"),
    ("\\\\", r"^((?:(?!\\begin).)*)$", lambda match: re.sub(r"\\\\(?=[A-Za-z])", r"\\", match[0])),  # escaped twice
    ("==", "={2,3}", "="),  # as in programs
    (r"\pi", r"\\pi(?=[A-Z])", r"\\pi "),  # \piR, without the space
    ("eq", r"\\([lg]eq(?:slant)?)(?!slant|q)(?=[A-Za-z])", r"\\\1 "),  # \leqb
    ("\u0307", r"(\d)\u0307", r"\\dot{\1}"),
    ("\u0305", r"((?:\d\u0305)+)", lambda match: r"\overline{" + match[0].replace("\u0305", "") + "}"),
    (",", r",\s*\\!\s*|\{,\}", ","),
    ("...", r"\.{3,}", r"\\ldots "),
)
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])"
_ANGLE = re.compile(r"([0-9]+(?:\.[0-9]+)?|\\[a-z]+|[a-z]|\([^()]*\)) ?\\text\{degrees\}")
_AFTER = (
    ("", r"\s+", " "),
    (
        "begin",
        r"^\\\{ ?\\begin\{(array|aligned|gathered|matrix)\}(?: ?\{[lcr| ]*\})?(.*)\\end\{\1\} ?$",
        r"\\begin{cases}\2\\end{cases}",
    ),
    ("begin", r"^\\begin\{(aligned|gathered|dcases|rcases)\}(.*)\\end\{\1\}$", r"\\begin{cases}\2\\end{cases}"),
    ("matrix", r"\{[bp]?smallmatrix\}", "{pmatrix}"),
    ("|", r"\| ?\\begin\{array\}(?: ?\{[lcr]*\})?(.*)\\end\{array\} ?\|", r"\\begin{vmatrix}\1\\end{vmatrix}"),
    (r"\frac", r"\\frac\{ ?\\(?:text|mathrm)\{([^{}]*)\} ?\}\{ ?\\(?:text|mathrm)\{([^{}]*)\} ?\}", r"\\text{\1/\2}"),
    ("", r"(\d) ?(?:\^\{ ?)?(?:\\(?:text|mathrm) ?\{ ?)?(?:st|nd|rd|th) ?(?:\} ?){0,2}$", r"\1"),
    (r"\dot", r"\\dot\{(\d)\}(?:(\d*)\\dot\{(\d)\})?", r"\\overline{\1\2\3}"),
    (r"\ldots", r"^(-?\d*\.\d*?)(\d{1,6}?)(?:(?:\2){2,}) ?\\ldots$", r"\1\\overline{\2}"),
    (".(", r"(\d\.)\((\d+)\)", r"\1\\overline{\2}"),
    ("C", rf"(?:\{{ ?\}} ?)?[\^_]{_N} ?{_LETTER_C} ?_{_N}", _combination),
    ("C", rf"(?<![A-Za-z\\]){_LETTER_C} ?_{_N} ?\^{_N}", _combination),
    ("C", r"(?<![A-Za-z\\])C ?\( ?(\d+) ?, ?(\d+) ?\)", _combination),
    ("", r"(?:\{ ?\} ?)?[\^_]\{(\d+)\} ?P ?_\{(\d+)\}", _arrangement),
    ("", r"(?<![A-Za-z\\])[AP] ?_\{(\d+)\} ?\^\{(\d+)\}", _arrangement),
    ("P", r"(?<![A-Za-z\\])P ?\( ?(\d+) ?, ?(\d+) ?\)", _arrangement),
    ("to", r"(\d+) (?:\\text ?\{ ?(?:is )?to ?\}|(?:is )?to) ?(\d+)", r"\1:\2"),
    ("_", r"\(([0-9A-Z]+)\) ?_", r"\1_"),
    (" ", r"(?<![\d.^{}])(\d{1,3})((?: \d{3})+)(?! ?[\d/.])", _joined),
    ("real", rf"^{_REALS} ?\}}?$", r"\\mathbb{R}"),
    ("real", rf"^{_REALS}{_EXCEPT}$", r"\\mathbb{R} \\setminus \\{\1\\}"),
    (r"\mathbb{R}", r"\\mathbb\{R\} ?(?:\^\{\+\}|_\{(?:\+|> ?0)\})", r"(0, \\infty)"),
    (r"\in", r"\\in ?\\math(?:bf|rm) ?\{([RZNQC])\}", r"\\in \\mathbb{\1}"),
)
_PATTERNS_BEFORE, _PATTERNS_AFTER = (
    [(marker, re.compile(pattern, re.DOTALL), replacement) for marker, pattern, replacement in rows]
    for rows in (_BEFORE, _AFTER)
)
_TEXTS = re.compile(TEXT)
_SPACE = re.compile(r"(?<![0-9]) +| +(?![0-9])")


@lru_cache(maxsize=4096)
def normalise(answer: str) -> str:
    r"""Return `answer` with a single spelling for each symbol, such as `\frac` for `\dfrac`, and `\pi` for π.

    Units and text commands such as `\text{cm}` are left unchanged.
    """
    if _PLAIN_NUMBER.fullmatch(answer):
        return answer
    answer = as_latex(answer)
    for marker, pattern, replacement in _PATTERNS_BEFORE:
        if marker in answer:
            answer = pattern.sub(replacement, answer)
    answer = spell(answer).strip()
    for marker, pattern, replacement in _PATTERNS_AFTER:
        if marker in answer:
            answer = pattern.sub(replacement, answer)
    if r"\text{degrees}" in answer:
        answer = _in_radians(answer)
    answer = answer.strip()
    if answer.endswith(".") and not answer.endswith(r"\."):
        answer = answer[:-1].rstrip()
    return _without_brackets(answer)


def _in_radians(answer: str) -> str:
    """Return `answer` with the degrees behind a trigonometric function converted to radians."""
    function = re.search(_TRIGONOMETRIC, answer)
    if function is None:
        return answer
    angles = _ANGLE.sub(r"(\\frac{\1 \\pi}{180})", answer[function.end() :])
    return answer[: function.end()] + angles


def plain(answer: str) -> str:
    r"""Return `answer` without `\text{...}` and similar commands around words. The words remain."""
    return _TEXTS.sub(r"\1", answer).strip()


def compact(answer: str) -> str:
    """Return `answer` without text commands and spaces, for comparisons only, because words may have merged.

    Spaces between digits stay, because `5 6` is not 56.
    """
    return _SPACE.sub("", plain(answer))


def _without_brackets(answer: str) -> str:
    """Remove round brackets or braces that enclose a complete single answer."""
    while answer[:1] in ("(", "{") and len(answer) > 2 and is_enclosed(answer):
        inside = answer[1:-1].strip()
        if answer[0] == "(" and (len(split(inside, SEPARATORS)) > 1 or re.fullmatch("[A-J]", plain(inside))):
            break
        answer = inside
    return answer
