"""The numbers of a report, as `report.json` has them: of trainings, of sweeps, and of where the time went."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raml_trl.reports.combinations import best_combinations, compare_combinations, find_baseline, swept_without
from raml_trl.reports.curves import figures
from raml_trl.reports.runs import Seeds
from raml_trl.reports.step_time import TimedRun, compare_seconds, is_timed, setting_of, split_seconds
from raml_trl.reports.sweeps import M, ReadSweep, completeness, label

MOST_LINES = 12  # of a figure: more cannot be told apart


def tell_training(training: Seeds) -> dict[str, Any]:
    """How a training was run, and its curves."""
    return {
        "name": training.name,
        "command": training.command,
        "seconds": training.seconds,
        "seeds": [run.seed for run in training.runs],
        "settings": training.runs[0].settings,
        "curves": {one["name"]: one["lines"][training.name] for one in figures({training.name: training.runs})},
    }


def tell_sweep(sweep: ReadSweep, wanted: str | None) -> dict[str, Any]:
    """A sweep: what of it is there, its combinations beside the baseline that is `wanted`, and its curves.

    `drawn` are the combinations that have lines, `figures` those of `report_curves.figures`.
    """
    baseline, drawn = find_baseline(sweep, wanted), best_combinations(sweep, MOST_LINES)
    return {
        "name": sweep.name,
        "metric": sweep.metric,
        "goal": sweep.goal,
        "trials": completeness(sweep),
        "baseline": baseline,
        "combinations": compare_combinations(sweep, baseline),
        "drawn": drawn,
        "figures": figures({label(one): sweep.runs_of(one) for one in drawn}),
    }


@dataclass
class Times:
    """Where the seconds of a step go, `seconds` by phase and `n` runs of each in `splits`; `speedups` by what they are
    of, as `report_time.compare_seconds` has them; and `alone`, the sweeps whose trials differ in more than m.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    speedups: dict[str, dict[str, Any]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)


def tell_times(trainings: Sequence[Seeds], sweeps: Sequence[ReadSweep]) -> Times:
    """Of every GRPO training, and of every combination of a sweep of GRPO."""
    times, timed = Times(), []
    for training in trainings:
        runs = [run for run in training.runs if is_timed(run)]
        if runs:
            times.splits[training.name] = {"seconds": split_seconds(runs), "n": len(runs)}
        for run in runs:
            name = training.name if len(training.runs) == 1 else f"{training.name}, seed {run.seed}"
            timed.append(TimedRun(name, run, setting_of(run, same_inputs=True)))
    _add_speedups(times, "the runs", compare_seconds(timed))
    for sweep in sweeps:
        _add_sweep(times, sweep)
    return times


def _add_sweep(times: Times, sweep: ReadSweep) -> None:
    timed = []
    for combination in sweep.combinations:
        runs = [run for run in sweep.runs_of(combination) if is_timed(run)]
        if runs:
            times.splits[f"{sweep.name}: {label(combination)}"] = {"seconds": split_seconds(runs), "n": len(runs)}
        for run in runs:
            setting = swept_without(combination) + setting_of(run, same_inputs=False)
            timed.append(TimedRun(f"{label(combination)}, seed {run.seed}", run, setting))
    if timed and M in sweep.combinations[0]:
        found = [one for one in compare_seconds(timed) if one["differ"]]
        _add_speedups(times, f"sweep {sweep.name}", found)
        times.alone += [] if found else [sweep.name]


def _add_speedups(times: Times, name: str, found: Sequence[dict[str, Any]]) -> None:
    for one in found:
        times.speedups[name if len(found) == 1 else f"{name} like {one['source']}"] = one
