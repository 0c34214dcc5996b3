"""Reads two files of a training run: `trainer_state.json`, which has the log, and `summary.json`, which has the costs.

transformers writes `trainer_state.json` in every training run. `train_grpo` writes `summary.json`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from raml_trl.runtime.errors import InputError

STATE_FILE = "trainer_state.json"
SUMMARY_FILE = "summary.json"

LogEntry = dict[str, float]
"""The numbers that were logged at one time, by metric name. `step` is the optimizer step at that time."""


class Speedup(TypedDict):
    """How many times as fast a step of the run is as a step that trains on all G rollouts with TRL's padding.

    The run trains on m of the G rollouts of a group.
    """

    estimated: float
    """The estimate for this run."""
    ceiling: float
    """The largest possible value if only the selection of m of G rollouts saves time."""


class CellSeconds(TypedDict):
    """The seconds that a cell adds to a micro-batch, fitted by least squares to the micro-batches of a run.

    They can be negative by chance. `low` and `high` are their 95 % interval, or None if the micro-batches do not
    determine it.
    """

    fitted: float
    low: float | None
    high: float | None


class Costs(TypedDict):
    """The time and tokens that a GRPO run spent.

    `seconds` has the seconds of each phase, such as generating or updating. `counts` has the numbers of rollouts,
    tokens and cells; a cell is a token position, padding included. `padding` is the share of padding among the cells of
    the updates. `later_updating` has the seconds of updating if the first micro-batch, which includes checks that run
    once, were like the others; older versions wrote neither it nor `cell_seconds`.
    """

    seconds: dict[str, float]
    later_updating: NotRequired[float]
    cell_seconds: NotRequired[CellSeconds]
    counts: dict[str, int]
    padding: float
    speedup: Speedup


class RunSummary(Costs):
    """The content of `summary.json`: the costs of a GRPO run, and the settings that determine the costs.

    The files of older versions lack `length_bucketing`, `skip_zero_advantage` and `shared_prompts`.
    """

    steps: int
    num_generations: int
    num_generations_update: int
    length_bucketing: NotRequired[bool]
    shared_prompts: NotRequired[bool]
    skip_zero_advantage: NotRequired[bool]


def read_log_history(directory: Path) -> list[LogEntry]:
    """Return the log entries of the training run in `directory`, in the order of logging.

    Values that are not numbers, such as texts and booleans, are left out.

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


def last_log(directory: Path) -> list[LogEntry]:
    """Return the log entries of a training run that may still be running: those that it has saved last.

    A run saves its log with every checkpoint. If the last log cannot be read, because it is being written or was
    damaged, the log of the checkpoint before it is returned. If no log can be read, the list is empty.
    """
    steps = {path: path.parent.name.rpartition("-")[2] for path in directory.glob(f"checkpoint-*/{STATE_FILE}")}
    checkpoints = sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: -int(steps[path]))
    for path in (directory / STATE_FILE, *checkpoints):
        try:
            return read_log_history(path.parent)
        except InputError:
            continue
    return []


def logged_curves(entries: Iterable[LogEntry]) -> dict[str, dict[int, float]]:
    """Return the curve of each metric: its values by optimizer step.

    NaN and infinity, such as the norm of a gradient that overflowed, and entries without a step are left out.
    """
    curves: dict[str, dict[int, float]] = {}
    for entry in entries:
        for name, value in entry.items():
            if "step" in entry and math.isfinite(value):
                curves.setdefault(name, {})[int(entry["step"])] = float(value)
    return curves


def read_summary(directory: Path) -> RunSummary | None:
    """Return the `summary.json` of the run in `directory`, or None if there is no such file.

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
    except (OSError, ValueError) as error:  # the file is missing, not JSON or not UTF-8
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read: it is not a JSON object")
    return content
