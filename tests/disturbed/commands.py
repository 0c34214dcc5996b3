"""Starts commands in this process, and lists what they leave on the disk."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raml_trl import build_model, evaluate, plan, prepare_data, sample_trajectories, train_grpo, train_sft
from raml_trl.data.config import PrepareDataConfig
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.runtime.cli import run
from raml_trl.sampling.config import EvaluateConfig, SampleTrajectoriesConfig
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.training.config import CheckedModelConfig
from tests.helpers import REPOSITORY

TINY = REPOSITORY / "recipes" / "tiny" / "demo"
COMMANDS: dict[str, tuple[Any, ...]] = {
    "build_model": (build_model.main, build_model.BuildModelConfig),
    "prepare_data": (prepare_data.main, PrepareDataConfig),
    "sample_trajectories": (sample_trajectories.main, SampleTrajectoriesConfig),
    "evaluate": (evaluate.main, EvaluateConfig),
    "plan": (plan.main, PlanConfig),
    "train_sft": (train_sft.main, SFTArguments, CheckedSFTConfig, CheckedModelConfig),
    "train_grpo": (train_grpo.main, GRPOArguments, CheckedGRPOConfig, CheckedModelConfig),
}
RECIPES = {"train_grpo": "grpo", "train_sft": "sft", "evaluate": "eval", "build_model": "model", "plan": "plan"}


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code and standard error."""

    code: int
    error: str

    @property
    def last_line(self) -> str:
        return self.error.strip().splitlines()[-1]


@dataclass(frozen=True)
class Starter:
    """Starts commands in this process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, command: str, *, recipe: Path | None = None, **settings: object) -> Ended:
        """Start `command` with the recipe of the demo, or with another recipe, and with `settings`."""
        given = [word for name, value in settings.items() for word in (f"--{name}", *_words(value))]
        path = TINY / f"{RECIPES[command]}.yaml" if recipe is None and command in RECIPES else recipe
        config = [] if path is None else ["--config", str(path)]
        self.monkeypatch.setattr(sys, "argv", [command, *config, *given])
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS[command])
        code = stop.value.code
        return Ended(code if isinstance(code, int) else 1 if code else 0, self.capsys.readouterr().err)


def _words(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def listing(directory: Path) -> dict[str, int]:
    """Return the size of every file and directory below `directory`, by relative path."""
    return {str(path.relative_to(directory)): path.lstat().st_size for path in sorted(directory.rglob("*"))}
