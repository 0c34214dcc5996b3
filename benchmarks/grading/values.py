r"""Evaluates answers in LaTeX, independently of the grader, to find out whether two of them have different values.

A letter stands for a number that depends only on the letter, so two expressions with different values are different
expressions. Units, degree signs and percent signs are ignored. Answers outside the small grammar are unknown.
"""

import hashlib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial
from typing import Any

from mpmath import mp, mpc, mpf

Number = Fraction | mpf | mpc

_EXACT = 1e-12  # relative difference of two values that are computed with 40 digits
_ROUNDED = 1e-4  # relative difference of two values if a decimal may be rounded
_MAX_BITS = 100_000
_SPELLINGS = (
    (r"\\?\$|\\!|\\(?:left|right|displaystyle)(?![A-Za-z])|\{,\}(?=\d{3})|(?<=\d),(?=\d{3}(?!\d))(?=\d{3}$)", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\?%", ""),
    (r"\\text\s*\{\s*(?:and|or)\s*\}|\\cup(?![A-Za-z])", ","),
    (r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?\s*$", ""),
    (r"\\begin\s*\{[pbv]?matrix\}", "⟦"),
    (r"\\end\s*\{[pbv]?matrix\}", "⟧"),
    (r"\\leq?(?:slant)?(?![A-Za-z])", r"\\le "),
    (r"\\geq?(?:slant)?(?![A-Za-z])", r"\\ge "),
)
_TOKEN = re.compile(r"\s*(\d+\.\d*|\.\d+|\d+|\\[A-Za-z]+|\\.|[A-Za-z]|\S)")
_GREEK = {
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "theta",
    "lambda",
    "mu",
    "nu",
    "omega",
    "phi",
    "rho",
    "sigma",
    "tau",
}
_FUNCTIONS: dict[str, Callable[[mpc], mpc]] = {
    r"\sin": mp.sin,
    r"\cos": mp.cos,
    r"\tan": mp.tan,
    r"\cot": mp.cot,
    r"\ln": mp.log,
    r"\log": mp.log10,
}
_RELATIONS = ("=", "<", ">", r"\le", r"\ge")
_SIGNS: dict[str, Number] = {
    "+": Fraction(1),
    "-": Fraction(-1),
    r"\pm": mpc(2.345, 6.789),  # any fixed number: 1 plus it times 2 differs from 1 plus it times 3
    r"\mp": mpc(2.345, 6.789),
}
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\{": r"\}"}


class Unknown(Exception):
    """The text is outside the grammar, or its value is too large."""


@dataclass(frozen=True)
class Value:
    """A number (one part and the kind ""), or parts of a kind: "list", "set", a pair of brackets, or relation signs."""

    kind: str
    parts: tuple["Value | Number", ...]


def differ(first: str, second: str) -> bool | None:
    """Return whether two answers have different values; None if the value of one of them is unknown."""
    tolerance = _ROUNDED if "." in first + second else _EXACT
    try:
        return not _equal(evaluate(first), evaluate(second), tolerance)
    except (Unknown, ArithmeticError, ValueError):
        return None


def evaluate(text: str) -> Value:
    """Return the value of an answer.

    Raises:
        Unknown: if the text is outside the grammar, or its value is too large.
    """
    for pattern, replacement in _SPELLINGS:
        text = re.sub(pattern, replacement, text)
    tokens = _TOKEN.findall(text.strip().rstrip("."))
    if not tokens:
        raise Unknown
    return _evaluate(tokens)


def _evaluate(tokens: Sequence[str]) -> Value:
    pieces = _split(tokens, (",", ";"))
    if len(pieces) > 1:
        return Value("list", tuple(map(_evaluate, pieces)))
    if tokens and tokens[0] in ("(", "[", r"\{") and _closes(tokens, 0) == len(tokens) - 1:
        pieces = _split(tokens[1:-1], (",", ";"))
        if tokens[0] == r"\{":
            return Value("set", tuple(map(_evaluate, pieces)))
        if len(pieces) > 1:
            return Value(tokens[0] + tokens[-1], tuple(map(_evaluate, pieces)))
    if tokens and tokens[0] == "⟦" and tokens[-1] == "⟧":
        rows = [_split(row, ("&",)) for row in _split(tokens[1:-1], (r"\\",))]
        return Value(f"matrix {[len(row) for row in rows]}", tuple(_evaluate(cell) for row in rows for cell in row))
    signs = [token for token in _outside(tokens) if token in _RELATIONS]
    if signs:
        return Value(" ".join(signs), tuple(map(_evaluate, _split(tokens, _RELATIONS))))
    pieces = _split(tokens, (":",))
    if len(pieces) > 1:
        first, *others = (_Reader(piece).read() for piece in pieces)
        return Value("ratio", tuple(Value("", (_apply(operator.truediv, other, first),)) for other in others))
    return Value("", (_Reader(tokens).read(),))


def _equal(a: "Value | Number", b: "Value | Number", tolerance: float) -> bool:
    if not isinstance(a, Value) or not isinstance(b, Value):
        assert not isinstance(a, Value)
        assert not isinstance(b, Value)
        if isinstance(a, Fraction) and isinstance(b, Fraction) and tolerance == _EXACT:
            return a == b
        x, y = _real(a), _real(b)
        return bool(abs(x - y) <= tolerance * max(abs(x), abs(y)))
    if a.kind != b.kind or len(a.parts) != len(b.parts):
        return False
    if a.kind in ("list", "set"):
        left = list(b.parts)
        for part in a.parts:
            match = next((other for other in left if _equal(part, other, tolerance)), None)
            if match is None:
                return False
            left.remove(match)
        return True
    if a.kind in _RELATIONS and any(_is_zero(side) for side in (*a.parts, *b.parts)):
        raise Unknown  # 2x = 0 and -x = 0 are the same equation
    return all(_equal(x, y, tolerance) for x, y in zip(a.parts, b.parts, strict=True))


def _is_zero(part: "Value | Number") -> bool:
    return isinstance(part, Value) and part.kind == "" and part.parts[0] == 0


def _real(value: Number) -> mpc:
    return mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _outside(tokens: Sequence[str]) -> list[str]:
    """Return the tokens, with "" for those inside brackets."""
    found, place = [], 0
    while place < len(tokens):
        end = _closes(tokens, place) if tokens[place] in ("(", "[", "{", r"\{") else place
        found += [tokens[place], *[""] * (end - place)]
        place = end + 1
    return found


def _split(tokens: Sequence[str], separators: Sequence[str]) -> list[list[str]]:
    pieces: list[list[str]] = [[]]
    for token, outside in zip(tokens, _outside(tokens), strict=True):
        if outside in separators and outside:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _closes(tokens: Sequence[str], start: int) -> int:
    depth = 0
    for place in range(start, len(tokens)):
        depth += (tokens[place] in ("(", "[", "{", r"\{")) - (tokens[place] in (")", "]", "}", r"\}"))
        if depth == 0:
            return place
    raise Unknown


class _Reader:
    """Recursive-descent parser of an expression. Each method reads one level of the grammar."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens, self.place = [*tokens, ""], 0

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    def take(self) -> str:
        if self.place == len(self.tokens) - 1:  # the end
            raise Unknown
        self.place += 1
        return self.tokens[self.place - 1]

    def read(self) -> Number:
        value = self.sum()
        if self.next:
            raise Unknown
        return value

    def sum(self) -> Number:
        value: Number = Fraction(0) if self.next in (r"\pm", r"\mp") else self.product()
        while self.next in ("+", "-", r"\pm", r"\mp"):
            sign = _SIGNS[self.take()]
            value = _apply(operator.add, value, _apply(operator.mul, sign, self.product()))
        return value

    def product(self) -> Number:
        if self.next in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value = self.power()
        while True:
            if self.next in ("*", r"\cdot", r"\times"):
                self.take()
                value = _apply(operator.mul, value, self.signed_power())
            elif self.next in ("/", r"\div"):
                self.take()
                value = _apply(operator.truediv, value, self.signed_power())
            elif (
                self.next
                and self.next not in _SIGNS
                and (self.next in ("(", "{", "|") or self.next[0] == "\\" or self.next.isalpha())
            ):
                if self.next == "|" and self.closing == "|":
                    return value
                value = _apply(operator.mul, value, self.power())
            else:
                return value

    closing = ""

    def signed_power(self) -> Number:
        if self.next in ("+", "-"):
            return self.signed_power() if self.take() == "+" else -self.signed_power()
        return self.power()

    def power(self) -> Number:
        value = self.atom()
        while self.next == "!":
            self.take()
            if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value < 3_000:
                raise Unknown
            value = Fraction(factorial(int(value)))
        if self.next == "^":
            self.take()
            value = _power(value, self.argument())
        return value

    def argument(self) -> Number:
        if self.next == "{":
            return self.bracket()
        token = self.next
        if token.isdigit():
            self.take()
            rest = token[1:]
            if rest:  # x^23 is x^2 times 3 in LaTeX, and x^{23} to most people
                raise Unknown
            return Fraction(token)
        return self.atom()

    def bracket(self) -> Number:
        opening = self.take()
        if opening not in _CLOSING:
            raise Unknown
        outer, self.closing = self.closing, _CLOSING[opening]
        value = self.sum()
        if self.take() != self.closing:
            raise Unknown
        self.closing = outer
        return value

    def atom(self) -> Number:
        token = self.next
        if token in ("(", "{"):
            return self.bracket()
        if token == "|":
            return abs(_real(self.bracket()))
        self.take()
        if token[:1].isdigit() or token[:1] == ".":
            return self.number(token)
        if token == r"\frac":
            return _apply(operator.truediv, self.bracket(), self.bracket())
        if token == r"\binom":
            above, below = self.bracket(), self.bracket()
            if not all(isinstance(value, Fraction) and value.denominator == 1 for value in (above, below)):
                raise Unknown
            return Fraction(comb(int(above), int(below)))
        if token == r"\sqrt":
            index: Number = Fraction(2)
            if self.next == "[":
                index = self.bracket()
            return mp.power(_real(self.bracket()), 1 / _real(index))
        if token in _FUNCTIONS:
            return self.function(token)
        if token == r"\pi":
            return +mp.pi
        if token == r"\infty":
            return mpf(10) ** 1000 + 7
        if token == "e":
            return +mp.e
        if token == "i":
            return mpc(0, 1)
        if (len(token) == 1 and token.isalpha()) or token[1:] in _GREEK:
            return self.letter(token)
        raise Unknown

    def number(self, token: str) -> Number:
        value = Fraction(token)
        ahead = [token for token in self.tokens[self.place : self.place + 7] if not token.isdigit()]
        if token.isdigit() and ahead == [r"\frac", "{", "}", "{", "}"]:
            return _apply(operator.add, value, self.atom())  # a mixed number
        return value

    def letter(self, name: str) -> Number:
        if self.next == "_":
            self.take()
            if self.next == "{":
                end = _closes(self.tokens, self.place)
                name += "_" + "".join(self.tokens[self.place + 1 : end])
                self.place = end + 1
            else:
                name += "_" + self.take()
        while self.next == "'":
            name += self.take()
        digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
        return 1 + mpf(int.from_bytes(digest, "big")) / 2**31 + mp.euler / 100

    def function(self, name: str) -> Number:
        power: Number = Fraction(1)
        base: Number | None = None
        if name == r"\log" and self.next == "_":
            self.take()
            base = self.argument()
        if self.next == "^":
            self.take()
            power = self.argument()
        if power == -1:
            raise Unknown  # the inverse function
        value = self.power()
        while self.next and (self.next[0].isalpha() or self.next == r"\pi"):
            value = _apply(operator.mul, value, self.power())
        result = mp.log(_real(value), _real(base)) if base is not None else _FUNCTIONS[name](_real(value))
        return _power(result, power)


def _apply(operation: Callable[[Any, Any], Any], a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return operation(a, b)
    return operation(_real(a), _real(b))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * bits <= _MAX_BITS:
            return base ** int(exponent)
    if isinstance(exponent, Fraction) and abs(exponent) > 10**9:
        raise Unknown
    return mp.power(_real(base), _real(exponent))


mp.dps = 40
