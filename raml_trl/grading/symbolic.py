r"""Compares two expressions with computer algebra. Only this module and `roots` import math-verify or sympy.

Importing this module takes about a second, and most pairs need no algebra, so `grader` imports it on first use. A
comparison may take any amount of time and memory, so callers must limit them.
"""

import logging
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.evalf import PrecisionExhausted
from sympy.core.relational import Relational
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from raml_trl.grading.numbers import is_rounded
from raml_trl.grading.roots import have_same_roots
from raml_trl.grading.tokens import letters, rename

_DIGITS = 30
_NOISE = 1e-100  # a smaller value may be the rounding error of terms that cancel
_RELATIVE = 1e-20  # largest relative difference of two values that may be equal
_RELATIVE_OF_DECIMALS = 1e-12  # the same if both have decimals, which are read with 15 digits
_RELATIVE_OF_ROUNDED = 1e-5  # the same if one is a decimal, which is often rounded to six digits
_STEP = sympy.Rational(37, 100)  # distance between the values that two symbols get in a numerical comparison

# What is hidden or denied, mixed relations, and numbers with spaces
_UNREADABLE = re.compile(
    r"\\(?:[hv]?phantom|[bx]?cancel|l?not|neg)(?![A-Za-z])|[0-9] +[0-9]|\\ne(?![A-Za-z]).*=|=.*\\ne(?![A-Za-z])",
    re.DOTALL,
)
_INDEX = re.compile(r"\\(?:sum|prod) ?_ ?\{ ?([a-z]) ?=")
_CONSTANT = re.compile(r"\+ *C *$")
# Letters that math-verify would take for others: it ignores case and primes. The arguments of the first commands stay.
_LETTERS = re.compile(
    r"\\(?:begin|end|mathbb|operatorname|vec|overrightarrow|hat|overline)\s*\{[^{}]*\}|\\Gamma(?= *\()"
    r"|(?P<letter>[A-Za-z]|\\(?:[A-Z][a-z]+|alpha|beta|gamma|epsilon|zeta)(?![A-Za-z]))"
    r"(?P<primes>'*)(?: ?_ ?\{ ?(?P<index>\w+) ?\})?(?P<more>'*)|\\[A-Za-z]+"
)

_CAPITAL = re.compile("[A-Z]")

# Types of expressions that evaluate quickly and reliably. Matrices, sums and infinities are not among them.
_NUMBERS = (sympy.Rational, sympy.Float, sympy.NumberSymbol, sympy.core.numbers.ImaginaryUnit, sympy.Symbol)
_OPERATIONS = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
_NO_VALUE = (ArithmeticError, AttributeError, KeyError, NotImplementedError, RecursionError, TypeError, ValueError)
_FUNCTIONS = (sympy.exp, sympy.log, sympy.Abs, TrigonometricFunction, sympy.binomial, sympy.factorial)
_SCALARS = (sympy.Add, sympy.Mul, sympy.Pow, *_NUMBERS, *_FUNCTIONS)


def equal_expressions(predicted: str, answer: str) -> bool | None:
    """Return whether two expressions are equal; None if math-verify cannot parse one of them."""
    gold, target = parse_expression(answer), parse_expression(predicted)
    if not gold or not target:
        return None
    if _differ(gold[0], target[0]):
        return False
    if _is_rounded(predicted, gold[0]) or _is_rounded(answer, target[0]):
        return True
    if isinstance(gold[0], Relational) and isinstance(target[0], Relational) and _are_multiples(gold[0], target[0]):
        return True
    # The last flag also compares an interval with an inequality.
    if verify(list(gold), list(target), allow_set_relation_comp=True, timeout_seconds=None):
        return True
    return _equal_for_positive_letters(gold[0], target[0])


