"""Reads dates, such as `March 5, 2021` and `2021-03-05`, and compares them."""

import re
from dataclasses import dataclass

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?)"
_DAY = r"(?:the )?(?P<day>\d{1,2})(?:\s?(?:st|nd|rd|th)| ?\^\{(?:st|nd|rd|th)\})?"
_YEAR = r"(?P<year>\d{4})"
_DATES = [
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        rf"{_MONTH} {_DAY}(?:,? {_YEAR})?",
        rf"{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?",
        r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})",
        r"(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]",
    )
]
_MARK = re.compile(r"\d\s?-\s?\d|[a-z]{3}|月", re.IGNORECASE)


@dataclass(frozen=True)
class Date:
    """A day of a year. `year` is None if the text names no year."""

    year: int | None
    month: int
    day: int


def read_date(text: str) -> Date | None:
    """Return the date that `text` spells, or None.

    If day and month are both numbers, only the form 2021-03-05 is read: in 3/5/2021 either number may be the month.
    """
    if len(text) > 40 or not _MARK.search(text):
        return None
    text = " ".join(text.replace(" ,", ",").split())
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            month = match["month"].lower()
            number = int(month) if month.isdigit() else 1 + [name[:3] for name in _MONTHS].index(month[:3])
            date = Date(int(match["year"]) if match["year"] else None, number, int(match["day"]))
            return date if 1 <= date.month <= 12 and 1 <= date.day <= 31 else None
    return None


def same_date(first: Date, second: Date) -> bool:
    """Return whether two dates are equal. If a year is missing, only month and day count."""
    years = {first.year, second.year} - {None}
    return len(years) < 2 and (first.month, first.day) == (second.month, second.day)
