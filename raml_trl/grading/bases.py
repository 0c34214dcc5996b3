"""Reads numbers with a base, such as `1101_2` and `2B_{16}`. Two are equal if digits and base are the same."""

import re
from dataclasses import dataclass

_BASED = re.compile(r"([0-9A-Fa-f]+) ?_ ?\{ ?(\w+) ?\}|([0-9A-F]+) \(?(?:in )?base (\w+)\)?")
_NUMERALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BASES = {numeral: base for base, numeral in enumerate(_NUMERALS, start=2)}


@dataclass(frozen=True)
class Based:
    """A numeral in a base that the answer names. Its digits are in upper case."""

    digits: str
    base: int


def read_based(text: str) -> Based | None:
    """Return the numeral with its base that `text` spells, or None."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    digits, base = match[1] or match[3], (match[2] or match[4]).lower()
    number = int(base) if base.isdecimal() else _BASES.get(base, 0)
    return Based(digits.upper(), number) if number and (digits.isdigit() or number > 10) else None
