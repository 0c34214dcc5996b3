"""Reads the learning curves of the trials of sweeps, and summarises them by setting.

A learning curve holds the values of a metric over optimizer steps. The trials of one setting differ only in the seed.
A summary has final values, a measure of how much the curves fluctuate, and the steps and seconds to reach given levels
(values of the metric).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median

import numpy as np

from raml_trl.evaluation.intervals import SeedMean, mean_over_seeds
from raml_trl.runtime.errors import InputError, count_of
from raml_trl.runtime.history import LogEntry, read_log_history, read_summary
from raml_trl.sweeps.sweep_file import SEED, Scalar, Settings

logger = logging.getLogger(__name__)

Setting = tuple[tuple[str, Scalar], ...]
"""The swept parameters of a setting, except the seed, as pairs of name and value."""

_EVALUATED = "eval_"


@dataclass(frozen=True)
class Trial:
    """A complete training run of a sweep, which was evaluated at `steps` (optimizer steps).

    `curves` holds, for each metric, its values at `steps`. `step_seconds` is the time of an optimizer step without
    evaluation: the median over steps if the trainer logs the time of each step (GRPO), otherwise the mean (SFT). A step
    generates `step_rollouts` rollouts and selects `step_rows` of them; both are 0 for SFT.
    """

    parameters: Settings
    steps: tuple[int, ...]
    curves: dict[str, tuple[float, ...]]
    step_seconds: float
    step_rollouts: int
    step_rows: int

    @property
    def seed(self) -> int:
        """The seed, by which trials are paired.

        Raises:
            InputError: if the sweep has no parameter `seed`, or its values are not whole numbers.
        """
        seed = self.parameters.get(SEED)
        if not isinstance(seed, int):
            raise InputError(
                f"trials are paired by seed, but the seed of {self.parameters} is {seed!r}: sweep the parameter seed, "
                "with whole numbers"
            )
        return seed

    def curve(self, metric: str) -> tuple[float, ...]:
        """Return the values of `metric` at `steps`.

        Raises:
            InputError: if the evaluations of the trial do not have this metric.
        """
        if metric not in self.curves:
            raise InputError(f"{self.parameters} has no evaluation of {metric!r}, only of {', '.join(self.curves)}")
        return self.curves[metric]


def read_trials(path: Path) -> dict[str, list[Trial]]:
    """Read the complete trials of all sweeps in `path`, and return them by the name of the sweep.

    Args:
        path: a directory with one directory for each sweep, or a `trials.json` that `weigh_claims` wrote.

    Raises:
        InputError: if `path` has no sweep, is another file, or a trial was not evaluated in training.
    """
    if path.is_file():
        return _read_stored_trials(path)
    sweeps: dict[str, list[Trial]] = {}
    for results in sorted(path.glob("*/sweep.json")):
        directory, trials = results.parent, json.loads(results.read_text(encoding="utf-8"))["trials"]
        complete = [trial for trial in trials if trial["status"] == "complete"]
        if len(complete) < len(trials):
            logger.warning("%s: %d of %d trials are not complete", directory, len(trials) - len(complete), len(trials))
        sweeps[directory.name] = [
            read_trial(directory / "trials" / trial["name"], trial["parameters"]) for trial in complete
        ]
    if not sweeps:
        raise InputError(f"sweeps {path} has no directory with a sweep.json: run `raml-trl sweep` first")
    return sweeps


def _read_stored_trials(path: Path) -> dict[str, list[Trial]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # it is not JSON or not UTF-8
        content = None
    if not isinstance(content, dict) or not all(map(_are_trials, content.values())):
        raise InputError(
            f"sweeps {path} is not a trials.json of weigh_claims: give such a file, or the directory that holds the "
            "output directories of sweep"
        )
    return {name: [_parse_trial(trial) for trial in trials] for name, trials in content.items()}


def _are_trials(content: object) -> bool:
    names = {entry.name for entry in fields(Trial)}
    return isinstance(content, list) and all(isinstance(trial, dict) and trial.keys() == names for trial in content)


def _parse_trial(content: Mapping[str, object]) -> Trial:
    steps, curves = content["steps"], content["curves"]
    assert isinstance(steps, list)
    assert isinstance(curves, dict)
    parsed = {"steps": tuple(steps), "curves": {name: tuple(values) for name, values in curves.items()}}
    return Trial(**{**content, **parsed})  # type: ignore[arg-type]  # the fields that asdict wrote


def read_trial(directory: Path, parameters: Settings) -> Trial:
    """Read the training run in `directory` as a trial with these `parameters`.

    Raises:
        InputError: if the run was not evaluated in training, or its log or summary is missing or damaged.
    """
    logs = read_log_history(directory)
    evaluations = [log for log in logs if f"{_EVALUATED}runtime" in log]
    if not evaluations:
        raise InputError(f"{directory} was never evaluated in training: set eval_strategy, eval_steps and eval_data")
    bounds = ("_low", "_high", "runtime")
    names = [name for name in evaluations[0] if name.startswith(_EVALUATED) and not name.endswith(bounds)]
    rows = round(next((log["rows/selected"] for log in logs if "rows/selected" in log), 0))
    return Trial(
        parameters=parameters,
        steps=tuple(int(log["step"]) for log in evaluations),
        curves={name.removeprefix(_EVALUATED): tuple(log[name] for log in evaluations) for name in names},
        step_seconds=_step_seconds(logs, evaluations),
        step_rollouts=_step_rollouts(directory, rows) if rows else 0,
        step_rows=rows,
    )


def _step_seconds(logs: Sequence[LogEntry], evaluations: Sequence[LogEntry]) -> float:
    seconds = [log["step_time"] for log in logs if "step_time" in log]
    if not seconds:
        evaluating = sum(log[f"{_EVALUATED}runtime"] for log in evaluations)
        seconds = [(log["train_runtime"] - evaluating) / log["step"] for log in logs if "train_runtime" in log]
    return median(seconds)


def _step_rollouts(directory: Path, rows: int) -> int:
    """Return the number of rollouts generated per step: selected rows × G / m."""
    summary = read_summary(directory)
    if summary is None:
        raise InputError(f"{directory} has no summary.json: run the trial again")
    return round(rows * summary["num_generations"] / summary["num_generations_update"])


def last(trial: Trial, metric: str) -> float:
    """Return the value of `metric` at the last evaluation."""
    return trial.curve(metric)[-1]


def steadiness(trial: Trial, metric: str) -> float:
    """Return minus the largest drop of the curve below its previous maximum; 0 if it never drops."""
    curve = np.asarray(trial.curve(metric))
    return float(-(np.maximum.accumulate(curve) - curve).max())


def value_at(trial: Trial, metric: str, steps: float) -> float:
    """Return the metric after `steps` steps, interpolated linearly between evaluations.

    Raises:
        InputError: if `steps` is before the first evaluation or after the last.
    """
    if not trial.steps[0] <= steps <= trial.steps[-1]:
        evaluated = f"evaluated from step {trial.steps[0]} to {trial.steps[-1]}"
        raise InputError(f"{trial.parameters} was {evaluated}, not at {steps:.4g}: change eval_steps or max_steps")
    return float(np.interp(steps, trial.steps, trial.curve(metric)))


def steps_to(trial: Trial, metric: str, level: float) -> int | None:
    """Return the step of the first evaluation at which the metric is at least `level`, or None if there is none."""
    curve = trial.curve(metric)
    return next((step for step, value in zip(trial.steps, curve, strict=True) if value >= level), None)


def mean_curve(trials: Sequence[Trial], metric: str) -> tuple[float, ...]:
    """Return the mean of the curves of `trials`.

    Raises:
        InputError: if the trials were evaluated at different steps.
    """
    first = trials[0]
    for trial in trials:
        if trial.steps != first.steps:
            raise InputError(
                f"{first.parameters} was evaluated at {count_of(len(first.steps), 'step')} up to {first.steps[-1]}, "
                f"but {trial.parameters} at {len(trial.steps)} up to {trial.steps[-1]}: run one of them again, with "
                "the eval_steps and max_steps of the other"
            )
    return tuple(np.mean([trial.curve(metric) for trial in trials], axis=0).tolist())


def first_step_at(steps: Sequence[int], curve: Sequence[float], level: float) -> float | None:
    """Return the step at which a curve first reaches `level`, interpolated between evaluations.

    `curve` has the values at `steps`, and must reach `level`. Return None if it has reached `level` already at the
    first evaluation.
    """
    after = int(np.argmax(np.asarray(curve) >= level))
    if after == 0:
        return None
    before = after - 1
    part = (level - curve[before]) / (curve[after] - curve[before])
    return steps[before] + part * (steps[after] - steps[before])


def by_setting(trials: Sequence[Trial]) -> dict[Setting, list[Trial]]:
    """Return the trials grouped by setting. The trials of a group differ only in the seed.

    A setting holds the swept parameters (those with several values among `trials`) except the seed. If none is swept,
    it holds all parameters except the seed. For example, a sweep over m, learning rate and seed has one group for each
    pair of m and learning rate.
    """
    names = [name for name in trials[0].parameters if name != SEED] if trials else []
    values = {name: {trial.parameters[name] for trial in trials} for name in names}
    swept = [name for name in names if len(values[name]) > 1] or names
    settings: dict[Setting, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: [_order(trial.parameters[name]) for name in swept]):
        settings.setdefault(tuple((name, trial.parameters[name]) for name in swept), []).append(trial)
    return settings


def _order(value: Scalar) -> tuple[bool, float, str]:
    """Sort key that puts numbers, by size, before strings."""
    number = float(value) if isinstance(value, int | float) else None
    return number is None, number or 0.0, str(value)


@dataclass(frozen=True)
class LevelReached:
    """How many seeds of a setting reach a `level` of the metric, and how fast.

    `reached` is the number of seeds that reach the level. `steps` is the step of the first evaluation at which the
    level is reached, as the median over all seeds. `seconds` is `steps` times the seconds of a step. Both are None
    unless all seeds reach the level.
    """

    level: float
    reached: int
    steps: float | None
    seconds: float | None


@dataclass(frozen=True)
class SettingSummary:
    """The results of one setting over its `n` seeds.

    `metrics` has the mean of each metric at the last evaluation, and `steadiness` is the mean of the function
    `steadiness` over seeds. `step_seconds` and `step_rollouts` are the seconds and the generated rollouts of a step, as
    medians. `steps` is the step of the last evaluation, the smallest over the seeds. `levels` says how fast given
    values of the metric are reached.
    """

    parameters: Settings
    n: int
    metrics: dict[str, SeedMean]
    steadiness: float
    steps: int
    step_seconds: float
    step_rollouts: int
    levels: list[LevelReached]

    def as_json(self) -> dict[str, object]:
        """Return the entry of this setting in `claims.json`."""
        metrics = {name: {"mean": mean.mean, "low": mean.low, "high": mean.high} for name, mean in self.metrics.items()}
        return {**asdict(self), "metrics": metrics}


def summarise_settings(trials: Sequence[Trial], *, metric: str, levels: Sequence[float]) -> list[SettingSummary]:
    """Return a summary of each setting over its seeds.

    Args:
        trials: all trials of one sweep.
        metric: the metric whose steadiness and levels are computed.
        levels: values of `metric`; the summary says how fast each value is reached.
    """
    summaries = []
    for parameters, group in by_setting(trials).items():
        step_seconds = median(trial.step_seconds for trial in group)
        summaries.append(
            SettingSummary(
                parameters=dict(parameters),
                n=len(group),
                metrics={name: mean_over_seeds([last(trial, name) for trial in group]) for name in group[0].curves},
                steadiness=fmean(steadiness(trial, metric) for trial in group),
                steps=min(trial.steps[-1] for trial in group),
                step_seconds=step_seconds,
                step_rollouts=round(median(trial.step_rollouts for trial in group)),
                levels=[_level_reached(group, metric, level, step_seconds) for level in levels],
            )
        )
    return summaries


def _level_reached(trials: Sequence[Trial], metric: str, level: float, step_seconds: float) -> LevelReached:
    reached = [step for trial in trials if (step := steps_to(trial, metric, level)) is not None]
    steps: float | None = median(reached) if len(reached) == len(trials) else None
    return LevelReached(level, len(reached), steps, steps and steps * step_seconds)
