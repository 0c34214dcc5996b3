r"""Reads rational numbers in LaTeX exactly, without sympy: `1\frac{4}{5}`, `2^{27} - 2^{11}`, `\binom{15}{7}`.

The input must be spelled as `notation.normalise` returns it. To bound the work, `exact` returns None for texts that are
too long or nested too deeply, and for numbers that are too large.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, isqrt

from raml_trl.grading.cursor import Cursor, UnreadError
from raml_trl.grading.notation import normalise

MAX_CHARACTERS = 1_000
MAX_DEPTH = 30  # nested brackets: far more than in any answer, far below Python's recursion limit
MAX_BITS = 100_000  # in a numerator or denominator: 2019^2020 has 22,000
MAX_TOTAL_BITS = 10 * MAX_BITS  # in all intermediate results of one text
MAX_FACTORIAL = 2_000
_MAX_EXPONENT = 10_000

_NUMBER = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_REPEATING = r"[0-9]{0,50}\.[0-9]{0,50}\\overline ?\{[0-9]{1,50}\}"
_TOKEN = re.compile(rf"\s*({_REPEATING}|{_NUMBER}|\\[a-z]+|[-+*/^!(){{}}])", re.ASCII)
_PLAIN = re.compile(r"[+-]?[0-9]{1,100}", re.ASCII)
_MIXED = re.compile(r"([+-]?\s*[0-9]{1,100})\s+([0-9]{1,100}\s*/\s*[0-9]{1,100})", re.ASCII)
_DECIMAL = re.compile(r"[+-]?[0-9,]*\.([0-9]+)", re.ASCII)
_FRACTION = re.compile(r"\\frac \{ [0-9]+ \} \{ [0-9]+ \}", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?\s*(?:nan|inf|infinity)", re.IGNORECASE)
_TIMES = {"*", r"\cdot", r"\times", r"\ast"}
_OVER = {"/", r"\div"}
_BRACKETS = {"(", "{"}
_ROUNDED_DIGITS = 6


@lru_cache(maxsize=1024)
def exact(text: str) -> Fraction | None:
    """Return the rational number in `text`, or None if `text` is not a rational number or the number is too large."""
    if len(text) > MAX_CHARACTERS:
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(int(text))
    mixed = _MIXED.fullmatch(text)
    if mixed:
        text = f"{mixed[1]}\\frac{{{mixed[2].replace('/', '}{')}}}"
    try:
        return _Reader(text).read()
    except UnreadError:
        return None


def same_number(first: str, second: str) -> bool | None:
    """Return whether two texts spell the same rational number, or None if `exact` cannot read one of them.

    A decimal with six or more significant digits also equals a fraction that rounds to it.
    """
    a, b = exact(first), exact(second)
    if a is None or b is None:
        return None
    return a == b or ("." not in second and is_rounded(first, b)) or ("." not in first and is_rounded(second, a))


def is_rounded(decimal: str, value: Fraction) -> bool:
    """Return whether `decimal` has six or more significant digits, and `value` rounds to it."""
    match, number = _DECIMAL.fullmatch(decimal), exact(decimal)
    if match is None or number is None or value.denominator == 1:
        return False
    digits = decimal.lstrip("+-0.,").replace(".", "").replace(",", "")
    return len(digits) >= _ROUNDED_DIGITS and 2 * abs(number - value) * 10 ** len(match[1]) <= 1


def is_not_finite(answer: str) -> bool:
    r"""Return whether an answer is NaN or infinity, as programs write them. The command \infty does not count."""
    return _NOT_FINITE.fullmatch(answer.strip()) is not None


def is_too_long(answer: str) -> bool:
    """Return whether an answer is too long, or nests brackets too deeply, to be parsed.

    `answer` may have up to `MAX_CHARACTERS` characters, and its normalised spelling up to twice as many, because
    normalising can make an answer longer: ½ becomes a fraction in LaTeX.
    """
    depth = 0
    for character in answer[: MAX_CHARACTERS + 1]:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_DEPTH:
            return True
    return len(answer) > MAX_CHARACTERS or len(normalise(answer)) > 2 * MAX_CHARACTERS


def has_huge_number(answer: str) -> bool:
    """Return whether an answer has a number too large to compute: many digits, a tower of powers, a large factorial."""
    answer = normalise(answer)
    if re.search(r"[0-9]{300}|!\s*!", answer):
        return True
    for match in re.finditer(r"([0-9]*|[)}])\s*!", answer):
        end = match.start()
        inside = match[1] if match[1].isdigit() else answer[_matching_bracket(answer, end, -1) : end]
        if re.search(r"\^|!", inside) or any(int(digits) > MAX_FACTORIAL for digits in re.findall("[0-9]+", inside)):
            return True
    repeated = 1
    for match in re.finditer(r"([)}]?)\s*\^\s*(?=[{(])", answer):
        exponent = answer[match.end() + 1 : _matching_bracket(answer, match.end(), 1)]
        value = exact(exponent)
        if value is None:
            if re.search(r"\^|!", exponent) and not re.search("[a-z]", exponent):
                return True
            continue
        if match[1]:
            repeated *= max(1, abs(int(value)))
        if abs(value) > _MAX_EXPONENT or repeated > _MAX_EXPONENT:
            return True
    return False


def _matching_bracket(text: str, start: int, step: int) -> int:
    """Return the index of the bracket that matches the bracket at `start`.

    `step` is the direction of the search, 1 or -1. If no bracket matches, return the last index in that direction.
    """
    depth, index = 0, start
    for index in range(start, len(text) if step > 0 else -1, step):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            break
    return index


class _Reader(Cursor):
    """Recursive-descent parser. Each method parses one level of the grammar: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        super().__init__(text, _TOKEN, max_depth=MAX_DEPTH)
        self.bits = 0

    def read(self) -> Fraction:
        value = self.sum()
        self.expect("")
        return value

    def sum(self) -> Fraction:
        value = self.signed(self.product)
        while self.next in ("+", "-"):
            value = self.bounded(value + self.signed(self.product))
        return value

    def signed(self, read: Callable[[], Fraction]) -> Fraction:
        sign = 1
        while self.next in ("+", "-"):
            sign *= -1 if self.take() == "-" else 1
        return sign * read()

    def product(self) -> Fraction:
        value, divided = self.power(), False
        while True:
            if self.next in _TIMES:
                self.take()
                value *= self.signed(self.power)
            elif self.next in _OVER:
                self.take()
                value, divided = _divide(value, self.signed(self.power)), True
            elif self.next in ("(", r"\frac", r"\binom") and not divided:  # 1/2(3) is ambiguous
                value *= self.power()
            else:
                return value
            self.bounded(value)

    def power(self) -> Fraction:
        value = self.bounded(self.atom())
        while self.next == "!":
            self.take()
            value = self.bounded(Fraction(factorial(_whole(value, MAX_FACTORIAL))))
        if self.next == "^":
            self.take()
            exponent = self.bracket("{", self.sum)
            if exponent.denominator != 1:
                raise UnreadError
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            if abs(exponent) * bits > MAX_BITS or (not value and exponent <= 0):
                raise UnreadError
            value = self.bounded(value**exponent.numerator)
        return value

    def atom(self) -> Fraction:
        token = self.next
        if token in _BRACKETS:
            return self.bracket(token, self.sum)
        self.take()
        if token == r"\frac":
            return _divide(self.bracket("{", self.sum), self.bracket("{", self.sum))
        if token == r"\binom":
            above, below = self.bracket("{", self.sum), self.bracket("{", self.sum)
            return Fraction(comb(_whole(above, MAX_BITS // 10), _whole(below, MAX_BITS // 10)))
        if token == r"\sqrt":
            return _root(self.bracket("{", self.sum))
        if not token or token[0] not in "0123456789.":
            raise UnreadError
        if token.endswith("}"):
            return _repeating(token)
        value = Fraction(token.replace(",", ""))
        if token.isdigit() and _FRACTION.fullmatch(" ".join(self.tokens[self.place : self.place + 7])):
            value += self.atom()  # a mixed number
        return value

    def bounded(self, value: Fraction) -> Fraction:
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.bits += bits
        if bits > MAX_BITS or self.bits > MAX_TOTAL_BITS:
            raise UnreadError
        return value


def _repeating(text: str) -> Fraction:
    r"""Return the value of a repeating decimal such as `0.1\overline{6}`."""
    start, _, period = text.partition("\\overline")
    whole, _, digits = start.partition(".")
    period = period.strip(" {}")
    nines = 10 ** len(period) - 1
    return Fraction(int((whole + digits) or "0") * nines + int(period), nines * 10 ** len(digits))


def _divide(above: Fraction, below: Fraction) -> Fraction:
    if not below:
        raise UnreadError
    return above / below


def _whole(value: Fraction, most: int) -> int:
    if value.denominator != 1 or not 0 <= value <= most:
        raise UnreadError
    return value.numerator


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise UnreadError
    root = Fraction(isqrt(value.numerator), isqrt(value.denominator))
    if root * root != value:
        raise UnreadError
    return root
