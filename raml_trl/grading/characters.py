# ruff: noqa: RUF001
"""Writes characters as LaTeX: Greek letters, mathematical signs, superscripts, subscripts, full-width characters."""

import re
import unicodedata

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)|[₀₁₂₃₄₅₆₇₈₉₋]+")


def _small_fraction(character: str) -> str:
    above, below = unicodedata.normalize("NFKC", character).split("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


def _greek(names: str, size: str) -> dict[str, str]:
    spelled = {name: name.upper().replace("LAMBDA", "LAMDA") for name in names.split()}  # as Unicode spells it
    return {unicodedata.lookup(f"GREEK {size} LETTER {name}"): rf"\{command} " for command, name in spelled.items()}


# fmt: off
_CHARACTERS = str.maketrans({
    **_greek(_GREEK, "SMALL"), **_greek(_CAPITALS, "CAPITAL"),
    "ϕ": r"\phi ", "\N{OHM SIGN}": r"\Omega ", "∠": r"\angle ", "△": r"\triangle ", "∞": r"\infty ", "√": r"\surd ",
    "∛": r"\sqrt[3]", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∖": r"\setminus ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "°": r"^\circ ", "℃": r"^\circ C", "℉": r"^\circ F", "…": r"\ldots ", "′": "'", "’": "'", "⁄": "/", "∕": "/",
    "⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "、": ",", "。": ".", "～": "~",
    **dict.fromkeys("−–‐‑—", "-"),
    **{chr(0xFF01 + code): chr(0x21 + code) for code in range(94) if code != ord("～") - 0xFF01},  # full-width signs
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),  # zero-width characters
    **dict.fromkeys("\N{NO-BREAK SPACE}\u3000\u2002\u2003\u2009\u202f", " "),
    **{character: _small_fraction(character) for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
})
# fmt: on


def as_latex(text: str) -> str:
    r"""Return `text` with LaTeX for its characters, such as `\pi` for π and `x^{12}` for x¹²."""
    return text if text.isascii() else _RAISED.sub(_raised, text).translate(_CHARACTERS)


def _raised(match: re.Match[str]) -> str:
    sign = "^" if match[1] else "_"
    raised = unicodedata.normalize("NFKC", match.group()).replace("\N{MINUS SIGN}", "-")
    return f"{sign}{{{raised}}}"
