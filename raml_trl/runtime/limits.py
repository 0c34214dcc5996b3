"""Declares which values a setting may have, and refuses others before any work starts.

A config class declares the limits of its fields in the class variable `limits`. `check_settings` checks all fields.
Every refusal has the same form: the name of the setting, the allowed values, the given value, and the remedy.
"""

import errno
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from math import inf
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from raml_trl.runtime.errors import InputError, shown
from raml_trl.runtime.validation import allows_none, check_type


class Limit(Protocol):
    """The values that a setting may have."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, to follow "must be"."""
        ...

    def allows(self, value: object) -> bool:
        """Return whether the setting may have `value`. `check_setting` decides about None without calling this."""
        ...


Limits = Mapping[str, Limit]
"""Limits by name of the setting."""


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`.

    Args:
        whole: only whole numbers are allowed.
        above: `low` itself is not allowed.
        also: further allowed numbers, such as -1 for "no limit".
        required: None is refused, even if the type of the field allows it.
    """

    low: float
    high: float
    whole: bool = False
    above: bool = False
    also: tuple[float, ...] = ()
    required: bool = False

    @property
    def allowed(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low, high = _plain(self.low), _plain(self.high)
        between = f"{kind} above {low} and up to {high}" if self.above else f"{kind} from {low} to {high}"
        return " or ".join([*map(_plain, self.also), between])

    def allows(self, value: Any) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        if value in self.also:
            return True
        number: Any = value
        # Each comparison is False for NaN.
        within = self.low < number <= self.high if self.above else self.low <= number <= self.high
        return within and (not self.whole or isinstance(value, Integral))


@dataclass(frozen=True)
class Names:
    """The limit of a setting whose value must be one of the given names."""

    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.names)}"

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and (value.value if isinstance(value, Enum) else value) in self.names


@dataclass(frozen=True)
class Text:
    """A text of at most `longest` characters, without NUL and without half a surrogate pair.

    Neither files nor processes accept NUL and half a surrogate pair.
    """

    longest: int = 100_000

    @property
    def allowed(self) -> str:
        return f"a text of up to {self.longest:,} characters that UTF-8 can write, without NUL"

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and len(value) <= self.longest and "\0" not in value and _is_unicode(value)


@dataclass(frozen=True)
class PathName:
    """A path that the file system accepts. It need not exist."""

    allowed: str = "a path that the file system accepts: without NUL, not too long, and without a link to itself"

    def allows(self, value: object) -> bool:
        if not isinstance(value, str | os.PathLike) or not _is_unicode(os.fspath(value)):
            return False
        try:
            os.stat(value)
        except ValueError:  # NUL
            return False
        except OSError as error:
            return error.errno not in (errno.ELOOP, errno.ENAMETOOLONG)
        return True


@dataclass(frozen=True)
class FileName:
    """The path of a file that exists."""

    allowed: str = "the path of a file"

    def allows(self, value: object) -> bool:
        return PathName().allows(value) and os.path.isfile(str(value))


@dataclass(frozen=True)
class Matching:
    """A text that matches the regular expression `pattern` from start to end, in capital or small letters.

    `allowed` describes the pattern in words.
    """

    pattern: str
    allowed: str

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Flag:
    """A limit that allows true and false, or only one of the two if `values` has only one."""

    allowed: str = "true or false"
    values: tuple[bool, ...] = (True, False)

    def allows(self, value: object) -> bool:
        return isinstance(value, bool) and value in self.values


@dataclass(frozen=True)
class Nested:
    """A mapping of names to values. The command line takes it as a JSON object."""

    allowed: str = "a mapping of names to values"

    def allows(self, value: object) -> bool:
        if not isinstance(value, str):  # the libraries accept objects of their own as well
            return not isinstance(value, Real | list | tuple)
        try:
            return isinstance(json.loads(value), dict)
        except (ValueError, RecursionError):
            return False


@dataclass(frozen=True)
class Either:
    """A value that at least one of several limits allows."""

    limits: tuple[Limit, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(limit.allowed for limit in self.limits)

    def allows(self, value: object) -> bool:
        return any(limit.allows(value) for limit in self.limits)


@dataclass(frozen=True)
class Each:
    """A list of at most `longest` values, each of which `limit` allows."""

    limit: Limit
    longest: int = 10_000

    @property
    def allowed(self) -> str:
        return f"a list of up to {self.longest:,} values, each {self.limit.allowed}"

    def allows(self, value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) <= self.longest and all(map(self.limit.allows, value))


def whole(low: float, high: float, *, also: tuple[float, ...] = (), required: bool = False) -> Number:
    """Return a limit that allows whole numbers from `low` to `high`, and the numbers in `also`.

    None is allowed if the type of the field allows it and `required` is false.
    """
    return Number(low, high, whole=True, also=also, required=required)


def above(low: float, high: float) -> Number:
    """Return a limit that allows numbers above `low`, up to and including `high`."""
    return Number(low, high, above=True)


def names(*values: str) -> Names:
    """Return a limit that allows only the names in `values`."""
    return Names(values)


SEED = whole(0, 2**32 - 1)
"""The seeds that numpy and torch accept."""
COUNT = whole(1, 10**9)
"""A number of rows, steps or tokens."""
PROCESSES = whole(1, 4096)
SHARE = Number(0, 1)
TOP_P = above(0, 1)
TEXT = Text()
PATH = PathName()
FILE = FileName()
FLAG = Flag()
NESTED = Nested()


def check_settings(config: object) -> None:
    """Check the values of all fields of a config: the type if one of our classes declares the field, and the limit.

    Raises:
        InputError: if a value does not have the type of its field, or lies outside its limit.
    """
    config_class: Any = type(config)
    for check in checks_of(config_class):
        check_setting(check, getattr(config, check.name))


@dataclass(frozen=True)
class Check:
    """The checks of a field: its type, if one of our classes declares the field, and its limit, if it has one."""

    name: str
    hint: Any
    ours: bool
    limit: Limit | None
    default: object


def check_setting(check: Check, value: object) -> None:
    """Check `value`, the value of one field, by the checks of the field.

    Raises:
        InputError: if the value does not have the type of its field, or lies outside its limit.
    """
    limit = check.limit
    if check.ours and not isinstance(limit, Names | Number):
        check_type(check.name, value, check.hint)
    required = isinstance(limit, Number) and limit.required
    if limit is None or (value is None and allows_none(check.hint) and not required) or limit.allows(value):
        return
    raise InputError(f"{check.name} must be {limit.allowed}, got {shown(value)}: {_remedy(check, value)}")


def limits_of(config_class: type) -> dict[str, Limit]:
    """Return the limits of all fields of a config class, by name."""
    limits: dict[str, Limit] = {}
    for base in reversed(config_class.__mro__):
        limits |= vars(base).get("limits", {})
    return limits


@cache
def checks_of(config_class: Any) -> tuple[Check, ...]:
    """Return the checks of all fields of a config class."""
    hints, limits = get_type_hints(config_class), limits_of(config_class)
    ours = {name for base in config_class.__mro__ if "limits" in vars(base) for name in base.__annotations__}
    # A limit may name a field that only some releases of TRL have.
    return tuple(
        Check(
            field.name,
            hints[field.name],
            field.name in ours,
            limits.get(field.name) or _of_hint(hints[field.name]),
            default_of(field),
        )
        for field in fields(config_class)
        if field.init
    )


def _of_hint(hint: object) -> Limit | None:
    """Return the limit that a type hint implies: the names of a Literal, and text or a list of texts."""
    union = get_origin(hint) in (Union, UnionType)
    plain = [option for option in get_args(hint) if option is not type(None)] if union else [hint]
    if len(plain) != 1:
        return None
    if get_origin(plain[0]) is Literal:
        return Names(get_args(plain[0]))
    if plain[0] is str:
        return TEXT
    return Each(TEXT) if plain[0] == list[str] else None


def default_of(field: Field[Any]) -> object:
    """Return the default of a field, or MISSING if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _remedy(check: Check, value: object) -> str:
    if isinstance(check.limit, Names) and isinstance(value, str):
        near: Collection[str] = get_close_matches(value[:100], check.limit.names, n=1)
        if near:
            return f"did you mean {', '.join(near)}?"
    if check.default is MISSING or value == check.default:
        return "give such a value"
    return f"give such a value, or leave {check.name} out for its default {shown(check.default)}"


def _plain(number: float) -> str:
    """Write a limit without an exponent where that is short."""
    if number in (inf, -inf):
        return str(number)
    return f"{number:,}" if abs(number) < 10**12 and number == int(number) else f"{number:g}"


def _is_unicode(text: str | bytes) -> bool:
    try:
        os.fsdecode(text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
