"""Imports functions that a recipe names by their path, such as `package.module:function`."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import file_digest


def import_function(path: str, setting: str, others: Sequence[str]) -> Callable[..., Any]:
    """Import the function at `package.module:function` or `package.module.function`.

    Args:
        path: the path, a value of the setting.
        setting: name of the setting, for errors.
        others: the values of the setting that are no paths, for errors.

    Raises:
        InputError: if there is no such function.
    """
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    if not module or not name:
        raise InputError(
            f"{setting} must be {', '.join(others)}, or the path of a function such as package.module:function, "
            f"got {path!r}"
        )
    try:
        found = attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{setting} {path!r} cannot be imported ({error}): use {', '.join(others)}, or the path of a function in a "
            "module that Python finds, for example a file in the current directory"
        ) from error
    if not callable(found):
        raise InputError(f"{setting} {path!r} is a {type(found).__name__}, not a function")
    return cast(Callable[..., Any], found)


def source_digest(path: str) -> str | None:
    """Return a hash of the file that defines the function at `path`; None if there is no such file.

    `path` is `package.module:function` or `package.module.function`.
    """
    module = path.partition(":")[0] if ":" in path else path.rpartition(".")[0]
    try:
        spec = find_spec(module) if module else None
    except (ImportError, ValueError):  # a package of the path is missing, or the module has no spec
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return file_digest(Path(spec.origin))


def check_arguments(
    function: Callable[..., Any], name: str, takes: str, *arguments: object, **keywords: object
) -> None:
    """Check that a function can be called with these arguments.

    Args:
        function: the function.
        name: the setting and the path of the function, for errors.
        takes: what the function must take, for errors.
        arguments: the positional arguments.
        keywords: the keyword arguments.

    Raises:
        InputError: if the function takes other arguments.
    """
    try:
        signature(function).bind(*arguments, **keywords)
    except (TypeError, ValueError) as error:  # ValueError: a function in C whose arguments Python does not know
        raise InputError(f"{name} must take {takes}: {error}") from error
