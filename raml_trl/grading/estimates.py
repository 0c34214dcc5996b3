r"""Tells two expressions apart by their values at one point, without algebra.

An expression is read only if its meaning is beyond doubt. It may have numbers, letters, sums, products, fractions,
powers, roots and a few functions. The letter i is the imaginary unit, and every other letter stands for a fixed
positive number. Floating-point errors are bounded step by step, so rounding never makes equal values count as
different. Equal values prove nothing: the caller then needs algebra.
"""

import math
import re
from functools import lru_cache
from zlib import crc32

from raml_trl.grading.bounded import Estimate, rounded
from raml_trl.grading.cursor import Cursor, UnreadError

MAX_CHARACTERS = 300
_MAX_DEPTH = 20  # nested brackets
_APART = 1e-3  # relative difference of values that differ: far more than the rounding of any accepted decimal

GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega"
_TOKEN = re.compile(
    r" *([0-9]+(?:\.[0-9]+)?|\.[0-9]+"
    rf"|(?:[A-Za-z]|\\(?:{GREEK})(?![A-Za-z]))'*(?: ?_ ?\{{ ?\w+ ?\}})?'*"
    r"|\\(?:frac|binom|sqrt|cdot|times|pi|ln|log|sin|cos|tan|cot|sec|csc)(?![A-Za-z])|[-+*/^!(){}\[\]|_])",
    re.ASCII,
)
_NAME = re.compile(rf"(?<![A-Za-z\\])[A-Za-df-hj-z]|\\(?:{GREEK})(?![A-Za-z])")  # e and i are numbers
_BOUND = re.compile(r"\\(?:sum|prod|int|lim|min|max)(?![A-Za-z]) ?_|\\begin")
_CONSTANT = re.compile(r"\+ *[Cc] *$")  # of integration: its case does not count
_DIGITS = set("0123456789.")
_TIMES = {"*", r"\cdot", r"\times"}
_FUNCTIONS = {r"\ln", r"\log", r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"}
_COMMANDS = {r"\frac", r"\binom", r"\sqrt", r"\pi", *_TIMES, *_FUNCTIONS}
_ENDS = {"", "+", "-", ")", "}", "]"}


def equal_at_point(first: str, second: str) -> bool | None:
    """Return False if two expressions differ when every letter has its fixed value, and otherwise None."""
    a, b = estimate(first), estimate(second)
    if a is None or b is None:
        return None
    apart = abs(a.value - b.value) > _APART * max(abs(a.value), abs(b.value)) + a.error + b.error
    return False if apart else None


@lru_cache(maxsize=4096)
def estimate(text: str) -> Estimate | None:
    """Return the value of an expression when every letter has its fixed value, or None if it cannot be read.

    The text must be spelled as `notation.normalise` returns it, without text commands. Relations, sums
    over an index and percentages are among the expressions that are not read.
    """
    if len(text) > MAX_CHARACTERS or _CONSTANT.search(text):
        return None
    try:
        return _Reader(text).read()
    except (UnreadError, OverflowError):
        return None


def sign_of_difference(first: str, second: str) -> int | None:
    """Return -1 or 1 if a real number without letters is certainly smaller or larger than another one; None if not."""
    a, b = estimate(first), estimate(second)
    if a is None or b is None or a.value.imag or b.value.imag or _NAME.search(first + second):
        return None
    difference = a.value.real - b.value.real
    return (1 if difference > 0 else -1) if abs(difference) > a.error + b.error else None


def is_unknown(text: str) -> bool:
    r"""Return whether an expression has letters and no value that `estimate` can compute, such as \triangle ABC.

    Return False for an expression with `\begin`, or with a sum, product, integral, limit, minimum or maximum that
    has a subscript. Its letters may be only indices, such as k in `\sum_{k=1}^{3} k`, and its value a number.
    """
    return estimate(text) is None and _NAME.search(text) is not None and _BOUND.search(text) is None


def _letter(name: str) -> float:
    return 1.1 + crc32(name.replace(" ", "").encode()) % 10_007 / 10_007


class _Reader(Cursor):
    """Recursive-descent parser. Each method parses one level of the grammar: sum, product, power, atom."""

    def __init__(self, text: str) -> None:
        super().__init__(text, _TOKEN, max_depth=_MAX_DEPTH)
        self.bars = 0  # open absolute values within the innermost bracket

    def read(self) -> Estimate:
        value = self.sum()
        self.expect("")
        return value

    def sum(self) -> Estimate:
        value = self.signed()
        while self.next in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def signed(self) -> Estimate:
        negative = self.next == "-"
        if self.next in ("+", "-"):
            self.take()
        value = self.product()
        return -value if negative else value

    def product(self) -> Estimate:
        value, divided, numeral = self.power(), False, self.last
        while not self.ends():
            if self.next in _TIMES:
                self.take()
                value *= self.power()
            elif self.next == "/":
                self.take()
                value, divided = value / self.power(), True
            elif divided or self.next[0] in _DIGITS or (self.next == r"\frac" and numeral[0] in _DIGITS):
                raise UnreadError  # 1/2x, 5 6, or a mixed number
            else:
                value *= self.power()
            numeral = self.last
        return value

    def ends(self) -> bool:
        return self.next in _ENDS or (self.next == "|" and self.bars > 0)

    def power(self) -> Estimate:
        if self.next in _FUNCTIONS:
            return self.function()
        value = self.atom()
        if self.next == "!":
            self.take()
            value = value.factorial()
        if self.next == "^":
            self.take()
            value = value ** self.inside("{")
        if self.next in ("^", "!"):
            raise UnreadError
        return value

    def function(self) -> Estimate:
        name, exponent, base = self.take(), Estimate(1.0), Estimate(math.e)
        if name == r"\log":
            self.expect("_")  # without a base it may be the natural or the decimal logarithm
            base = self.inside("{")
        if self.next == "^":
            self.take()
            exponent = self.inside("{")
            if exponent.least < 0.9:  # the inverse function
                raise UnreadError
        argument = self.inside(self.next) if self.next in ("(", "{") else self.bare_argument()
        if self.next in ("^", "!"):
            raise UnreadError
        logarithmic = name in (r"\ln", r"\log")
        value = argument.log() / base.log() if logarithmic else _trigonometric(name, argument)
        return value**exponent

    def bare_argument(self) -> Estimate:
        r"""Read the argument of a function without brackets: 2, x, 2\pi x or \frac{x}{2}.

        Raises:
            UnreadError: if there is none, or if the text behind it may belong to it too, as in `\sin x / 2`.
        """
        value = Estimate(1.0)
        if self.next in (r"\frac", r"\sqrt"):
            value = self.atom()
        elif self.next[:1] in _DIGITS or self.is_letter():
            value = self.atom()
            while self.is_letter():
                value *= self.atom()
        else:
            raise UnreadError
        if not (self.ends() or self.next in _TIMES or self.next in _FUNCTIONS):
            raise UnreadError  # \sin x^{2}, \sin x / 2, \sin x(x+1)
        return value

    def is_letter(self) -> bool:
        return self.next[:1].isalpha() or self.next == r"\pi" or (len(self.next) > 1 and self.next not in _COMMANDS)

    def atom(self) -> Estimate:
        token = self.next
        if token in ("(", "{"):
            return self.inside(token)
        self.take()
        if token == "|":
            return self.absolute()
        if token == r"\frac":
            return self.inside("{") / self.inside("{")
        if token == r"\binom":
            above, below = self.inside("{"), self.inside("{")
            return above.factorial() / (below.factorial() * (above - below).factorial())
        if token == r"\sqrt":
            index = self.inside("[") if self.next == "[" else Estimate(2.0)
            return self.inside("{") ** (Estimate(1.0) / index)
        if token == r"\pi":
            return rounded(math.pi)
        if token[:1] in _DIGITS:
            return rounded(float(token))
        if token in ("e", "i"):
            return rounded(math.e if token == "e" else 1j)
        if token[:1].isalpha() or (len(token) > 1 and token not in _COMMANDS):
            return Estimate(_letter(token))
        raise UnreadError

    def inside(self, opening: str) -> Estimate:
        """Read the expression between `opening` and its closing bracket, and return its value."""
        bars, self.bars = self.bars, 0
        value = self.bracket(opening, self.sum)
        self.bars = bars
        return value

    def absolute(self) -> Estimate:
        self.bars += 1
        value = self.sum()
        self.expect("|")
        self.bars -= 1
        return abs(value)


def _trigonometric(name: str, argument: Estimate) -> Estimate:
    sine, cosine, one = argument.sin(), argument.cos(), Estimate(1.0)
    match name:
        case r"\sin":
            return sine
        case r"\cos":
            return cosine
        case r"\tan":
            return sine / cosine
        case r"\cot":
            return cosine / sine
        case r"\sec":
            return one / cosine
        case _:
            return one / sine
