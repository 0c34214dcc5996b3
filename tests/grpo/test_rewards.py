"""The setting `reward_funcs` of train_grpo: the paper's reward, and functions of the user."""

import asyncio
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import numpy as np
import pytest
import torch

from raml_trl.grpo.rewards import checked_reward, find_rewards
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import digit_reward, length_reward

DIGITS, LENGTH = "tests.helpers.trainers:digit_reward", "tests.helpers.trainers.length_reward"


def answer_reward(**_arguments: object) -> list[float]:
    """A function whose name TRL would log like the paper's reward."""
    return []


def without_columns(prompts: object, completions: object) -> list[float]:
    return []


def test_functions_are_found_in_order() -> None:
    found = find_rewards([LENGTH, "answer", DIGITS], [0.5, 1.0, 2.0])
    assert list(found.values()) == [length_reward, None, digit_reward]


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (["accuracy"], None, "reward_funcs must be answer, or the path of a function such as package.module:function"),
        (["tests.helpers.trainers:nothing"], None, "trainers:nothing' cannot be imported .*current directory"),
        (["tests.helpers.trainers:NUM_GENERATIONS"], None, "is a int, not a function"),
        (
            ["tests.grpo.test_rewards:without_columns"],
            None,
            r"must take the keyword arguments prompts, .*, or \*\*kwargs: got an unexpected keyword",
        ),
        (["builtins:max"], None, "must take the keyword arguments"),
        ([DIGITS, DIGITS], None, "two functions have the same name"),
        (["answer", "tests.grpo.test_rewards:answer_reward"], None, "two functions have the same name"),
        ([], None, "reward_funcs is empty: name answer"),
        (["answer", DIGITS], [1.0], "reward_weights has 1 values, but reward_funcs names 2 functions"),
    ],
)
def test_mistakes(names: list[str], weights: list[float] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_rewards(names, weights)


class Scores:
    """A reward function that is an object, and returns given rewards."""

    def __init__(self, rewards: object) -> None:
        self.rewards = rewards

    def __call__(self, completions: list[str], **_columns: object) -> Any:
        return self.rewards


class AsyncScores:
    async def __call__(self, **_columns: object) -> list[float]:
        return [2.0]


async def scores(completions: list[str], **_columns: object) -> list[float]:
    return [float(len(completion)) for completion in completions if completion != "skipped"]


@pytest.mark.parametrize(
    "rewards", [[1, None, 0.5], (True, 0.0, None), np.array([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])]
)
def test_rewards_reach_trl_as_they_are(rewards: Any) -> None:
    function = checked_reward("package.module:score", Scores(rewards))
    assert function.__name__ == "score"
    reached = function(completions=["a", "b", "c"], answer=["1"] * 3)
    assert all(value is reward or float(value) == reward for value, reward in zip(reached, rewards, strict=True))


def test_an_async_function_stays_one() -> None:
    function = checked_reward("package.module.scores", scores)
    assert iscoroutinefunction(function)
    assert asyncio.run(function(completions=["a", "bcd"])) == [1.0, 3.0]
    assert asyncio.run(checked_reward("package.module:scores", AsyncScores())(completions=["a"])) == [2.0]
    with pytest.raises(InputError, match="got 2 values"):
        asyncio.run(
            checked_reward("package.module:scores", partial(scores, answer=[]))(completions=["a", "b", "skipped"])
        )


@pytest.mark.parametrize(
    ("rewards", "fault"),
    [
        (None, "got a value of type NoneType"),
        (1.0, "got a value of type float"),
        ([1.0], "got 1 values"),
        ([1.0] * 4, "got 4 values"),
        ([1.0, "2", 3.0], "but value 2 is '2'"),
        ([1.0, 2.0, float("inf")], "but value 3 is inf"),
        ([1.0, float("nan"), 3.0], "but value 2 is nan"),
        ([1.0, 10**400, 3.0], "but value 2 is 1000"),
        ([1.0, [2.0], 3.0], r"but value 2 is \[2.0\]"),
        (np.ones((3, 2)), "but value 1 is array"),
    ],
)
def test_a_function_that_returns_something_else_is_named(rewards: object, fault: str) -> None:
    function = checked_reward("package.module:score", Scores(rewards))
    with pytest.raises(
        InputError, match=rf"^reward_funcs 'package.module:score' must return a list of 3 numbers.*{fault}"
    ):
        function(completions=["a", "b", "c"])
