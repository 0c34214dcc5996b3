"""Compares answers with parts: lists, sets, tuples, matrices, ratios, intervals, unions, piecewise functions."""

import re
from collections import Counter
from collections.abc import Sequence

from raml_trl.grading.answers import (
    Answer,
    Cases,
    Equation,
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
)
from raml_trl.grading.clock import TimeOfDay
from raml_trl.grading.names import is_name
from raml_trl.grading.notation import compact, plain
from raml_trl.grading.reading import read
from raml_trl.grading.tokens import SEPARATORS, cut
from raml_trl.grading.verdicts import Comparison, Verdict, all_of

_MAX_UNORDERED = 32  # most parts that are compared in any order, beyond those that are spelled alike
_LARGEST = 10**300  # integer that is written out
_MAX_INTEGERS = 1_000  # most elements of a set of integers that is compared with a list
_LETTER = re.compile("[A-Za-z]")
_ZERO = read("0")
_OTHERWISE = ("otherwise", "else", "other", "其他")


def parts_of(answer: Answer) -> tuple[Answer, ...]:
    """Return the parts of a list, set, union, tuple or ratio. A time without AM or PM counts as a ratio."""
    value = answer.value
    if isinstance(value, TimeOfDay):
        return tuple(read(part) for part in answer.text.split(":"))
    assert isinstance(value, Items | SetOf | Union | Tuple | Ratio), value
    return value.parts


