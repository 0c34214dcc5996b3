"""Supervised fine-tuning on K trajectories per question."""

from importlib import import_module
from typing import TYPE_CHECKING

from raml_trl.sft.choosing import choose

if TYPE_CHECKING:
    from raml_trl.sft.trainer import TrajectorySFTTrainer as TrajectorySFTTrainer

__all__ = ["TrajectorySFTTrainer", "choose"]


def __getattr__(name: str) -> object:
    """Import the trainer on first use, because it imports torch and TRL."""
    if name != "TrajectorySFTTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("raml_trl.sft.trainer"), name)
