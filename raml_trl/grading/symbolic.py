r"""Compares two expressions with computer algebra. Only this module and `roots` import math-verify or sympy.

Importing this module takes about a second, and most pairs need no algebra, so `grader` imports it on first use. A
comparison may take any amount of time and memory, so callers must limit them.
"""

import logging
import re
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.relational import Relational
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from raml_trl.grading.roots import have_same_roots

_DIGITS = 15
_RELATIVE = 1e-5  # decimals are often rounded to six digits
_STEP = 0.37  # distance between the values that two symbols get in a numerical comparison

_UNREADABLE = re.compile(r"\\(?:[hv]?phantom|[bx]?cancel|not)(?![A-Za-z])|[0-9] +[0-9]")  # hidden, denied, ambiguous
_NAMES = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_CONSTANT = re.compile(r"\+ *[Cc] *$")

# Types of expressions that evaluate quickly and reliably. Matrices, sums and infinities are not among them.
_NUMBERS = (sympy.Rational, sympy.Float, sympy.NumberSymbol, sympy.core.numbers.ImaginaryUnit, sympy.Symbol)
_FUNCTIONS = (sympy.exp, sympy.log, sympy.Abs, TrigonometricFunction, sympy.binomial, sympy.factorial)
_SCALARS = (sympy.Add, sympy.Mul, sympy.Pow, *_NUMBERS, *_FUNCTIONS)


def equal_expressions(predicted: str, answer: str) -> bool | None:
    """Return whether math-verify considers two expressions equal; None if it cannot parse one of them."""
    gold, target = parse_expression(answer), parse_expression(predicted)
    if not gold or not target:
        return None
    if _case_differs(predicted, answer):
        return False
    if _differ(gold[0], target[0]):
        return False
    # The last flag also compares an interval with an inequality.
    return verify(list(gold), list(target), allow_set_relation_comp=True, timeout_seconds=None)


@lru_cache(maxsize=256)
def parse_expression(expression: str) -> tuple[sympy.Basic, ...]:
    """Parse one expression with math-verify. Return its possible readings, the best first, or () if there is none."""
    if _UNREADABLE.search(expression):
        return ()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no timeout, but callers set one
    # Without dollars `3\sqrt{13}` would be parsed as 3, and any number in a text would be accepted.
    text = "$" + expression.replace("%", r"\%") + "$"
    # `units` stays off: units are already compared, and math-verify would remove the h of 2h as one.
    spelling = NormalizationConfig(nits=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(normalization_config=spelling)
    readings = parse(text, [config], parsing_timeout=None, fallback_mode="no_fallback")
    return tuple(_with_imaginary_unit(reading) if isinstance(reading, sympy.Expr) else reading for reading in readings)


def _with_imaginary_unit(expression: sympy.Expr) -> sympy.Expr:
    """Return `expression` with the imaginary unit for the letter i, unless i is the index of a sum or product."""
    letters = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
    return expression.subs(dict.fromkeys(letters, sympy.I)) if letters else expression


def _case_differs(predicted: str, answer: str) -> bool:
    """Return whether a letter is upper case in one expression and lower case in the other.

    math-verify ignores case. The constant of integration may have either case.
    """
    p, a = (set(_NAMES.findall(_CONSTANT.sub("", expression))) for expression in (predicted, answer))
    swapped = {
        name[:-1] + name[-1].swapcase() if len(name) == 1 else "\\" + name[1].swapcase() + name[2:] for name in p - a
    }
    return bool(swapped & a)


def _differ(gold: sympy.Basic, target: sympy.Basic) -> bool:
    r"""Return whether two expressions certainly differ, because their values at one point differ.

    This numerical check avoids most of the algebra. It also tells values apart that are too small for
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
            scalar.evalf(
                _DIGITS, subs={symbol: 1 + _STEP * (1 + names.index(symbol.name)) for symbol in scalar.free_symbols}
            )
            for scalar in (gold, target)
        )
        return bool(a.is_finite and b.is_finite and abs(a - b) > _RELATIVE * abs(a))
    except (ArithmeticError, TypeError, ValueError, RecursionError):  # an expression has no value at this point
        return False


def _same_equation(gold: sympy.Eq, target: sympy.Eq) -> bool:
    """Return whether two equations have the same roots, or have the same sides if no root is found."""
    same = have_same_roots(gold, target)
    if same is None:
        return {gold.lhs, gold.rhs} == {target.lhs, target.rhs} or (gold.lhs - gold.rhs).equals(target.lhs - target.rhs)
    return same


def _is_scalar(expression: sympy.Basic) -> bool:
    if isinstance(expression, sympy.Symbol):
        return False
    return all(isinstance(node, _SCALARS) for node in sympy.preorder_traversal(expression))
