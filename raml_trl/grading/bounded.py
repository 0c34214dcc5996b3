"""Floating-point numbers, each with a bound on its error. Every operation also computes the bound for its result."""

import cmath
import math
from dataclasses import dataclass

from raml_trl.grading.cursor import UnreadError

_EPSILON = 2.0**-50  # relative error of one step: some units in the last place
_LARGEST, _SMALLEST = 1e150, 1e-150
_MAX_FACTORIAL = 60
_MAX_ERROR = 1e-3  # of the argument of a factorial


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that differs from `value` by at most `error`.

    Operations raise `UnreadError` if the result is too large, or if its error cannot be bounded.
    """

    value: complex
    error: float = 0.0

    @property
    def least(self) -> float:
        """A lower bound of the number, which must be real.

        Raises:
            UnreadError: if the number is not real.
        """
        if self.value.imag:
            raise UnreadError
        return self.value.real - self.error

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, self.error)

    def __abs__(self) -> "Estimate":
        return Estimate(abs(self.value), self.error)

    def __add__(self, other: "Estimate") -> "Estimate":
        return rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self + -other

    def __mul__(self, other: "Estimate") -> "Estimate":
        error = abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        return rounded(self.value * other.value, error)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        least = abs(other.value) - other.error
        if least <= _SMALLEST:
            raise UnreadError
        value = self.value / other.value
        return rounded(value, (self.error + abs(value) * other.error) / least)

    def __pow__(self, exponent: "Estimate") -> "Estimate":
        """Return a power. A base that is not positive needs a whole positive exponent."""
        if self.value.imag or self.least <= 0:
            if exponent.value not in range(1, 100) or exponent.error > _EPSILON * 100:
                raise UnreadError
            product = Estimate(1.0)
            for _ in range(int(exponent.value.real)):
                product *= self
            return product
        logarithm = exponent * self.log()
        value = cmath.exp(logarithm.value)
        return rounded(value, abs(value) * math.expm1(logarithm.error))

    def log(self) -> "Estimate":
        """Return the natural logarithm of a positive number."""
        if self.least <= _SMALLEST:
            raise UnreadError
        return rounded(math.log(self.value.real), self.error / self.least)

    def factorial(self) -> "Estimate":
        """Return the gamma function of the number plus 1.

        The error of the result is bounded, because the relative slope of this function is below 1 + ln(1 + number).
        """
        if self.least < -0.5 or self.value.real > _MAX_FACTORIAL or self.error > _MAX_ERROR:
            raise UnreadError
        value = math.gamma(self.value.real + 1)
        return rounded(value, value * (2 * self.error * (2 + math.log1p(abs(self.value))) + 10 * _EPSILON))

    def sin(self) -> "Estimate":
        """Return the sine of a real number."""
        if self.value.imag:
            raise UnreadError
        return rounded(math.sin(self.value.real), self.error)

    def cos(self) -> "Estimate":
        """Return the cosine of a real number."""
        if self.value.imag:
            raise UnreadError
        return rounded(math.cos(self.value.real), self.error)


def rounded(value: complex, error: float = 0.0) -> Estimate:
    """Return `value` as an estimate whose error is at most `error` plus the rounding error of one operation.

    Raises:
        UnreadError: if `value` or the error is too large, or NaN.
    """
    error += _EPSILON * abs(value) + _SMALLEST
    if not (abs(value) < _LARGEST and error < _LARGEST):  # also NaN
        raise UnreadError
    return Estimate(value, error)
