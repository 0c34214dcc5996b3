"""Reads the files that a training run leaves behind: the log in `trainer_state.json` and the costs in `summary.json`.

transformers writes the first into every run directory, `train_grpo` the second.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from raml_trl.runtime.errors import InputError

STATE_FILE = "trainer_state.json"
SUMMARY_FILE = "summary.json"

LogEntry = dict[str, float]
"""The numbers logged together, by name; `step` is the optimizer step at which they were logged."""


class Speedup(TypedDict):
    """Speed-up of a step over one that trains on all G rollouts."""

    estimated: float
    ceiling: float


class Costs(TypedDict):
    """The time and tokens that a GRPO run spent.

    `seconds` are by phase. `counts` hold rollouts, tokens and cells (tokens and padding). `padding` is the share of
    padding among the cells of the updates.
    """

    seconds: dict[str, float]
    counts: dict[str, int]
    padding: float
    speedup: Speedup


class RunSummary(Costs):
    """`summary.json`: the costs of a GRPO run, and the settings in effect that they depend on.

    Runs of older versions lack `length_bucketing` and `skip_zero_advantage`.
    """

    steps: int
    num_generations: int
    num_generations_update: int
    length_bucketing: NotRequired[bool]
    skip_zero_advantage: NotRequired[bool]


def read_log_history(directory: Path) -> list[LogEntry]:
    """Read the entries that the training run in `directory` logged, in order. Only their numbers are kept.

    Raises:
        InputError: if `trainer_state.json` is missing or damaged.
    """
    path = directory / STATE_FILE
    entries = _read_mapping(path).get("log_history")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} cannot be read: its log_history is not a list of log entries")
    return [
        {name: value for name, value in entry.items() if isinstance(value, int | float) and not isinstance(value, bool)}
        for entry in entries
    ]


def logged_curves(entries: Iterable[LogEntry]) -> dict[str, dict[int, float]]:
    """Return each logged quantity as its values by optimizer step, without NaN.

    An entry without a step is left out.
    """
    curves: dict[str, dict[int, float]] = {}
    for entry in entries:
        for name, value in entry.items():
            if "step" in entry and value == value:
                curves.setdefault(name, {})[int(entry["step"])] = float(value)
    return curves


def read_summary(directory: Path) -> RunSummary | None:
    """Read the time and tokens that the run in `directory` spent. Returns None if it kept no `summary.json`.

    Raises:
        InputError: if the file is damaged.
    """
    path = directory / SUMMARY_FILE
    if not path.exists():
        return None
    summary = _read_mapping(path)
    if not all(isinstance(summary.get(name), Mapping) for name in ("seconds", "counts", "speedup")):
        raise InputError(f"{path} cannot be read: it lacks seconds, counts or speedup")
    return cast(RunSummary, summary)


def _read_mapping(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # missing, no JSON, no UTF-8
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read: it is not a JSON object")
    return content
