"""Runs a function in the first process of a launch only."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list

from raml_trl.runtime.errors import InputError, RepeatedError
from raml_trl.runtime.runs import is_first_process

T = TypeVar("T")


def from_first_process(function: Callable[[], T]) -> T:
    """Call `function` in the first process of the launch, and return its result in every process.

    The other processes wait. The launch may extend over several machines.

    Raises:
        InputError: if `function` raises it, also in the other processes.
    """
    outcome: list[Any] = [None, None]  # the result, and the error
    if is_first_process():
        try:
            outcome[0] = function()
        except InputError as error:
            outcome[1] = str(error)
    result, refusal = broadcast_object_list(outcome)
    if refusal is not None:
        raise InputError(refusal) if is_first_process() else RepeatedError(refusal)
    return cast(T, result)