@lru_cache(maxsize=256)
def parse_expression(expression: str) -> tuple[sympy.Basic, ...]:
    """Parse one expression with math-verify. Return its possible readings, the best first, or () if there is none."""
    if _UNREADABLE.search(expression):
        return ()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no timeout, but callers set one
    # Without dollars `3\sqrt{13}` would be parsed as 3, and any number in a text would be accepted.
    expression = _with_one_index(expression)
    text = "$" + _distinct_letters(expression).replace("%", r"\%") + "$"
    # `units` stays off: units are already compared, and math-verify would remove the h of 2h as one.
    spelling = NormalizationConfig(nits=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(normalization_config=spelling)
    readings = parse(text, [config], parsing_timeout=None, fallback_mode="no_fallback")
    try:
        return tuple(
            _evaluated(_with_constants(reading)) if isinstance(reading, sympy.Expr) else reading for reading in readings
        )
    except _NO_VALUE:  # such as a power of a matrix that is not square
        return ()


def _evaluated(expression: sympy.Expr) -> sympy.Expr:
    """Return the value of a sum, product, integral or limit without free letters, if sympy finds it.

    Comparing such expressions as they are takes seconds.
    """
    if not expression.has(*_OPERATIONS) or expression.free_symbols:
        return expression
    try:
        value = expression.doit()
    except _NO_VALUE:
        return expression
    return value if _is_scalar(value) else expression


def _with_constants(expression: sympy.Expr) -> sympy.Expr:
    """Return `expression` with the imaginary unit for the letter i, unless i is the index of a sum or product.

    Odd roots of negative numbers become real.
    """
    units = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
    expression = expression.subs(dict.fromkeys(units, sympy.I)) if units else expression
    roots = [power for power in expression.atoms(sympy.Pow) if _is_odd_root(power)]
    return expression.xreplace({root: -((-root.base) ** root.exp) for root in roots}) if roots else expression


def _is_odd_root(power: sympy.Pow) -> bool:
    exponent = power.exp
    is_root = exponent.is_Rational and exponent.p == 1 and exponent.q % 2 == 1 and exponent.q > 1
    return bool(is_root and power.base.is_number and power.base.is_negative)


def _with_one_index(expression: str) -> str:
    """Return `expression` with k as the index of its sums and products, if they have one index and k is not in use."""
    indices = set(_INDEX.findall(expression))
    if len(indices) != 1 or "k" in letters(expression):
        return expression
    return rename(expression, {indices.pop(): "k"})


def _distinct_letters(expression: str) -> str:
    """Return `expression` with other names for capitals, letters with primes, and Greek letters that are numbers.

    The constant of integration may have either case.
    """

    def renamed(match: re.Match[str]) -> str:
        if match["letter"] is None:
            return match.group()
        letter, marks = match["letter"].lstrip("\\"), "prime" * len(match["primes"] + match["more"])
        index = _CAPITAL.sub(lambda capital: f"upper{capital[0].lower()}", match["index"] or "")
        if letter[0].isupper() or len(letter) > 1:  # not as e_{upper}, because e with an index is unreadable
            case = "upper" if letter[0].isupper() else "lower"
            return f"x_{{{case}{letter.lower()}{marks}{index}}} "
        return f"{letter}_{{{marks}{index}}}" if marks or index != (match["index"] or "") else match.group()

    return _LETTERS.sub(renamed, _CONSTANT.sub("+c", expression))


def _differ(gold: sympy.Basic, target: sympy.Basic) -> bool:
    r"""Return whether two expressions certainly differ, because their values at one point differ.

    This numerical check avoids most of the algebra. It also tells values apart that are too close for
    math-verify, which considers 2^{-99}\pi equal to 0.
    """
    if isinstance(gold, Relational) and isinstance(target, Relational):
        # math-verify considers all relations without a solution equal.
        if {symbol.name for symbol in gold.free_symbols} != {symbol.name for symbol in target.free_symbols}:
            return True
        return isinstance(gold, sympy.Eq) and isinstance(target, sympy.Eq) and not _same_equation(gold, target)
    if not (_is_scalar(gold) and _is_scalar(target)):
        return False
    names = sorted({symbol.name for symbol in gold.free_symbols | target.free_symbols})
    try:
        a, b = (
            _value(scalar, {symbol: 1 + _STEP * (1 + names.index(symbol.name)) for symbol in scalar.free_symbols})
            for scalar in (gold, target)
        )
        return bool(a.is_finite and b.is_finite and abs(a - b) > _tolerance(gold, target) * abs(a))
    except (ArithmeticError, TypeError, ValueError, RecursionError):  # an expression has no value at this point
        return False


def _value(scalar: sympy.Basic, symbols: Mapping[sympy.Symbol, sympy.Rational]) -> sympy.Basic:
    """Return the value of a scalar with 30 digits, or 0 if its terms cancel, such that no digit is certain."""
    value = scalar.evalf(_DIGITS, subs=symbols)
    if abs(value) >= _NOISE:
        return value
    try:
        return scalar.evalf(_DIGITS, subs=symbols, strict=True)
    except PrecisionExhausted:
        return sympy.Integer(0)


def _same_equation(gold: sympy.Eq, target: sympy.Eq) -> bool:
    """Return whether two equations have the same roots, or have the same sides if no root is found."""
    if not all(isinstance(side, sympy.Expr) for equation in (gold, target) for side in equation.args):
        return set(gold.args) == set(target.args)  # sets have neither roots nor differences
    same = have_same_roots(gold, target)
    if same is None:
        return {gold.lhs, gold.rhs} == {target.lhs, target.rhs} or (gold.lhs - gold.rhs).equals(target.lhs - target.rhs)
    return same


def _tolerance(gold: sympy.Basic, target: sympy.Basic) -> float:
    """Return the largest relative difference of the values of two expressions that may be equal."""
    decimals = [expression for expression in (gold, target) if expression.has(sympy.Float)]
    if len(decimals) == 1 and not decimals[0].has(sympy.NumberSymbol, sympy.Function, sympy.Pow):
        return _RELATIVE_OF_ROUNDED
    return _RELATIVE_OF_DECIMALS if decimals else _RELATIVE


def _is_rounded(decimal: str, scalar: sympy.Basic) -> bool:
    """Return whether `decimal` has six or more significant digits, and a number without decimals rounds to it."""
    if "." not in decimal or not _is_scalar(scalar) or scalar.free_symbols or scalar.has(sympy.Float):
        return False
    try:
        value = scalar.evalf(_DIGITS)
    except _NO_VALUE:
        return False
    return bool(value.is_Float) and is_rounded(decimal, Fraction(str(value)))


def _are_multiples(first: Relational, second: Relational) -> bool:
    """Return whether one equation or inequality is the other one, multiplied by a number."""
    kinds = [relation.rel_op.replace(">", "<") for relation in (first, second)]
    if kinds[0] != kinds[1]:
        return False
    sides = [
        relation.lhs - relation.rhs if "<" in relation.rel_op else relation.rhs - relation.lhs
        for relation in (first, second)
    ]
    if not all(map(_is_scalar, sides)) or sides[1] == 0:
        return False
    ratio = sympy.cancel(sides[0] / sides[1])
    return bool(ratio.is_number and (ratio.is_positive if "<" in kinds[0] else not ratio.is_zero))


def _equal_for_positive_letters(gold: sympy.Basic, target: sympy.Basic) -> bool:
    r"""Return whether two expressions are equal if the letters that must be positive in both are positive.

    A letter must be positive if it stands with an odd power in a product under a root or in a logarithm, as a and b in
    \sqrt{ab} and \ln\frac{a}{b}, and in no absolute value.
    """
    if not (_is_scalar(gold) and _is_scalar(target)):
        return False
    names = _positive_letters(gold) & _positive_letters(target)
    if not names:
        return False
    positive = {name: sympy.Symbol(name, positive=True) for name in names}
    a, b = (
        scalar.subs({symbol: positive[symbol.name] for symbol in scalar.free_symbols if symbol.name in positive})
        for scalar in (gold, target)
    )
    return sympy.simplify(sympy.expand_log(a - b)) == 0


def _positive_letters(scalar: sympy.Basic) -> set[str]:
    names = set[str]()
    for node in sympy.preorder_traversal(scalar):
        if isinstance(node, sympy.log) or (
            isinstance(node, sympy.Pow) and node.exp.is_Rational and node.exp.q % 2 == 0
        ):
            factors = node.args[0].as_powers_dict()
            if all(factor.is_Symbol or factor.is_positive for factor in factors):
                names |= {factor.name for factor, power in factors.items() if factor.is_Symbol and power.is_odd}
    return names - {symbol.name for absolute in scalar.atoms(sympy.Abs) for symbol in absolute.free_symbols}


def _is_scalar(expression: sympy.Basic) -> bool:
    if isinstance(expression, sympy.Symbol):
        return False
    return all(isinstance(node, _SCALARS) for node in sympy.preorder_traversal(expression))
