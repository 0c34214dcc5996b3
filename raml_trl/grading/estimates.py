r"""Tells two expressions apart by their values at one point, without algebra.

An expression is read only if its meaning is beyond doubt: numbers, letters, sums, products, fractions, powers, roots
and a few functions. The letter i is the imaginary unit, and every other letter stands for a fixed positive number.
Floating-point errors are bounded step by step, so two values count as different only if they are. Equal values prove
nothing: the caller then needs algebra.
"""

import cmath
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

MAX_CHARACTERS = 300
_MAX_DEPTH = 20  # nested brackets
_APART = 1e-3  # relative difference of values that differ: far more than the rounding of any accepted decimal
_EPSILON = 2.0**-50  # relative error of one step: some units in the last place
_LARGEST, _SMALLEST = 1e150, 1e-150
_MAX_FACTORIAL = 60

_GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega"
_TOKEN = re.compile(
    r" *([0-9]+(?:\.[0-9]+)?|\.[0-9]+"
    rf"|(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]))'*(?: ?_ ?\{{ ?\w+ ?\}})?'*"
    r"|\\(?:frac|binom|sqrt|cdot|times|pi|ln|sin|cos|tan|cot)(?![A-Za-z])|[-+*/^!(){}\[\]])",
    re.ASCII,
)
_CONSTANT = re.compile(r"\+ *[Cc] *$")  # of integration: its case does not count
_DIGITS = set("0123456789.")
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_TIMES = {"*", r"\cdot", r"\times"}
_FUNCTIONS = {r"\ln", r"\sin", r"\cos", r"\tan", r"\cot"}
_COMMANDS = {r"\frac", r"\binom", r"\sqrt", r"\pi", *_TIMES, *_FUNCTIONS}
_ENDS = {"", "+", "-", ")", "}", "]"}


class _Unread(Exception):
    """Raised if a text is no number at the chosen point, or if that is not certain."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that differs from `value` by at most `error`."""

    value: complex
    error: float = 0.0

    @property
    def least(self) -> float:
        """A lower bound of a real number.

        Raises:
            _Unread: if the number is not real.
        """
        if self.value.imag:
            raise _Unread
        return self.value.real - self.error


def equal_at_point(first: str, second: str) -> bool | None:
    """Return False if two expressions have different values at the point, and otherwise None."""
    a, b = estimate(first), estimate(second)
    if a is None or b is None:
        return None
    apart = abs(a.value - b.value) > _APART * max(abs(a.value), abs(b.value)) + a.error + b.error
    return False if apart else None


@lru_cache(maxsize=4096)
def estimate(text: str) -> Estimate | None:
    """Return the value of an expression at the point, or None if it cannot be read.

    The text must be spelled as `notation.normalise` returns it, without text commands. Relations, absolute values, sums
    over an index and percentages are among the expressions that are not read.
    """
    if len(text) > MAX_CHARACTERS or _CONSTANT.search(text):
        return None
    try:
        return _Reader(text).read()
    except (_Unread, OverflowError):
        return None


def _letter(name: str) -> float:
    return 1.1 + crc32(name.replace(" ", "").encode()) % 10_007 / 10_007


