"""Reads times of day, such as `3:45 PM`, and compares them."""

import re
from dataclasses import dataclass
from math import gcd

_TIME = re.compile(
    r"(\d{1,2})(?:\s*:\s*([0-5]\d))?(?:\s*:\s*([0-5]\d))?(?:[\s,]*(?:o'clock)?\s*([ap])\.?\s?m\.?)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class TimeOfDay:
    """A time of day. `half` is "a" for AM, "p" for PM, and "" if the text has neither."""

    hour: int
    minute: int
    second: int
    half: str


def read_time(text: str) -> TimeOfDay | None:
    """Return the time of day that `text` spells, or None.

    An hour without minutes is read only with AM or PM: `3 PM` and `3:45` are times, `3` is not.
    """
    match = _TIME.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        return None
    hour, half = int(match[1]), (match[4] or "").lower()
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    return TimeOfDay(hour, int(match[2] or 0), int(match[3] or 0), half)


def may_be_ratio(time: TimeOfDay) -> bool:
    """Return whether a time may also be a ratio: it has no AM or PM, and the ratio would be in lowest terms."""
    return not time.half and gcd(time.hour, time.minute, time.second) == 1


def same_time(first: TimeOfDay, second: TimeOfDay) -> bool:
    """Return whether two times are equal. `3:45` equals `3:45 AM` and `3:45 PM`, and `15:45` equals `3:45 PM`."""
    if (first.minute, first.second) != (second.minute, second.second):
        return False
    hours = [{time.hour} if not time.half else {time.hour % 12 + 12 * (time.half == "p")} for time in (first, second)]
    if first.half and second.half:
        return hours[0] == hours[1]
    if first.half or second.half:
        with_half, bare = (first, second) if first.half else (second, first)
        return bare.hour == with_half.hour or {bare.hour} == hours[first.half == ""]
    return first.hour == second.hour
