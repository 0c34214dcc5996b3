"""Checks values against type hints, and finds the nearest valid value for an error message."""

import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

from raml_trl.runtime.errors import InputError, shown


def check_type(name: str, value: object, hint: object) -> None:
    """Check the `value` of the field `name` against a type hint.

    Raises:
        InputError: if `value` does not have this type. The message names the field, the value and the type.
    """
    if not _has_type(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InputError(f"{name} must be {wanted}, got {shown(value)} ({type(value).__name__})")


def allows_none(hint: object) -> bool:
    """Return whether a type hint allows None."""
    return _has_type(None, hint)


def _has_type(value: object, hint: object) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_has_type(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, arguments[0]) for item in value)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain = origin or hint
    assert isinstance(plain, type), hint
    return isinstance(value, plain)


def check_at_least(config: object, **minimums: int) -> None:
    """Check that each field of `config` named in `minimums` is None, or is not below the number given for it there.

    Raises:
        InputError: if a value is too small. The message names the field, the value and the minimum.
    """
    for name, minimum in minimums.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise InputError(f"{name} must be {minimum} or more, got {value}")


def nearest(value: int, works: Callable[[int], bool]) -> str:
    """Return the nearest positive integers below and above `value` for which `works` is true, such as "96 or 104".

    Only the 100,000 integers on each side are tried, so that the answer never takes long. If only one side has such an
    integer, the text names this one; if neither side has, the text is "no near value".
    """
    limit = 100_000
    below = next((candidate for candidate in range(value - 1, max(0, value - limit), -1) if works(candidate)), None)
    above = next((candidate for candidate in range(value + 1, value + limit) if works(candidate)), None)
    return " or ".join(str(candidate) for candidate in (below, above) if candidate is not None) or "no near value"
