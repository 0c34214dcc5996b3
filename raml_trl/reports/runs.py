"""Reads the training runs that a report shows: settings, logged quantities, and their curves averaged over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.figures import smooth
from raml_trl.reports.terms import QUANTITIES, is_metric, quantity_title, reward_function
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import LogEntry, last_log, logged_curves, read_log_history
from raml_trl.runtime.runs import complete_record, is_complete, is_run, read_record

TRAINING = ("train_sft", "train_grpo")

Curve = Mapping[int, float]
"""Values of a logged quantity by optimizer step."""

_WINDOWS = 20  # the moving mean of a long curve covers a twentieth of its steps
_POINTS = 400  # at most, per curve; a figure is fewer pixels wide


@dataclass(frozen=True)
class TrainingRun:
    """A run of `train_sft` or `train_grpo`. `record` is its `run.json`, `logs` are its log entries so far."""

    directory: Path
    record: Mapping[str, Any]
    logs: Sequence[LogEntry]

    @property
    def command(self) -> str:
        return self.record["command"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.record["settings"]

    @property
    def seconds(self) -> float:
        return self.record["seconds"]

    @property
    def processes(self) -> int:
        return self.record.get("results", {}).get("processes", 1)

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 42))  # transformers' default

    @property
    def num_generations(self) -> int:
        return int(self.settings.get("num_generations", 8))  # TRL's default

    @property
    def num_generations_update(self) -> int:
        m = self.settings.get("num_generations_update")
        return self.num_generations if m is None else int(m)

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """Every logged quantity, as its values by optimizer step."""
        return logged_curves(self.logs)


@dataclass(frozen=True)
class Seeds:
    """A training under the name that the report shows, with one run for each seed."""

    name: str
    runs: tuple[TrainingRun, ...]

    @property
    def command(self) -> str:
        return self.runs[0].command

    @property
    def seconds(self) -> float:
        """Mean duration of a run in seconds, over the seeds."""
        return sum(run.seconds for run in self.runs) / len(self.runs)


def read_training(directory: str | Path, *, so_far: bool = False) -> TrainingRun:
    """Read the training run in `directory`. With `so_far` it need not be complete.

    Raises:
        InputError: if `directory` holds no training run, the run is not complete and `so_far` is false, or the run is
            complete and its log is missing or damaged.
    """
    path = Path(directory)
    if so_far and is_run(str(path)) and not is_complete(path) and read_record(path)["command"] in TRAINING:
        return TrainingRun(path, read_record(path), last_log(path))
    return TrainingRun(path, complete_record(str(path), *TRAINING), read_log_history(path))


def read_seeds(named: Sequence[tuple[str, str]], *, so_far: bool = False) -> list[Seeds]:
    """Read runs given as (name, directory) and group them by name; runs with one name are seeds of one training.

    With `so_far`, runs need not be complete.

    Raises:
        InputError: if `read_training` raises it, if runs with one name come from different commands, or if a run is
            given twice under one name.
    """
    by_name: dict[str, list[TrainingRun]] = {}
    for name, directory in named:
        run = read_training(directory, so_far=so_far)
        others = by_name.setdefault(name, [])
        if others and others[0].command != run.command:
            raise InputError(
                f"runs named {name!r} must be seeds of one training, but {others[0].directory} is a run of "
                f"{others[0].command} and {run.directory} of {run.command}: give them different names"
            )
        if any(run.directory.resolve() == other.directory.resolve() for other in others):
            raise InputError(f"run {directory} is given twice under the name {name!r}: list each seed once")
        others.append(run)
    return [Seeds(name, tuple(runs)) for name, runs in by_name.items()]


@dataclass(frozen=True)
class Band:
    """A logged quantity at the optimizer steps `x`, averaged over `n` seeds.

    `low` and `high` are the 95 % interval of the mean, or None with a single seed. `window` is the number of values
    that the moving mean averages. `raw` has the values before smoothing; it is None with several seeds or without
    smoothing.
    """

    x: list[int]
    mean: list[float]
    low: list[float] | None
    high: list[float] | None
    n: int
    window: int
    raw: list[float] | None


@dataclass(frozen=True)
class CurveFigure:
    """A figure of one logged quantity. `lines` maps the name of each line to its mean curve and interval."""

    name: str
    title: str
    lines: dict[str, Band]


def average_curves(seeds: Sequence[Curve]) -> Band | None:
    """Average the curves of one quantity over seeds, with Student's 95 % interval, at the steps that all seeds logged.

    `seeds` holds one curve for each seed. Curves of 40 steps or more are first smoothed with a moving mean over a
    twentieth of the steps. Of more than 400 steps, at most 400 evenly spaced steps are kept.

    Returns:
        The band, or None if the seeds have no step in common.
    """
    steps = sorted(set.intersection(*(set(curve) for curve in seeds))) if seeds else []
    if not steps:
        return None
    window = max(1, len(steps) // _WINDOWS)
    values = [smooth([curve[step] for step in steps], window).tolist() for curve in seeds]
    stride = -(-len(steps) // _POINTS)
    kept = slice((len(steps) - 1) % stride, None, stride)  # keeps the last step
    at_steps = list(zip(*values, strict=True))[kept]
    bounds = [student_interval(at_step) for at_step in at_steps] if len(seeds) > 1 else None
    return Band(
        x=steps[kept],
        mean=[sum(at_step) / len(at_step) for at_step in at_steps],
        low=[low for low, _ in bounds] if bounds else None,
        high=[high for _, high in bounds] if bounds else None,
        n=len(seeds),
        window=window,
        raw=[seeds[0][step] for step in steps[kept]] if len(seeds) == 1 and window > 1 else None,
    )


def curve_figures(lines: Mapping[str, Sequence[TrainingRun]]) -> list[CurveFigure]:
    """Make one figure for each quantity that the report shows and the runs logged.

    `lines` maps the name of each line to the runs that the line averages, one for each seed.
    """
    figures = []
    for name in _quantities([run for runs in lines.values() for run in runs]):
        bands = {}
        for line, runs in lines.items():
            band = average_curves([run.curves[name] for run in runs if name in run.curves])
            if band is not None:
                bands[line] = band
        if bands:
            figures.append(CurveFigure(name, quantity_title(name), bands))
    return figures


def _quantities(runs: Sequence[TrainingRun]) -> list[str]:
    """Return the names of the quantities that get a figure, if a run logged them at two steps or more.

    The loss of GRPO gets none: apart from the effect of clipping it is zero, whatever the model learns. The means of
    the reward functions get figures if there are several functions; otherwise the mean reward shows the same.
    """
    logged = {name for run in runs for name, curve in run.curves.items() if len(curve) > 1}
    logged -= {"loss"} if runs and runs[0].command == "train_grpo" else set()
    held_out = sorted(filter(is_held_out, logged), key=metric_order)
    names, functions = list(QUANTITIES), sorted(filter(reward_function, logged))
    if len(functions) > 1:
        place = names.index("reward") + 1
        names[place:place] = functions
    return [*held_out, *(name for name in names if name in logged)]


def is_held_out(name: str) -> bool:
    """Return whether `name` is a metric of the evaluations during training."""
    return name.startswith("eval_") and is_metric(name)


def metric_order(name: str) -> tuple[int, str]:
    """Return a key that sorts metrics of evaluations in training: Pass@k and maj@k, then mG-Pass@k, then G-Pass@k."""
    return name.count("_"), name.replace("pass", "")
