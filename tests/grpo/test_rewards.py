"""The setting `reward_funcs` of train_grpo: the paper's reward, and functions of the user."""

import pytest

from raml_trl.grpo.rewards import find_rewards
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
        (["tests.helpers.trainers:nothing"], None, "trainers:nothing' cannot be imported .*PYTHONPATH"),
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
