"""Checks of what a user wrote in a config: types, minimums, and the nearest values that would have worked."""

import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raml_trl.runtime.errors import InputError


def check_types(config: Any, declared_by: type) -> None:
    """Refuse values of the fields that the class `declared_by` adds whose type is not the one it declares.

    Neither YAML nor Python checks it. Every class checks its own fields, so a subclass has all of them checked.

    Raises:
        InputError: naming the field, its value and its type.
    """
    hints = get_type_hints(declared_by)
    for name in declared_by.__annotations__:
        check_type(name, getattr(config, name), hints[name])


def check_type(name: str, value: object, hint: Any) -> None:
    """Refuse `value` for the field `name` unless it is of type `hint`.

    Raises:
        InputError: naming the field, its value and its type.
    """
    if not _is_a(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InputError(f"{name} must be {wanted}, got {value!r} ({type(value).__name__})")


def _is_a(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_a(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_is_a(item, arguments[0]) for item in value)
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def check_at_least(config: Any, **minimums: int) -> None:
    """Refuse fields of `config` below their minimum; None passes.

    Raises:
        InputError: naming the field, its value and the minimum.
    """
    for name, minimum in minimums.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise InputError(f"{name} must be {minimum} or more, got {value}")


def nearest(value: int, works: Callable[[int], bool]) -> str:
    """The nearest positive values below and above `value` that work, as words."""
    limit = 100_000
    below = next((candidate for candidate in range(value - 1, 0, -1) if works(candidate)), None)
    above = next((candidate for candidate in range(value + 1, value + limit) if works(candidate)), None)
    return " or ".join(str(candidate) for candidate in (below, above) if candidate is not None) or "no value"
