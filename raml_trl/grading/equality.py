r"""Decides whether two answers mean the same to a mathematician, as far as possible without symbolic algebra.

The tables below hold the rules. A rule compares answers of two given types, or answers of one given type with any other
answer. The caller passes the function `leaf`, which compares expressions. `docs/answers.md` says for each type which
answers count as equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from raml_trl.grading.answers import (
    Affirmation,
    Answer,
    Approximation,
    Cases,
    EmptySet,
    Equation,
    Expression,
    Family,
    Function,
    Inequality,
    Interval,
    Items,
    Matrix,
    Number,
    Ratio,
    SetBuilder,
    SetOf,
    Tuple,
    Union,
    Words,
)
from raml_trl.grading.bases import Based
from raml_trl.grading.choices import Choice, read_run
from raml_trl.grading.clock import TimeOfDay
from raml_trl.grading.dates import Date
from raml_trl.grading.estimates import estimate, is_unknown
from raml_trl.grading.groups import (
    same_bounds,
    same_cases,
    same_interval,
    same_interval_and_parts,
    same_matrix,
    same_ordered,
    same_ratio,
    same_ratio_and_number,
    same_set_builder,
    same_union,
    same_unordered,
)
from raml_trl.grading.measures import (
    same_dates,
    same_quantities,
    same_residue_and_number,
    same_residue_classes,
    same_time_and_ratio,
    same_times,
)
from raml_trl.grading.notation import compact, plain
from raml_trl.grading.numbers import same_number
from raml_trl.grading.quantities import Quantity, changing_words, currency, denying_words, units_differ
from raml_trl.grading.reading import read
from raml_trl.grading.remainders import Division, ResidueClass
from raml_trl.grading.rule import Leaf, Rule, undecided
from raml_trl.grading.statements import (
    same_approximation,
    same_equation,
    same_family,
    same_function,
    same_inequality,
)
from raml_trl.grading.verdicts import Compare, Comparison, Verdict, all_of, never
from raml_trl.grading.words import says_no_solution


def same(predicted: str, answer: str, leaf: Leaf, *, max_steps: float = inf) -> Verdict:
    """Return whether a predicted answer and a reference mean the same; None if this is undecided.

    `leaf(predicted, answer)` compares two expressions, which may be parts of the answers. The result is undecided if it
    depends on two expressions for which `leaf` returns None.

    Raises:
        TooManyStepsError: if more than `max_steps` comparisons of parts are needed, as for sets nested in sets.
    """
    p, a = _read_with_currency(predicted), _read_with_currency(answer)
    if isinstance(p.value, Function) and isinstance(a.value, Function):
        names = p.value.name, a.value.name
        if all(map(str.isalpha, names)):  # a single function may have any name, but no prime or power
            p = replace(p, value=replace(p.value, name=names[1]))
    return _Comparison(Rule(leaf, max_steps)).same(p, a)


def _read_with_currency(answer: str) -> Answer:
    """Return the meaning of an answer. The currency sign of an amount is its unit."""
    meaning, unit = read(answer), currency(answer)
    if unit and isinstance(meaning.value, Number):
        return replace(meaning, value=Quantity(meaning.text, unit))
    if unit and isinstance(meaning.value, Quantity) and not meaning.value.unit:
        return replace(meaning, value=replace(meaning.value, unit=unit))
    return meaning


def leaves(answer: str) -> list[str]:
    """Return the parts of `answer` that only algebra can compare, because they are neither numbers nor words."""
    return _leaves(read(answer))


def _leaves(answer: Answer) -> list[str]:
    match answer.value:
        case Items(parts) | SetOf(parts) | Union(parts) | Tuple(parts) | Ratio(parts):
            nested: Sequence[Answer] = parts
        case Matrix(rows) | Cases(rows):
            nested = [cell for row in rows for cell in row]
        case Interval(low, high):
            nested = [low, high]
        case Equation(name, members) if name:
            nested = members[-1:]
        case Function(_, _, body):
            nested = [body]
        case Approximation(_, decimal):
            nested = [decimal]
        case Family(value):
            nested = [value]
        case SetBuilder(element, _, condition):
            nested = [element, condition]
        case Quantity(text):
            nested = [read(text)]
        case Expression() | Equation() | Inequality():
            return [plain(answer.text)] if answer.text else []
        case _:
            return []
    return [leaf for part in nested for leaf in _leaves(part)]


@dataclass(frozen=True)
class _Comparison:
    """Compares answers by the tables, and expressions by `rule`. `swapped` says that the reference comes first."""

    rule: Rule
    swapped: bool = False

    @property
    def silent(self) -> bool:
        return self.rule.leaf is undecided

    def same(self, first: Answer, second: Answer) -> Verdict:
        self.rule.count_step()
        if not first.text or not second.text:
            return None
        if compact(first.text) == compact(second.text) and not _units_differ(first, second):
            return True
        kinds = type(first.value), type(second.value)
        compare = _RULES.get(kinds)
        if compare is not None:
            return compare(first, second, self)
        other = replace(self, swapped=not self.swapped)
        compare = _RULES.get(kinds[::-1])
        if compare is not None:
            return compare(second, first, other)
        for kind, compare_with_any in _RULES_WITH_ANY.items():
            if kind is kinds[0]:
                return compare_with_any(first, second, self)
            if kind is kinds[1]:
                return compare_with_any(second, first, other)
        return _same_expressions(first, second, self)

    def spelled_alike(self, first: Answer, second: Answer) -> Verdict:
        return _Comparison(self.rule.without_algebra()).same(first, second)

    def expressions(self, first: str, second: str) -> Verdict:
        if denying_words(first) != denying_words(second):  # algebra would ignore them, or read them as letters
            return False
        return self.rule(second, first) if self.swapped else self.rule(first, second)


def _units_differ(first: Answer, second: Answer) -> bool:
    """Return whether the units of two answers differ. Of a currency sign, the spelling shows nothing."""
    p, a = first.value, second.value
    return isinstance(p, Quantity) and isinstance(a, Quantity) and units_differ(p, a)


def _same_numbers(p: Answer, a: Answer, _comparison: Comparison) -> Verdict:
    return same_number(p.text, a.text)


def _same_number_and_expression(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Compare a number with an expression. A predicted expression that names something unknown is no number.

    If the reference names something unknown, the grader may have misread it. Then algebra decides.
    """
    if comparison.swapped and is_unknown(plain(a.text)):
        return False
    return _same_expressions(p, a, comparison)


