"""Compares answers that state something: equations, functions, inequalities, approximations, families of values."""

import re
from collections.abc import Sequence

from raml_trl.grading.answers import (
    Answer,
    Approximation,
    Equation,
    Family,
    Function,
    Inequality,
    Items,
    Number,
    Tuple,
    Words,
)
from raml_trl.grading.choices import Choice
from raml_trl.grading.estimates import GREEK
from raml_trl.grading.names import CONSTANTS, is_name, is_variable
from raml_trl.grading.notation import plain
from raml_trl.grading.numbers import exact
from raml_trl.grading.quantities import Quantity, changing_words
from raml_trl.grading.reading import read
from raml_trl.grading.tokens import letters, rename
from raml_trl.grading.verdicts import Comparison, Verdict, all_of, any_of

_DECIMAL = re.compile(r"[+-]?[0-9]*\.?([0-9]*)", re.ASCII)
_SUBSCRIPT = re.compile(r"_\{\w+\}$")
_APPLIED = re.compile(r"(?<![A-Za-z\\])[A-Z] ?\([^()]*\)")
_NO_DESCRIPTION = re.compile(r"[0-9]|^-|\\l?not|\\neg")
_LETTER = re.compile(rf"[A-Za-z]|\\(?:{GREEK})")
_MAX_RENAMED = 3
_NO_LETTERS = {"e", "i", *(rf"\{command}" for command in ("frac", "binom", "sqrt", "cdot", "times", "div", "pi"))}


