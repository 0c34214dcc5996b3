"""Sweeps as a report reads them, complete or not: their trials, and what of them is left out and why."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raml_trl.reports.curves import is_held_out, metric_order
from raml_trl.reports.runs import TRAINING, TrainingRun, read_training
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import is_run, read_record
from raml_trl.sweeps.results import TrialResult, means_over_seeds
from raml_trl.sweeps.study import read_study
from raml_trl.sweeps.sweep_file import Settings, logged_name, read_sweep

SHORT = {
    "num_generations_update": "m",
    "num_generations": "G",
    "num_trajectories": "K",
}  # as the documentation has them
M = "num_generations_update"


@dataclass(frozen=True)
class ReadSweep:
    """A sweep: its trials with the training runs of those that are complete, and its combinations of parameters.

    A combination is the parameters that are swept but the seed, in the order of the sweep file.
    """

    name: str
    metric: str
    goal: str
    outcomes: list[TrialResult]
    combinations: list[Settings]
    runs: dict[str, TrainingRun]

    def of(self, combination: Settings) -> list[TrialResult]:
        """Its complete trials."""
        return [
            one for one in self.outcomes if one.metric is not None and combination.items() <= one.parameters.items()
        ]

    def runs_of(self, combination: Settings) -> list[TrainingRun]:
        """The training runs of its complete trials, by seed."""
        runs = [self.runs[one.name] for one in self.of(combination) if one.name in self.runs]
        return sorted(runs, key=lambda run: run.seed)

    def finals(self, outcome: TrialResult) -> dict[str, float]:
        """The sweep's metric, and every metric of the last evaluation in training."""
        assert outcome.metric is not None
        run = self.runs.get(outcome.name)
        held_out = {name: curve[max(curve)] for name, curve in (run.curves if run else {}).items() if is_held_out(name)}
        others = sorted(held_out.keys() - {self.logged}, key=metric_order)
        return {self.metric: outcome.metric} | {name: held_out[name] for name in others}

    @property
    def logged(self) -> str:
        """The sweep's metric as it is logged: `eval/pass@1` is W&B's name of `eval_pass@1`."""
        return logged_name(self.metric)


def label(combination: Settings) -> str:
    """A combination in a few words."""
    return ", ".join(f"{SHORT.get(name, name)} = {value}" for name, value in combination.items()) or "all trials"


def read_swept(name: str, directory: str) -> ReadSweep:
    """The sweep in `directory`, as far as it has come.

    Raises:
        InputError: if there is none, or one that is not complete cannot be read without its sweep file.
    """
    path, record = Path(directory), read_record(Path(directory))
    if record["command"] != "sweep":
        raise InputError(f"{directory} holds a run of {record['command']}, not of sweep")
    if record["status"] == "complete" and (path / "sweep.json").is_file():
        content = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        metric, goal = content["metric"], content["goal"]
        outcomes = [TrialResult(**trial) for trial in content["trials"]]
        combinations = [row["parameters"] for row in content["means"]]
    else:
        sweep = read_sweep(Path(record["settings"]["sweep"]))
        outcomes = read_study(path, sweep).results()
        metric, goal = sweep.metric, sweep.goal
        combinations = [row.parameters for row in means_over_seeds(sweep, outcomes)]
    runs = {
        one.name: read_training(path / "trials" / one.name)
        for one in outcomes
        if one.status == "complete" and _trains(path / "trials" / one.name)
    }
    return ReadSweep(name, metric, goal, outcomes, combinations, runs)


def _trains(directory: Path) -> bool:
    return is_run(str(directory)) and read_record(directory)["command"] in TRAINING


def completeness(sweep: ReadSweep) -> dict[str, Any]:
    """How many trials there are of each status, and which are not complete, and why."""
    statuses = [one.status for one in sweep.outcomes]
    return {
        **{status: statuses.count(status) for status in ("complete", "failed", "unfinished")},
        "left_out": [
            {"trial": one.name, "status": one.status, "reason": one.reason}
            for one in sweep.outcomes
            if one.status != "complete"
        ],
    }


def told(found: dict[str, Any]) -> str:
    """The same as a sentence."""
    total = sum(found[status] for status in ("complete", "failed", "unfinished"))
    if not found["left_out"]:
        return f"All {total} trials are complete."
    names = ", ".join(f"{one['trial']} ({one['reason'] or one['status']})" for one in found["left_out"])
    return f"{found['complete']} of {total} trials are complete; not in the numbers are {names}."
