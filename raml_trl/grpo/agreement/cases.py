"""Cases in which our trainer is compared with TRL's. A case is a set of settings and constructor arguments."""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

from trl import GRPOConfig, GRPOTrainer


@dataclass(frozen=True)
class Case:
    """The settings of one case. Both trainers train with them; `training.train` has defaults for all other settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GRPOConfig`."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the trainer's constructor. If `model` is a function, it makes the model for every training."""
    subclass: Callable[[type[GRPOTrainer]], type[GRPOTrainer]] | None = None
    """Function that makes a subclass of the trainer's class, as a user would write it."""
    prepare: Callable[[GRPOTrainer], None] | None = None
    """Function that is called with every trainer before it trains."""


def loss_cases() -> Iterator[Case]:
    """Yield cases for every loss type of the installed TRL, and for settings that change how the loss is computed."""
    yield Case("dapo, one step per generation", {"loss_type": "dapo"})
    several = {"steps_per_generation": 4}  # two optimizer steps for each generation
    for loss_type in choices("loss_type"):
        # luspo is made for ratios of sequences
        ratios = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
        yield Case(loss_type, {"loss_type": loss_type, **several, **ratios})
    for loss_type in ("dapo", "grpo"):
        yield Case(f"{loss_type}, beta", {"loss_type": loss_type, "beta": 0.1, **several})
        for level in choices("importance_sampling_level"):
            if level != GRPOConfig.importance_sampling_level:
                settings = {"loss_type": loss_type, "importance_sampling_level": level, **several}
                yield Case(f"{loss_type}, {level} ratios", settings)
    yield Case("two passes over a generation", {"num_iterations": 2})
    yield Case("mask_truncated_completions", {"mask_truncated_completions": True})


def choices(name: str) -> list[str]:
    """Return the strings that TRL's trainer compares its attribute `name` with, in alphabetical order.

    `GRPOConfig` does not list the values of fields such as `loss_type`, so they are read from the trainer's code.
    """
    found = set()
    for node in ast.walk(ast.parse(dedent(inspect.getsource(GRPOTrainer)))):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == name:
            constants = [part for side in node.comparators for part in ast.walk(side) if isinstance(part, ast.Constant)]
            found |= {constant.value for constant in constants if isinstance(constant.value, str)}
    return sorted(found)