def same_equation(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether the equation `p` equals the answer `a`; None if `comparison` cannot decide.

    A name such as `x` stands for the value on the other side of its `=`. Two chains of equations must have the same
    names: `AB = 5` is only a part of `AB = BC = 5`. For a comparison with a list or a tuple, `x = y = 3` counts as the
    list `x = 3, y = 3`.
    """
    assert isinstance(p.value, Equation)
    if isinstance(a.value, Items | Tuple) and len(_names(p.value)) > 1:
        value = _values(p.value)[-1]
        equations = [
            Answer(f"{name} = {value.text}", Equation(name, (read(name), value))) for name in sorted(_names(p.value))
        ]
        return comparison.same(Answer(p.text, Items(tuple(equations))), a)
    if not isinstance(a.value, Equation):
        described = p.value.name or (not comparison.swapped and _is_described(p.value))
        return all_of(comparison.same(value, a) for value in (_values(p.value) if described else p.value.members))
    names = [_names(equation) for equation in (p.value, a.value)]
    if p.value.name and a.value.name and _same_names(*names):
        values = _values(p.value), _values(a.value)
        chains = (comparison.same(value, chain[-1]) for chain in values for value in chain[:-1])
        return all_of((comparison.same(values[0][-1], values[1][-1]), *chains))
    if _same_name(p.value.name, a.value.name) or _are_values_of_letters(p.value, a.value):
        return False
    members = p.value.members, a.value.members
    if max(map(len, members)) > 2:  # algebra would compare only two members of a chain
        return len(members[0]) == len(members[1]) and all_of(map(comparison.same, *members))
    return comparison.expressions(plain(p.text), plain(a.text))


def _values(equation: Equation) -> tuple[Answer, ...]:
    """Return the last value of a chain of equations behind the earlier ones that have no other letters than it.

    In `S = ab = 2 + 3 = 5`, the values are 2 + 3 and 5.
    """
    values = [member for member in equation.members if not is_variable(plain(member.text))] or [equation.members[-1]]
    return tuple(value for value in values if _letters(value) <= _letters(values[-1]))


def _is_described(equation: Equation) -> bool:
    r"""Return whether the left side of an equation only says what the value is, as in `m + n = 41` and `|z| = 5`.

    Such a side has letters and no numbers, except in brackets as in `P(X = 2)`. With numbers it may be an equation to
    solve, as in `2x + 3 = 4`.
    """
    left = _APPLIED.sub("P", equation.members[0].text)
    names = [letters(plain(left)), letters(equation.members[-1].text)]
    unknowns = [[name for name in side if _LETTER.fullmatch(name) and name not in CONSTANTS] for side in names]
    return bool(unknowns[0]) and not unknowns[1] and not _NO_DESCRIPTION.search(left) and not changing_words(left)


def _letters(answer: Answer) -> set[str]:
    return set(letters(plain(answer.text))) - _NO_LETTERS


def _names(equation: Equation) -> set[str]:
    return {name for member in equation.members[:-1] if is_variable(name := plain(member.text))} | {equation.name}


def _same_names(first: set[str], second: set[str]) -> bool:
    """Return whether two chains have the same names. The subscripts of equal solutions may be missing on one side."""
    if first == second:
        return True
    bare = [{_SUBSCRIPT.sub("", name) for name in names} for names in (first, second)]
    return bare[0] == bare[1] and len(bare[0]) == 1 and bool(bare[0] & (first ^ second))


def _are_values_of_letters(first: Equation, second: Equation) -> bool:
    """Return whether two equations give different letters a value, and one of the values is a number."""
    equations = (first, second)
    simple = all(len(equation.members) == 2 and len(equation.name) == 1 for equation in equations)
    numbers = any(isinstance(equation.members[-1].value, Number) for equation in equations)
    return simple and numbers and first.name != second.name


def _same_name(first: str, second: str) -> bool:
    """Return whether two names are equal. The subscript of a solution, as in `x_1 = 3`, may be missing on one side."""
    if not first or not second:
        return False
    bare = [_SUBSCRIPT.sub("", name) for name in (first, second)]
    return first == second or (bare[0] == bare[1] and bare != [first, second] and (first in bare or second in bare))


def same_function(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether the function `p` equals the answer `a`; None if `comparison` cannot decide.

    `a` may be another function, an equation for y, or the expression of the value of the function.
    """
    assert isinstance(p.value, Function)
    if isinstance(a.value, Function):
        if a.value.name != p.value.name and "" not in (a.value.name, p.value.name):
            return False
        body = _with_arguments(p.value, a.value.arguments)
        return False if body is None else comparison.same(body, a.value.body)
    if isinstance(a.value, Equation):
        if a.value.name == "y" and len(a.value.members) == 2:
            return comparison.same(p.value.body, a.value.members[1])
        return comparison.expressions(plain(p.text), plain(a.text))
    return comparison.same(p.value.body, a)


def _with_arguments(function: Function, arguments: tuple[str, ...]) -> Answer | None:
    """Return the body of `function` with other names of its arguments; None if that changes its meaning."""
    if function.arguments == arguments:
        return function.body
    free = set(letters(function.body.text)) - set(function.arguments)
    if len(function.arguments) != len(arguments) or free & set(arguments):
        return None
    return read(rename(function.body.text, dict(zip(function.arguments, arguments, strict=True))))


def same_inequality(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two chains of inequalities have equal links in order; None if `comparison` cannot decide.

    A link consists of two neighbouring members of a chain and the sign between them. It equals its multiples: `2x < 4`
    equals `x < 2`.
    """
    assert isinstance(p.value, Inequality)
    assert isinstance(a.value, Inequality)
    if p.value.signs != a.value.signs:
        return False
    verdicts = list[Verdict]()
    for number, sign in enumerate(a.value.signs):
        pairs = [value.members[number : number + 2] for value in (p.value, a.value)]
        alike = all_of(comparison.spelled_alike(x, y) for x, y in zip(*pairs, strict=True))
        links = [f"{plain(low.text)} {sign} {plain(high.text)}" for low, high in pairs]
        verdicts.append(alike or comparison.expressions(*links))
    return all_of(verdicts)


def same_approximation(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    r"""Return whether the approximation `p` equals the answer `a`; None if `comparison` cannot decide.

    `\sqrt{2} \approx 1.41` equals both `1.41` and `\sqrt{2}`. If the decimal of `p` is not its rounded exact value, `p`
    equals no answer.
    """
    assert isinstance(p.value, Approximation)
    sides = [side for side in (p.value.exact, p.value.decimal) if side is not None]
    if isinstance(a.value, Approximation):
        others = [side for side in (a.value.exact, a.value.decimal) if side is not None]
        equal = all_of(map(comparison.same, reversed(sides), reversed(others)))
    else:
        equal = any_of(comparison.same(side, a) for side in sides)
    if p.value.exact is None:
        return equal
    consistent = [comparison.same(value, p.value.exact) for value in p.value.before]
    return all_of((equal, *consistent, _rounds(p.value.exact, p.value.decimal, comparison)))


def _rounds(value: Answer, rounded: Answer, comparison: Comparison) -> Verdict:
    decimal = rounded.value.value if isinstance(rounded.value, Quantity) else rounded.text
    number, match = exact(decimal), _DECIMAL.fullmatch(decimal)
    if number is None or match is None:
        return comparison.same(value, rounded)
    scale = 10 ** len(match[1])
    if isinstance(value.value, Number):
        return 2 * scale * abs(value.value.value - number) <= 1
    return comparison.expressions(
        rf"\lfloor ({plain(value.text)}) \cdot {scale} + \frac{{1}}{{2}} \rfloor", str(number * scale)
    )


def same_family(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    r"""Return whether `p`, which has free letters such as the integer k in `k\pi`, equals `a`.

    Two different domains of the letters make the answers different, but a domain may be missing in one of them. If the
    answers are not equal as they are written, they are compared a second time after `_renaming` of the letters of `p`.
    Return None if `comparison` cannot decide.
    """
    first, second = _as_family(p), _as_family(a)
    if first.domain and second.domain and first.domain != second.domain:
        return False
    equal = comparison.same(first.value, second.value)
    names = _renaming(first, second, swapped=comparison.swapped)
    return (
        equal
        if equal is True or not names
        else any_of((equal, comparison.same(read(rename(first.value.text, names)), second.value)))
    )


def _as_family(answer: Answer) -> Family:
    return answer.value if isinstance(answer.value, Family) else Family(answer, frozenset(), "")


def _renaming(first: Family, second: Family, *, swapped: bool) -> dict[str, str]:
    """Return new names for free letters of `first`, or {} if there are none. If `swapped`, `first` is the reference.

    The letters that only one of the two has are paired in order of appearance. The letters of the reference must be
    free: declared by the reference, or, if it declares none, declared by the predicted answer and `_may_be_free`. If
    the two have the same letters, those that both declare are paired, as in `2m + n` and `2n + m`.
    """
    p, a = _free_letters(first), _free_letters(second)
    left, right = ([name for name in names if name not in others] for names, others in ((p, a), (a, p)))
    reference, known, given = (first, left, right) if swapped else (second, right, left)
    if not left and not right:
        left, right = ([name for name in names if name in first.names & second.names] for names in (p, a))
    elif reference.names:
        if not reference.names.issuperset(known):
            return {}
    elif not (first.names | second.names).issuperset(given) or not _may_be_free(reference.value, known):
        return {}
    if len(left) != len(right) or len(left) > _MAX_RENAMED or left == right:
        return {}
    return dict(zip(left, right, strict=True))


def _may_be_free(answer: Answer, names: Sequence[str]) -> bool:
    """Return whether the letters `names` of a reference that declares none may be free.

    They may be free in a function. Elsewhere a single letter may be, such as C in `y = Ce^{2x}`, but not if it is the
    whole answer. Other letters usually come from the question.
    """
    match answer.value:
        case Function():
            return True
        case Choice() | Words():
            return False
        case Equation(name, members) if name:
            return _may_be_free(members[-1], names)
        case _:
            return len(names) == 1 and not is_name(answer.text)


def _free_letters(family: Family) -> list[str]:
    """Return the letters that may be free: none of a constant, a name that is defined, or an argument of a function."""
    match family.value.value:
        case Function(_, arguments, body):
            names = [name for name in letters(body.text) if name not in arguments]
        case Equation(name, members) if name:
            names = letters(members[-1].text)
        case _:
            names = letters(family.value.text)
    return [name for name in names if _LETTER.fullmatch(name) and (name not in CONSTANTS or name in family.names)]