class _Reader:
    """Recursive-descent parser. Each method parses one level of the grammar: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _Unread
            self.tokens.append(match[1])
            position = match.end()
        self.tokens.append("")  # the end
        self.place = self.depth = 0

    def read(self) -> Estimate:
        value = self.sum()
        if self.next:
            raise _Unread
        return value

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def sum(self) -> Estimate:
        value = self.signed()
        while self.next in ("+", "-"):
            other = self.product() if self.take() == "+" else _times(self.product(), Estimate(-1.0))
            value = _rounded(value.value + other.value, value.error + other.error)
        return value

    def signed(self) -> Estimate:
        negative = self.next == "-"
        if self.next in ("+", "-"):
            self.take()
        value = self.product()
        return Estimate(-value.value, value.error) if negative else value

    def product(self) -> Estimate:
        value, divided, numeral = self.power(), False, self.tokens[self.place - 1]
        while True:
            if self.next in _TIMES:
                self.take()
                value = _times(value, self.power())
            elif self.next == "/":
                self.take()
                value, divided = _over(value, self.power()), True
            elif self.next in _ENDS:
                return value
            elif divided or self.next[0] in _DIGITS or (self.next == r"\frac" and numeral[0] in _DIGITS):
                raise _Unread  # 1/2x, 5 6, or a mixed number
            else:
                value = _times(value, self.power())
            numeral = self.tokens[self.place - 1]

    def power(self) -> Estimate:
        if self.next in _FUNCTIONS:
            return self.function()
        value = self.atom()
        if self.next == "!":
            self.take()
            value = _factorial(value)
        if self.next == "^":
            self.take()
            value = _power(value, self.bracket("{"))
        if self.next in ("^", "!"):
            raise _Unread
        return value

    def function(self) -> Estimate:
        name, exponent = self.take(), Estimate(1.0)
        if self.next == "^":
            self.take()
            exponent = self.bracket("{")
            if exponent.least < 0.9:  # the inverse function
                raise _Unread
        bare = self.next not in ("(", "{")
        argument = self.atom()
        if self.next in ("^", "!") or (bare and self.next not in _ENDS):  # \sin 2x
            raise _Unread
        if name == r"\ln":
            return _power(_logarithm(argument), exponent)
        if argument.value.imag:
            raise _Unread
        sine = _rounded(math.sin(argument.value.real), argument.error)
        cosine = _rounded(math.cos(argument.value.real), argument.error)
        above, below = (cosine, sine) if name in (r"\cos", r"\cot") else (sine, cosine)
        return _power(_over(above, below) if name in (r"\tan", r"\cot") else above, exponent)

    def atom(self) -> Estimate:
        token = self.next
        if token in ("(", "{"):
            return self.bracket(token)
        self.take()
        if token == r"\frac":
            return _over(self.bracket("{"), self.bracket("{"))
        if token == r"\binom":
            above, below = self.bracket("{"), self.bracket("{")
            rest = _rounded(above.value - below.value, above.error + below.error)
            return _over(_factorial(above), _times(_factorial(below), _factorial(rest)))
        if token == r"\sqrt":
            index = self.bracket("[") if self.next == "[" else Estimate(2.0)
            return _power(self.bracket("{"), _over(Estimate(1.0), index))
        if token == r"\pi":
            return _rounded(math.pi, 0.0)
        if token[:1] in _DIGITS:
            return _rounded(float(token), 0.0)
        if token in ("e", "i"):
            return _rounded(math.e if token == "e" else 1j, 0.0)
        if token[:1].isalpha() or (len(token) > 1 and token not in _COMMANDS):
            return Estimate(_letter(token))
        raise _Unread

    def bracket(self, opening: str) -> Estimate:
        self.depth += 1
        if self.take() != opening or self.depth > _MAX_DEPTH:
            raise _Unread
        value = self.sum()
        if self.take() != _CLOSING[opening]:
            raise _Unread
        self.depth -= 1
        return value


def _rounded(value: complex, error: float) -> Estimate:
    error += _EPSILON * abs(value) + _SMALLEST
    if not (abs(value) < _LARGEST and error < _LARGEST):  # also NaN
        raise _Unread
    return Estimate(value, error)


def _times(first: Estimate, second: Estimate) -> Estimate:
    error = abs(first.value) * second.error + abs(second.value) * first.error + first.error * second.error
    return _rounded(first.value * second.value, error)


def _over(above: Estimate, below: Estimate) -> Estimate:
    least = abs(below.value) - below.error
    if least <= _SMALLEST:
        raise _Unread
    value = above.value / below.value
    return _rounded(value, (above.error + abs(value) * below.error) / least)


def _power(base: Estimate, exponent: Estimate) -> Estimate:
    """Return a power. A base that is not positive needs a whole positive exponent."""
    if base.value.imag or base.least <= 0:
        if exponent.value not in range(1, 100) or exponent.error > _EPSILON * 100:
            raise _Unread
        product = Estimate(1.0)
        for _ in range(int(exponent.value.real)):
            product = _times(product, base)
        return product
    logarithm = _times(exponent, _logarithm(base))
    value = cmath.exp(logarithm.value)
    return _rounded(value, abs(value) * math.expm1(logarithm.error))


def _logarithm(argument: Estimate) -> Estimate:
    if argument.least <= _SMALLEST:
        raise _Unread
    return _rounded(math.log(argument.value.real), argument.error / argument.least)


def _factorial(argument: Estimate) -> Estimate:
    """Return the gamma function of the argument plus 1, whose relative slope is below 1 + ln(1 + argument)."""
    if argument.least < -0.5 or argument.value.real > _MAX_FACTORIAL or argument.error > _APART:
        raise _Unread
    value = math.gamma(argument.value.real + 1)
    return _rounded(value, value * (2 * argument.error * (2 + math.log1p(abs(argument.value))) + 10 * _EPSILON))
