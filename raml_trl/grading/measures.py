"""Compares quantities, times of day, dates and residue classes."""

import re

from raml_trl.grading.answers import Answer, Number, Ratio
from raml_trl.grading.clock import TimeOfDay, same_time
from raml_trl.grading.dates import Date, same_date
from raml_trl.grading.groups import same_ratio, same_ratio_and_number
from raml_trl.grading.notation import plain
from raml_trl.grading.numbers import exact
from raml_trl.grading.quantities import Quantity, counts_only, in_base_unit, units_differ
from raml_trl.grading.reading import read
from raml_trl.grading.remainders import ResidueClass
from raml_trl.grading.verdicts import Comparison, Verdict, all_of

_INTEGER = re.compile("[+-]?[0-9]+", re.ASCII)


def same_times(p: Answer, a: Answer, _comparison: Comparison) -> Verdict:
    """Return whether two times of day are equal."""
    assert isinstance(p.value, TimeOfDay)
    assert isinstance(a.value, TimeOfDay)
    return same_time(p.value, a.value)


def same_time_and_ratio(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether the time of day `p` equals `a`, a ratio or a number; None if `comparison` cannot decide.

    `3:15` may be meant as a ratio, so it equals 3/15. A time with AM or PM, or such as `3:05`, is never a ratio.
    """
    assert isinstance(p.value, TimeOfDay)
    if p.value.half or re.search(":0[0-9]", p.text):  # no ratio has such a number
        return False
    return same_ratio(p, a, comparison) if isinstance(a.value, Ratio) else same_ratio_and_number(p, a, comparison)


def same_dates(p: Answer, a: Answer, _comparison: Comparison) -> Verdict:
    """Return whether two dates are equal."""
    assert isinstance(p.value, Date)
    assert isinstance(a.value, Date)
    return same_date(p.value, a.value)


def same_residue_classes(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    r"""Return whether two residue classes are equal, as 3 and 10 modulo 7 are; None if `comparison` cannot decide.

    A residue must be an integer and not, for example, a power: `2^{9} \bmod 7` only repeats the question. A letter,
    such as x in `x \equiv 3 \pmod{7}`, may be missing in one of the two.
    """
    assert isinstance(p.value, ResidueClass)
    assert isinstance(a.value, ResidueClass)
    first, second = p.value, a.value
    if first.name != second.name and "" not in (first.name, second.name):
        return False
    modulus = exact(first.modulus)
    if modulus is None or modulus != exact(second.modulus) or not modulus:
        return all_of((comparison.same(read(first.modulus), read(second.modulus)), first.residues == second.residues))
    residues = [
        {int(text) % modulus if _INTEGER.fullmatch(text) else None for text in side.residues}
        for side in (first, second)
    ]
    return None not in residues[0] | residues[1] and residues[0] == residues[1]


def same_residue_and_number(p: Answer, a: Answer, _comparison: Comparison) -> Verdict:
    r"""Return whether the residue of the class `p` is the number `a`, and the smallest one that is not negative.

    `10 \bmod 7` does not equal 3, because it may only repeat the question.
    """
    assert isinstance(p.value, ResidueClass)
    assert isinstance(a.value, Number)
    modulus, residue = exact(p.value.modulus), p.value.residues[0]
    if p.value.name or len(p.value.residues) > 1 or modulus is None or not _INTEGER.fullmatch(residue):
        return False
    return int(residue) == a.value.value and 0 <= a.value.value < modulus


def same_quantities(p: Answer, a: Answer, comparison: Comparison) -> Verdict:
    """Return whether two answers, at least one of which is a quantity, are equal; None if `comparison` cannot decide.

    The unit may be missing in one of them. 50% equals 0.5, and also 50, because the question may ask for a percentage.
    180° equals pi.
    """
    first, second = (answer.value if isinstance(answer.value, Quantity) else Quantity(answer.text) for answer in (p, a))
    for angle, arc, place in ((first, second, 0), (second, first, 1)):
        if angle.unit == "degree" and arc.unit in ("", "radian") and r"\pi" in arc.value and r"\pi" not in angle.value:
            sides = rf"\frac{{\pi}}{{180}}({plain(angle.value)})", plain(arc.value)
            return comparison.expressions(sides[place], sides[1 - place])
    if units_differ(first, second):
        return False
    for counted, other in ((first, second), (second, first)):
        if not other.noun and not counts_only(counted):
            return comparison.expressions(plain(p.text), plain(a.text))
    p_number, a_number = exact(first.value), exact(second.value)
    if p_number is not None and a_number is not None and (first.unit == "%") != (second.unit == "%"):
        part, whole = (p_number, a_number) if first.unit == "%" else (a_number, p_number)
        return whole in (part, part / 100)
    if first.unit and second.unit and first.unit != second.unit:
        return comparison.same(read(in_base_unit(first)), read(in_base_unit(second)))
    return comparison.same(read(first.value), read(second.value))