def _same_expressions(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    # In algebra, `0 \text{ is wrong}` is a product of 0 and letters.
    equal = comparison.expressions(plain(p.text), plain(a.text))
    return equal and changing_words(p.text) == changing_words(a.text)


def _same_values(p: Answer, a: Answer, _comparison: Comparison) -> Verdict:
    return p.value == a.value


def _same_choices(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Compare a choice with any answer: with the same letters, in any order, or with the content of its option."""
    assert isinstance(p.value, Choice)
    other: Choice | None = a.value if isinstance(a.value, Choice) else None
    match a.value:
        case Tuple(parts) | SetOf(parts) if all(isinstance(part.value, Choice) for part in parts):
            other = Choice(frozenset(letter for part in parts for letter in part.value.letters))  # type: ignore[union-attr]
        case Expression() | Words() if len(p.value.letters) > 1:
            other = read_run(plain(a.text))
    if other is not None:
        letters = p.value.letters == other.letters
        if not (p.value.content and other.content):
            return letters
        return all_of([letters, comparison.same(read(p.value.content), read(other.content))])
    if p.value.content:
        return comparison.same(read(p.value.content), a)
    if isinstance(a.value, Expression) and len(plain(a.text)) > 1:
        return comparison.expressions(plain(p.text), plain(a.text))
    return False


def _same_group_and_expression(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Compare a tuple, an interval or another group with an expression. A number is no group."""
    number = isinstance(a.value, Expression) and estimate(plain(a.text)) is not None
    return False if number else comparison.expressions(plain(p.text), plain(a.text))


def _same_words(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Compare words with any answer. A name such as AB may also be a product."""
    assert isinstance(p.value, Words)
    if isinstance(a.value, EmptySet):
        return says_no_solution(p.value)
    return comparison.expressions(plain(p.text), plain(a.text)) if isinstance(a.value, Expression) else False


_RULES: dict[tuple[type, type], Compare] = {
    (Number, Number): _same_numbers,
    (Number, Expression): _same_number_and_expression,
    (TimeOfDay, TimeOfDay): same_times,
    (TimeOfDay, Ratio): same_time_and_ratio,
    (Date, Date): same_dates,
    (ResidueClass, ResidueClass): same_residue_classes,
    (ResidueClass, Number): same_residue_and_number,
    (Words, Words): _same_values,
    (EmptySet, EmptySet): _same_values,
    (Items, Items): same_unordered,
    (Items, SetOf): same_unordered,
    (Items, Union): same_unordered,
    (Items, Tuple): same_ordered,
    (Items, Number): never,
    (Items, Inequality): same_bounds,
    (Items, Expression): same_bounds,
    (SetOf, SetOf): same_unordered,
    (SetOf, Tuple): never,
    (SetOf, Number): never,
    (Union, Union): same_union,
    (Union, Number): never,
    (Tuple, Tuple): same_ordered,
    (Tuple, Interval): same_interval,
    (Tuple, Inequality): same_interval,
    (Tuple, Matrix): never,
    (Tuple, Number): never,
    (Interval, Interval): same_interval,
    (Interval, Inequality): same_interval,
    (Interval, Items): same_interval_and_parts,
    (Interval, Number): never,
    (Inequality, Inequality): same_inequality,
    (Inequality, Number): never,
    (Matrix, Matrix): same_matrix,
    (Matrix, Number): never,
    (Ratio, Ratio): same_ratio,
    (Cases, Cases): same_cases,
}
"""The rule for each pair of types, in either order."""

_RULES_WITH_ANY: dict[type, Compare] = {
    TimeOfDay: same_time_and_ratio,
    **dict.fromkeys((Date, Division, ResidueClass, Based, Affirmation), _same_values),
    Family: same_family,
    Approximation: same_approximation,
    Function: same_function,
    Equation: same_equation,
    SetBuilder: same_set_builder,
    Choice: _same_choices,
    Words: _same_words,
    EmptySet: never,
    Quantity: same_quantities,
    Ratio: same_ratio_and_number,
    Cases: never,
    **dict.fromkeys((Interval, Union, Tuple, SetOf, Matrix), _same_group_and_expression),
}
"""The rule for one type with any other type, for pairs that are not in `_RULES`.

If both types have a rule here, the one that comes first decides.
"""
