"""Compares the roots of two equations numerically.

This module is needed because math-verify considers two equations equal if it can solve neither of them.
"""

from collections.abc import Callable, Iterator

import sympy
from mpmath import mp, mpf
from sympy.core.function import AppliedUndef

_STARTS = (0.4, -1.3, 3.7, 11.0)  # points from which a root is searched
_STEP = 0.37  # distance between the values that two fixed symbols get
_SMALL = 1e-8  # largest value at a root, relative to a value beside it
_NO_VALUE = (ArithmeticError, TypeError, ValueError, KeyError, NameError)  # the function has no value at a point

Function = Callable[[mpf], mpf]


def have_same_roots(first: sympy.Eq, second: sympy.Eq) -> bool | None:
    """Find real roots of two equations, and return whether each one found is a root of both; None if none is found.

    Each search is for the value of one symbol, with fixed values for the other symbols. Values of functions such as
    f(0) count as symbols.
    """
    sides = [_unapplied(equation.lhs - equation.rhs) for equation in (first, second)]
    symbols = sorted({symbol for side in sides for symbol in side.free_symbols}, key=str)
    roots = 0
    for symbol in symbols:
        fixed = {other: 1 + _STEP * place for place, other in enumerate(symbols, start=1) if other != symbol}
        functions = [sympy.lambdify(symbol, side.subs(fixed), "mpmath") for side in sides]
        for one, other in (functions, functions[::-1]):
            for root in _roots(one):
                roots += 1
                if not _is_root(other, root):
                    return False
    return True if roots else None


def _unapplied(side: sympy.Expr) -> sympy.Expr:
    return side.replace(lambda node: isinstance(node, AppliedUndef), lambda node: sympy.Symbol(str(node)))


def _roots(function: Function) -> Iterator[mpf]:
    """Yield the real roots of `function` that a search from each of the starting points finds."""
    for start in _STARTS:
        try:
            root = mp.findroot(function, start)
        except _NO_VALUE:
            continue
        if isinstance(root, mpf):
            yield root


def _is_root(function: Function, root: mpf) -> bool:
    try:
        return bool(abs(function(root)) <= _SMALL * (1 + abs(function(root + 1))))
    except _NO_VALUE:
        return True  # nothing is known there
