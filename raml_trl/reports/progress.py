"""Finds out which of the runs of a report can be shown while some of them are still running."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raml_trl.runtime.history import last_log
from raml_trl.runtime.runs import is_complete, is_run
from raml_trl.sweeps.study import has_trials

NamedPaths = Sequence[tuple[str, str]]
"""Names given by the user, each with a directory."""


@dataclass(frozen=True)
class Progress:
    """The runs, evaluations and sweeps that can be shown.

    `pending` has a sentence about each run, evaluation or sweep that is not complete.
    """

    runs: NamedPaths
    evaluations: NamedPaths
    sweeps: NamedPaths
    pending: list[str]


def find_progress(runs: NamedPaths, evaluations: NamedPaths, sweeps: NamedPaths) -> Progress:
    """Return what can be shown so far, of training runs, evaluations and sweeps given by name and directory.

    A training that is running is shown up to its last checkpoint, a sweep by its complete trials, and an evaluation
    once it is complete.
    """
    steps = {directory: _last_step(directory) for _, directory in runs}
    pending = [
        f"{name} is running, and shown up to its checkpoint of step {steps[directory]:,}."
        if steps[directory] is not None
        else _state(name, directory, "has no checkpoint yet")
        for name, directory in runs
        if not is_complete(Path(directory))
    ]
    unfinished = [(f"The evaluation {name}", directory) for name, directory in evaluations]
    unfinished += [(f"The sweep {name}", directory) for name, directory in sweeps]
    pending += [_state(name, path, "is running") for name, path in unfinished if not is_complete(Path(path))]
    return Progress(
        [(name, path) for name, path in runs if is_complete(Path(path)) or steps[path] is not None],
        [(name, path) for name, path in evaluations if is_complete(Path(path))],
        [(name, path) for name, path in sweeps if is_complete(Path(path)) or (is_run(path) and has_trials(Path(path)))],
        pending,
    )


def _last_step(directory: str) -> int | None:
    """Return the step of the last checkpoint of a run, or None if there is no log of it."""
    entries = last_log(Path(directory)) if is_run(directory) else []
    return max((int(entry["step"]) for entry in entries if "step" in entry), default=None)


def _state(name: str, directory: str, state: str) -> str:
    return f"{name} {state}." if is_run(directory) else f"{name} has not started."
