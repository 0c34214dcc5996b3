"""Checks values against type hints, and finds the nearest valid value for an error message."""

import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

from raml_trl.runtime.errors import InputError, shown

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "None",
}


def check_type(name: str, value: object, hint: object) -> None:
    """Check the `value` of the field `name` against a type hint.

    Raises:
        InputError: if `value` does not have this type. The message names the field, the value and the type.
    """
    if not has_type(value, hint):
        raise InputError(f"{name} must be {in_words(hint)}, got {shown(value)} ({type(value).__name__})")


def in_words(hint: object) -> str:
    """Return a type hint in words, such as "a whole number or None"."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    plain: Any = get_origin(hint) or hint
    return _WORDS.get(plain, getattr(plain, "__name__", str(plain)))


def allows_none(hint: object) -> bool:
    """Return whether a type hint allows None."""
    return has_type(None, hint)


def has_type(value: object, hint: object) -> bool:
    """Return whether `value` has the type of a type hint. A whole number counts as a float, but a bool as no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
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
