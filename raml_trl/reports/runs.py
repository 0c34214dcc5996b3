"""Training runs as a report reads them: what was set, what was logged, and where the seconds went."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import LogEntry, logged_curves, read_log_history
from raml_trl.runtime.runs import complete_record

TRAINING = ("train_sft", "train_grpo")


@dataclass(frozen=True)
class TrainingRun:
    """A complete run of `train_sft` or `train_grpo`. `logs` are the entries of its `log_history`."""

    directory: Path
    record: dict[str, Any]
    logs: list[LogEntry]

    @property
    def command(self) -> str:
        return self.record["command"]

    @property
    def settings(self) -> dict[str, Any]:
        return self.record["settings"]

    @property
    def seconds(self) -> float:
        return self.record["seconds"]

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 42))  # transformers' default

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """Every logged quantity, as its values by optimizer step."""
        return logged_curves(self.logs)


@dataclass(frozen=True)
class Seeds:
    """One training under one name: a run for each seed."""

    name: str
    runs: tuple[TrainingRun, ...]

    @property
    def command(self) -> str:
        return self.runs[0].command

    @property
    def seconds(self) -> float:
        """Of one run, their mean."""
        return sum(run.seconds for run in self.runs) / len(self.runs)


def read_training(directory: str | Path) -> TrainingRun:
    """The run in `directory`.

    Raises:
        InputError: if it holds no complete training run, or the log of it is missing or damaged.
    """
    record = complete_record(str(directory), *TRAINING)
    return TrainingRun(Path(directory), record, read_log_history(Path(directory)))


def read_seeds(named: Sequence[tuple[str, str]]) -> list[Seeds]:
    """Runs by name, in the order of the names; runs of one name are seeds of one training.

    Raises:
        InputError: if runs of one name are of two commands, or are the same run.
    """
    by_name: dict[str, list[TrainingRun]] = {}
    for name, directory in named:
        run = read_training(directory)
        others = by_name.setdefault(name, [])
        if others and others[0].command != run.command:
            raise InputError(
                f"runs named {name!r} are seeds of one training, but {others[0].directory} is of {others[0].command} "
                f"and {run.directory} of {run.command}: give them two names"
            )
        if any(run.directory.resolve() == other.directory.resolve() for other in others):
            raise InputError(f"run {directory} is given twice under the name {name!r}: it is one seed, not two")
        others.append(run)
    return [Seeds(name, tuple(runs)) for name, runs in by_name.items()]
