"""The types of answers. A type holds what an answer means, not how it is spelled.

The types for quantities, numbers with a base, times of day, dates, choices, residue classes and divisions with
remainder are defined in the modules that read them.
"""

from dataclasses import dataclass
from fractions import Fraction

from raml_trl.grading.bases import Based
from raml_trl.grading.choices import Choice
from raml_trl.grading.clock import TimeOfDay
from raml_trl.grading.dates import Date
from raml_trl.grading.quantities import Quantity
from raml_trl.grading.remainders import Division, ResidueClass


@dataclass(frozen=True)
class Number:
    """A rational number."""

    value: Fraction


@dataclass(frozen=True)
class Words:
    """Words, which are compared without regard to case, articles and the ending of a plural."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Affirmation:
    """A yes or a no, whatever explanation follows."""

    yes: bool


@dataclass(frozen=True)
class EmptySet:
    """The empty set."""


@dataclass(frozen=True)
class Items:
    """A list without brackets whose order does not matter: several solutions, or the equations of a system."""

    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class SetOf:
    """A set with listed elements."""

    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Union:
    """A union of intervals or sets."""

    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Tuple:
    """A point or vector, or a matrix with one column. Two parts in round brackets may also be an open interval."""

    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Interval:
    """An interval. `has_low` and `has_high` say whether the ends `low` and `high` belong to it."""

    low: "Answer"
    high: "Answer"
    has_low: bool
    has_high: bool


@dataclass(frozen=True)
class Matrix:
    """A matrix. A column of several numbers is a `Tuple` instead."""

    rows: "tuple[tuple[Answer, ...], ...]"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two or more numbers."""

    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Cases:
    """A piecewise function: for each piece its value and its condition."""

    rows: "tuple[tuple[Answer, Answer], ...]"


@dataclass(frozen=True)
class Equation:
    """A chain of equations. `name` is the first member if it is a name such as `x`, and otherwise ""."""

    name: str
    members: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Function:
    """A function: `f(x) = x^2` has the name `f` and the argument `x`."""

    name: str
    arguments: tuple[str, ...]
    body: "Answer"


@dataclass(frozen=True)
class Inequality:
    r"""A chain of inequalities, turned so that every sign is `<` or `\le`."""

    members: "tuple[Answer, ...]"
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Approximation:
    r"""A decimal, and the exact value that it approximates. `exact` is None if only names stand there: `x \approx 1.4`.

    `before` has the values before the exact one in a chain such as `\sqrt{20} = 2\sqrt{5} \approx 4.47`.
    """

    exact: "Answer | None"
    decimal: "Answer"
    before: tuple["Answer", ...] = ()


@dataclass(frozen=True)
class Family:
    r"""A value for every choice of its free letters, such as `k\pi` for all integers k.

    `names` are the letters that the answer declares as free, and `domain` is their domain, or "" if it is not stated.
    """

    value: "Answer"
    names: frozenset[str]
    domain: str


@dataclass(frozen=True)
class SetBuilder:
    r"""The elements of a domain that meet a condition: `\{x \mid x > 1\}`. `domain` is "" if it is not stated."""

    element: "Answer"
    domain: str
    condition: "Answer"


@dataclass(frozen=True)
class Expression:
    """An expression that only algebra can compare."""


Value = (
    Number | Quantity | Based | TimeOfDay | Date | Ratio | Division | ResidueClass | Choice | Affirmation | Words
    | EmptySet | Items | SetOf | Union | Tuple | Interval | Matrix | Cases | Equation | Function | Inequality
    | Approximation | Family | SetBuilder | Expression
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An answer: its spelling, as `notation.normalise` returns it, and its meaning."""

    text: str
    value: Value
