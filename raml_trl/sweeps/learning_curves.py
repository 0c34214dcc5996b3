"""What a trial of a sweep is worth, from its evaluations in training: at its end, on the way, and for what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import read_log_history
from raml_trl.runtime.runs import read_record
from raml_trl.sweeps.sweep_file import SEED, Settings

Budget = Literal["steps", "seconds", "rollouts"]

_EVALUATED = "eval_"


@dataclass(frozen=True)
class Trial:
    """A training run that was evaluated on its way.

    `curves` has for each metric one value for each of `steps`, optimizer steps. `step_seconds` is the median over
    steps where the trainer says them (GRPO), else the mean, without the evaluations; `step_rollouts` is how many
    rollouts a step generates and `step_rows` how many of them it selects, 0 in SFT.
    """

    parameters: Settings
    steps: tuple[int, ...]
    curves: dict[str, tuple[float, ...]]
    step_seconds: float
    step_rollouts: int
    step_rows: int

    @property
    def seed(self) -> int:
        seed = self.parameters[SEED]
        assert isinstance(seed, int)
        return seed

    def curve(self, metric: str) -> tuple[float, ...]:
        """The values of `metric` at `steps`.

        Raises:
            InputError: if it was not evaluated.
        """
        if metric not in self.curves:
            there = ", ".join(self.curves)
            raise InputError(f"metric {metric!r} was not evaluated in {self.parameters}: there is {there}")
        return self.curves[metric]


def read_trial(directory: Path, parameters: Settings) -> Trial:
    """The trial whose run is in `directory`.

    Raises:
        InputError: if it was never evaluated, or its log is missing or damaged.
    """
    logs = read_log_history(directory)
    evaluations = [log for log in logs if f"{_EVALUATED}runtime" in log]
    if not evaluations:
        raise InputError(f"{directory} was never evaluated in training: set eval_strategy, eval_steps and eval_data")
    bounds = ("_low", "_high", "runtime")
    names = [name for name in evaluations[0] if name.startswith(_EVALUATED) and not name.endswith(bounds)]
    seconds = [log["step_time"] for log in logs if "step_time" in log]
    if not seconds:
        evaluating = sum(log[f"{_EVALUATED}runtime"] for log in evaluations)
        seconds = [(log["train_runtime"] - evaluating) / log["step"] for log in logs if "train_runtime" in log]
    rows = round(next((log["rows/selected"] for log in logs if "rows/selected" in log), 0))
    return Trial(
        parameters=parameters,
        steps=tuple(int(log["step"]) for log in evaluations),
        curves={name.removeprefix(_EVALUATED): tuple(log[name] for log in evaluations) for name in names},
        step_seconds=median(seconds),
        step_rollouts=_step_rollouts(read_record(directory)["settings"], rows),
        step_rows=rows,
    )


def _step_rollouts(settings: Mapping[str, Any], rows: int) -> int:
    """Of the rows that GRPO selects in a step, m are of one group of G."""
    g = int(settings.get("num_generations", 8))
    m = settings.get("num_generations_update")
    return round(rows * g / int(g if m is None else m))


def last(trial: Trial, metric: str) -> float:
    """The metric of the last evaluation."""
    return trial.curve(metric)[-1]


def steadiness(trial: Trial, metric: str) -> float:
    """Minus the deepest fall of the curve below what it had reached before; 0 if it never falls."""
    curve = np.asarray(trial.curve(metric))
    return float(-(np.maximum.accumulate(curve) - curve).max())


def value_at(trial: Trial, metric: str, steps: float) -> float:
    """The metric after a number of steps, between two evaluations on the line that joins them.

    Raises:
        InputError: if the first evaluation came later, or the last one earlier.
    """
    if not trial.steps[0] <= steps <= trial.steps[-1]:
        evaluated = f"evaluated from step {trial.steps[0]} to {trial.steps[-1]}"
        raise InputError(f"{trial.parameters} was {evaluated}, not at {steps:.4g}: change eval_steps or max_steps")
    return float(np.interp(steps, trial.steps, trial.curve(metric)))


def steps_to(trial: Trial, metric: str, level: float) -> int | None:
    """The step of the first evaluation at which the metric is at least `level`, or None."""
    curve = trial.curve(metric)
    return next((step for step, value in zip(trial.steps, curve, strict=True) if value >= level), None)


def mean_steps_to(trials: Sequence[Trial], metric: str, level: float) -> float | None:
    """After how many steps the mean curve of `trials` first has `level`, between two evaluations on a line.

    None if it has it at the first evaluation, or never.
    """
    curve = np.mean([trial.curve(metric) for trial in trials], axis=0)
    reached = np.flatnonzero(curve >= level)
    if not reached.size or not reached[0]:
        return None
    after = reached[0]
    before, steps = after - 1, trials[0].steps
    part = (level - curve[before]) / (curve[after] - curve[before])
    return float(steps[before] + part * (steps[after] - steps[before]))
