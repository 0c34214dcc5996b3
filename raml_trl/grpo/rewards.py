"""Makes the reward functions that TRL calls: the paper's, and functions of the user.

Source of the paper's reward: RaML, arXiv 2505.19815, eq. 21.
"""

import math
import reprlib
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from raml_trl.grading.grader import Outcome
from raml_trl.grading.pool import GradingPool
from raml_trl.prompts import find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.functions import check_arguments, import_function
from raml_trl.runtime.rollout_table import CORRECT, FORMATTED

REWARDS: dict[tuple[bool, bool], float] = {
    (True, True): 1.0,
    (False, True): 0.0,
    (True, False): -0.5,
    (False, False): -1.0,
}
"""The reward for (correct, formatted), from eq. 21.

A wrong answer in the right format earns more than a correct answer in the wrong format. Use the metric `correct`, not
the reward, to count correct answers.
"""

ANSWER = "answer"
"""The name of the paper's reward in the setting `reward_funcs`."""

_NOT_COMPARED: tuple[Outcome, ...] = ("timeout", "crash", "unreadable answer", "unreadable reference")
_ARGUMENTS = ("prompts", "completions", "completion_ids", "answer", "trainer_state", "log_extra", "log_metric")
# TRL passes these to a reward function, and `train_grpo` the column `answer`


def find_rewards(names: Sequence[str], weights: Sequence[float] | None) -> dict[str, Callable[..., object] | None]:
    """Return the reward functions by name; None stands for `ANSWER`, which `make_reward` makes.

    Args:
        names: `ANSWER`, or paths of functions such as package.module:function.
        weights: TRL's `reward_weights`; None if all are 1.

    Raises:
        InputError: if a function cannot be imported or called as TRL calls it, if two functions have one name, or if
            the numbers of functions and weights differ.
    """
    found: dict[str, Callable[..., object] | None] = {}
    for name in names:
        function = None if name == ANSWER else import_function(name, "reward_funcs", [ANSWER])
        if function is not None:
            takes = f"the keyword arguments {', '.join(_ARGUMENTS)}, or **kwargs"
            check_arguments(function, f"reward_funcs {name!r}", takes, **dict.fromkeys(_ARGUMENTS))
        found[name] = function
    if len({_logged_name(name) for name in names}) < len(names):
        raise InputError(f"reward_funcs {', '.join(names)}: two functions have the same name, so TRL cannot log both")
    if not names:
        raise InputError(f"reward_funcs is empty: name {ANSWER}, or functions such as package.module:function")
    if weights is not None and len(weights) != len(names):
        raise InputError(f"reward_weights has {len(weights)} values, but reward_funcs names {len(names)} functions")
    return found


def checked_reward(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reward function that checks what `function` returns: a number for each completion, or None.

    None stands for a completion that the function does not judge. NaN, infinity and texts are refused. TRL logs the
    rewards under the last part of `name`.

    Args:
        name: the path of the function, from the setting `reward_funcs`.
        function: a function, an async function, or an object that can be called like one.

    Raises:
        InputError: when the new function is called and `function` returns something else.
    """
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):

        @wraps(function)
        async def checked(**columns: Any) -> list[float | None]:
            return _numbers(name, await function(**columns), len(columns["completions"]))

    else:

        @wraps(function)
        def checked(**columns: Any) -> list[float | None]:
            return _numbers(name, function(**columns), len(columns["completions"]))

    checked.__name__ = _logged_name(name)
    return checked


def _logged_name(name: str) -> str:
    return "answer_reward" if name == ANSWER else name.replace(":", ".").rpartition(".")[2]


def _numbers(name: str, rewards: Any, count: int) -> list[float | None]:
    needed = f"reward_funcs {name!r} must return a list of {count} numbers, one for each completion"
    try:
        values = list(rewards)
    except TypeError as error:
        raise InputError(f"{needed}, got a value of type {type(rewards).__name__}") from error
    if len(values) != count:
        raise InputError(f"{needed}, got {len(values)} values")
    for position, value in enumerate(values):
        try:
            usable = value is None or math.isfinite(value)
        except (TypeError, ValueError, OverflowError):  # no number, an array of several numbers, a huge integer
            usable = False
        if not usable:
            raise InputError(
                f"{needed}, or None for one that it does not judge, but value {position + 1} is {reprlib.repr(value)}"
            )
    return values


def make_reward(style: str, *, num_graders: int = 2) -> Callable[..., list[float]]:
    """Return a reward function for TRL.

    TRL calls the reward function with the completions and the dataset's `answer` column. A completion is a text, or a
    list of chat messages that ends with the model's message. The reward function logs the metrics `correct` and
    `formatted`, and adds the columns `raml/correct` and `raml/formatted` to TRL's table of completions. Answers that
    could not be compared count as wrong. Their share is logged for each reason: "timeout", "crash", "unreadable answer"
    and "unreadable reference".

    Args:
        style: style of the prompt, a key of `prompts.STYLES`.
        num_graders: maximum number of child processes that grade. They start when a completion first needs computer
            algebra, and end when the reward function is deleted or the interpreter exits.
    """
    find_style(style)
    pool = GradingPool(num_graders)

    def answer_reward(
        completions: Sequence[str | list[dict[str, str]]],
        answer: Sequence[str],
        log_metric: Callable[[str, float], None],
        log_extra: Callable[[str, list[bool]], None],
        **_columns: object,
    ) -> list[float]:
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        grades = pool.grade(list(zip(texts, answer, strict=True)), style=style)
        bits = {CORRECT: [grade.correct for grade in grades], FORMATTED: [grade.formatted for grade in grades]}
        for column, values in bits.items():
            log_metric(column.removeprefix("raml/"), sum(values) / len(values))
            log_extra(column, values)
        outcomes = Counter(grade.outcome for grade in grades)
        for outcome in _NOT_COMPARED:  # also if it is 0, because TRL averages only the values that are logged
            log_metric(outcome, outcomes[outcome] / len(grades))
        return [REWARDS[grade.correct, grade.formatted] for grade in grades]

    weakref.finalize(answer_reward, pool.close)
    return answer_reward