def same_unordered(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two lists or sets, `p` and `a`, have equal parts in any order.

    Return None if `comparison`, which compares the parts, cannot decide. If one of the two names all its values, as
    `x = 1, y = 2` does, and the other names none, the values are compared in order instead: those with names in the
    alphabetical order of the names, the others in the order in which they are written.
    """
    first, second = parts_of(p), parts_of(a)
    p_named, a_named = _by_name(first), _by_name(second)
    if (p_named is None) != (a_named is None) and not any(
        isinstance(x.value, Equation) for x in (first if a_named else second)
    ):
        return _in_order(p_named or first, a_named or second, comparison)
    return matched(first, second, comparison)


def same_ordered(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two tuples, or a tuple and a list, have equal parts in the same order.

    Return None if `comparison`, which compares the parts, cannot decide. Parts with names, as in `x = 1, y = 2`, are
    taken in the alphabetical order of the names.
    """
    return _in_order(_by_name(parts_of(p)) or parts_of(p), _by_name(parts_of(a)) or parts_of(a), comparison)


def _in_order(first: Sequence[Answer], second: Sequence[Answer], comparison: Comparison) -> Verdict:
    return len(first) == len(second) and all_of(map(comparison.same, first, second))


def _by_name(parts: Sequence[Answer]) -> list[Answer] | None:
    """Return the values of `x = 1, y = 2` in the order of the names, or None if there are other parts."""
    named = {part.value.name: part.value.members[-1] for part in parts if isinstance(part.value, Equation)}
    if len(named) < len(parts) or not all(map(_LETTER.fullmatch, named)):
        return None
    return [named[name] for name in sorted(named)]


def matched(first: Sequence[Answer], second: Sequence[Answer], comparison: Comparison) -> Verdict:
    """Return whether two groups of parts, such as two sets, are equal in any order.

    Parts that are spelled alike are paired first. If more than 32 parts remain, these are compared in their order.

    Return None if `comparison`, which compares the parts, cannot decide.
    """
    if len(first) != len(second):
        return False
    keys = [Counter(_key(part) for part in parts) for parts in (first, second)]
    unpaired, targets = (_without(parts, keys[0] & keys[1]) for parts in (first, second))
    if len(targets) > _MAX_UNORDERED:
        return _in_order(unpaired, targets, comparison)
    unknown = False
    for target in targets:
        verdicts = [comparison.spelled_alike(part, target) for part in unpaired]
        if True not in verdicts and not comparison.silent:
            verdicts = [
                comparison.same(part, target) if verdict is None else verdict
                for part, verdict in zip(unpaired, verdicts, strict=True)
            ]
        if True in verdicts:
            unpaired.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _key(part: Answer) -> object:
    return part.value.value if isinstance(part.value, Number) else compact(part.text)


def _without(parts: Sequence[Answer], counts: Counter[object]) -> list[Answer]:
    """Return `parts` without as many parts of each key as `counts` says."""
    left, kept = counts.copy(), list[Answer]()
    for part in parts:
        key = _key(part)
        if left[key]:
            left[key] -= 1
        else:
            kept.append(part)
    return kept


def same_interval(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two answers, `p` and `a`, describe the same interval.

    Each may be an interval, an inequality, or a pair such as `(1, 2)`, which counts as an open interval. Return None if
    `comparison`, which compares the ends, cannot decide.
    """
    first, second = as_interval(p), as_interval(a)
    if first is None or second is None:
        return comparison.expressions(plain(p.text), plain(a.text))
    if (first.has_low, first.has_high) != (second.has_low, second.has_high):
        return False
    return all_of((comparison.same(first.low, second.low), comparison.same(first.high, second.high)))


def as_interval(answer: Answer) -> Interval | None:
    r"""Return an answer as an interval, or None if it cannot be read as one.

    An inequality such as `3 < x \le 4` is read as `(3, 4]`, and a pair `(1, 2)` as the open interval.
    """
    match answer.value:
        case Interval() as interval:
            return interval
        case Tuple((low, high)):
            return Interval(low, high, False, False)
        case Inequality((low, name, high), (left, right)) if is_name(name.text):
            return Interval(low, high, left == r"\le", right == r"\le")
        case Inequality((name, high), (sign,)) if is_name(name.text):
            return Interval(read(r"-\infty"), high, False, sign == r"\le")
        case Inequality((low, name), (sign,)) if is_name(name.text):
            return Interval(low, read(r"\infty"), sign == r"\le", False)
        case _:
            return None


def same_interval_and_parts(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether the interval `p` equals `a`, a list or a union; None if `comparison` cannot decide.

    If `a` is a list, `p` is read as a list in brackets: `[1, 2]` equals the list `1, 2`.
    """
    assert isinstance(p.value, Interval)
    if isinstance(a.value, Items) and p.value.has_low and p.value.has_high:
        return _in_order((p.value.low, p.value.high), a.value.parts, comparison)
    return False if isinstance(a.value, Items) else comparison.expressions(plain(p.text), plain(a.text))


def same_bounds(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether a list of inequalities `p` and the answer `a` describe the same set of numbers.

    For example, `x < 1 or x > 3` equals `|x - 2| > 1`. A system, or a list with "and", describes no union. Return None
    if `comparison`, which compares the two sets, cannot decide.
    """
    signs = cut(p.text, SEPARATORS)[1]
    if not signs or any("and" in sign for sign in signs):
        return False
    intervals = [as_interval(part) if isinstance(part.value, Inequality) else None for part in parts_of(p)]
    unknowns = {member.text for part in parts_of(p) for member in _unknowns(part)} | {x.text for x in _unknowns(a)}
    if None in intervals or len(unknowns) > 1:
        return False
    ends = [{read(r"-\infty"), read(r"\infty")} & {interval.low, interval.high} for interval in intervals if interval]
    if sum(map(len, ends)) > len({end.text for found in ends for end in found}):
        return False  # `x > 1, x > 2` has another meaning
    brackets = [(interval, "(["[interval.has_low], ")]"[interval.has_high]) for interval in intervals if interval]
    union = r" \cup ".join(f"{low}{part.low.text}, {part.high.text}{high}" for part, low, high in brackets)
    return comparison.expressions(union, plain(a.text))


def _unknowns(answer: Answer) -> list[Answer]:
    """Return the names between or beside the bounds of an inequality."""
    value = answer.value
    return [member for member in value.members if is_name(member.text)] if isinstance(value, Inequality) else []


def same_union(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two unions, `p` and `a`, are equal; None if `comparison` cannot decide.

    First their parts are compared, in any order. If the parts do not match, the whole unions are compared as sets of
    numbers, because different parts may make the same union.
    """
    return matched(parts_of(p), parts_of(a), comparison) or comparison.expressions(plain(p.text), plain(a.text))


def same_set_builder(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether a set `p` given by a condition equals the answer `a`; None if `comparison` cannot decide."""
    assert isinstance(p.value, SetBuilder)
    if isinstance(a.value, SetBuilder):
        return p.value.domain == a.value.domain and all_of(
            (comparison.same(p.value.element, a.value.element), comparison.same(p.value.condition, a.value.condition))
        )
    if p.value.domain:
        integers = _integers(p.value)
        return (
            isinstance(a.value, SetOf | Items) and integers is not None and matched(integers, a.value.parts, comparison)
        )
    # The numbers 2x for all x > 1 are not the numbers above 1.
    return is_name(p.value.element.text) and comparison.same(p.value.condition, a)


def _integers(answer: SetBuilder) -> list[Answer] | None:
    """Return the integers in the interval that `answer` describes, or None if it describes another set."""
    interval = as_interval(answer.condition)
    if answer.domain != "Z" or interval is None:
        return None
    low, high = interval.low.value, interval.high.value
    if not isinstance(low, Number) or not isinstance(high, Number) or max(map(abs, (low.value, high.value))) > _LARGEST:
        return None
    first, last = -int(-low.value // 1), int(high.value // 1)
    first += not interval.has_low and first == low.value
    last -= not interval.has_high and last == high.value
    return [read(str(number)) for number in range(first, last + 1)] if last - first < _MAX_INTEGERS else None


def same_matrix(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two matrices have equal entries; None if `comparison`, which compares them, cannot decide."""
    assert isinstance(p.value, Matrix)
    assert isinstance(a.value, Matrix)
    if [len(row) for row in p.value.rows] != [len(row) for row in a.value.rows]:
        return False
    return all_of(
        comparison.same(x, y)
        for p_row, a_row in zip(p.value.rows, a.value.rows, strict=True)
        for x, y in zip(p_row, a_row, strict=True)
    )


def same_ratio(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two ratios are equal, as 2:4 and 1:2 are; None if `comparison` cannot decide.

    Equal ratios have zeros at the same places, and a part that is not zero.
    """
    first, second = parts_of(p), parts_of(a)
    if len(first) != len(second):
        return False
    zeros = [(comparison.same(x, _ZERO), comparison.same(_ZERO, y)) for x, y in zip(first, second, strict=True)]
    if any(None in pair for pair in zeros):
        return None
    if any(x != y for x, y in zeros) or (False, False) not in zeros:
        return False
    base = zeros.index((False, False))
    return all_of(
        comparison.same(_product(x, second[base]), _product(y, first[base]))
        for place, (x, y) in enumerate(zip(first, second, strict=True))
        if place != base
    )


def same_ratio_and_number(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether the answer `a` is the quotient of the ratio `p`, as 3/4 is that of 3:4.

    Return None if `comparison` cannot decide.
    """
    parts = parts_of(p)
    return len(parts) == 2 and comparison.same(_quotient(*parts), a)


def _quotient(above: Answer, below: Answer) -> Answer:
    return read(f"({above.text})/({below.text})")


def _product(first: Answer, second: Answer) -> Answer:
    return read(rf"({first.text}) \cdot ({second.text})")


def same_cases(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two piecewise functions, `p` and `a`, have equal pieces in any order.

    Two pieces are equal if their conditions and their values are equal. If only one of the functions has the condition
    "otherwise", it equals the one condition in the other that is left. Return None if `comparison`, which compares
    conditions and values, cannot decide.
    """
    assert isinstance(p.value, Cases)
    assert isinstance(a.value, Cases)
    # The piece with the condition "otherwise" comes last.
    first, second = (sorted(cases.rows, key=lambda row: _is_otherwise(row[1])) for cases in (p.value, a.value))
    others = [sum(_is_otherwise(condition) for _, condition in rows) for rows in (first, second)]
    if len(first) != len(second) or max(others) > 1:
        return False
    verdicts = list[Verdict]()
    for value, condition in second:
        fits = [_same_condition(row[1], condition, comparison) for row in first]
        if True in fits:
            place = fits.index(True)
        elif None in fits:
            return None
        elif sum(others) == 1 and (_is_otherwise(condition) or _is_otherwise(first[-1][1])):
            place = -1
        else:
            return False
        verdicts.append(comparison.same(first.pop(place)[0], value))
    return all_of(verdicts)


def _same_condition(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    if _is_otherwise(p) or _is_otherwise(a):
        return _is_otherwise(p) and _is_otherwise(a)
    return comparison.same(p, a)


def _is_otherwise(condition: Answer) -> bool:
    return condition.text in _OTHERWISE
