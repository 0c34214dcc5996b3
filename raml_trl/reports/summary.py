"""Collects the content of a report: evaluations, trainings, sweeps and step times, read from their directories.

A combination has one value for each parameter that the sweep varies, except the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from raml_trl.reports.evaluations import Group, Sample, Stage, choose_samples, read_groups, read_stages
from raml_trl.reports.progress import NamedPaths, find_progress
from raml_trl.reports.runs import TRAINING, CurveFigure, Seeds, curve_figures, read_seeds
from raml_trl.reports.step_time import (
    Split,
    StepTimeComparison,
    TimedRun,
    compare_step_times,
    is_timed,
    setting_of,
    split_seconds,
)
from raml_trl.reports.sweeps import (
    CombinationMean,
    M,
    SweepResults,
    TrialCounts,
    best_combinations,
    compare_combinations,
    find_baseline,
    label,
    read_sweep_results,
    settings_beside_m,
)
from raml_trl.sweeps.sweep_file import Settings

_MOST_LINES = 12  # in a figure; with more, they could not be told apart


@dataclass(frozen=True)
class SweepSummary:
    """A sweep, with each combination of its settings compared with `baseline`.

    `drawn` are the combinations whose curves are drawn.
    """

    name: str
    metric: str
    goal: str
    trials: TrialCounts
    baseline: Settings
    combinations: list[CombinationMean]
    drawn: list[Settings]
    figures: list[CurveFigure]


@dataclass(frozen=True)
class StepTimes:
    """Where the seconds of a GRPO step go.

    Attributes:
        splits: for each training, and for each combination of settings of a sweep, the seconds of each phase.
        speedups: comparisons of step times by m (rollouts selected per group). The name of each says which runs are
            compared.
        alone: names of the sweeps over m whose trials also differ in other settings, and are therefore not compared.
    """

    splits: dict[str, Split]
    speedups: dict[str, StepTimeComparison]
    alone: list[str]


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    A stage is one evaluation. `samples` maps the name of a stage to its samples. `curves` maps a command, such as
    `train_grpo`, to its figures. `pending` has a sentence about each run that is not complete.
    """

    stages: list[Stage]
    trainings: list[Seeds]
    sweeps: list[SweepSummary]
    times: StepTimes
    samples: dict[str, list[Sample]]
    groups: list[Group]
    curves: dict[str, list[CurveFigure]]
    pending: list[str]

    def to_json(self) -> dict[str, object]:
        """Return the content of `report.json`, except title and lead."""
        return {
            "stages": [stage.to_json() for stage in self.stages],
            "runs": [_training_json(training) for training in self.trainings],
            "sweeps": [_sweep_json(sweep) for sweep in self.sweeps],
            "times": asdict(self.times),
        }


def _training_json(training: Seeds) -> dict[str, object]:
    figures = curve_figures({training.name: training.runs})
    return {
        "name": training.name,
        "command": training.command,
        "seconds": training.seconds,
        "seeds": [run.seed for run in training.runs],
        "settings": training.runs[0].settings,
        "curves": {figure.name: asdict(figure.lines[training.name]) for figure in figures},
    }


def _sweep_json(sweep: SweepSummary) -> dict[str, object]:
    return asdict(sweep) | {"combinations": [row.to_json() for row in sweep.combinations]}


def read_report(
    *,
    runs: NamedPaths,
    evaluations: NamedPaths,
    sweeps: NamedPaths,
    baselines: Mapping[str, str],
    seed: int,
    so_far: bool = False,
) -> Report:
    """Read all directories and compute everything the report shows.

    Args:
        runs: training runs; several runs with one name are seeds of one training.
        evaluations: evaluations, in the order of the table.
        sweeps: output directories of `sweep`.
        baselines: maps the name of a sweep to its baseline, in the form `parameter=value,…`. For other sweeps, it is
            the first combination with the largest `num_generations_update`, or the first combination if that setting
            was not swept.
        seed: seed of the resampling for intervals and p-values.
        so_far: show what exists, although some of the runs are still running or have not started.

    Raises:
        InputError: if a directory does not hold a run, an evaluation or a sweep that can be reported.
    """
    pending: list[str] = []
    if so_far:
        progress = find_progress(runs, evaluations, sweeps)
        runs, evaluations, sweeps, pending = progress.runs, progress.evaluations, progress.sweeps, progress.pending
    trainings = read_seeds(runs, so_far=so_far)
    stages = read_stages(evaluations, {training.name: training.seconds for training in trainings}, seed)
    results = [read_sweep_results(name, directory) for name, directory in sweeps]
    return Report(
        stages=stages,
        trainings=trainings,
        sweeps=[_summarise_sweep(sweep, baselines.get(sweep.name)) for sweep in results],
        times=_step_times(trainings, results),
        samples={stage.name: choose_samples(stage) for stage in stages},
        groups=read_groups(trainings),
        curves={
            command: curve_figures(
                {training.name: training.runs for training in trainings if training.command == command}
            )
            for command in TRAINING
        },
        pending=pending,
    )


def _summarise_sweep(sweep: SweepResults, wanted: str | None) -> SweepSummary:
    baseline, drawn = find_baseline(sweep, wanted), best_combinations(sweep, _MOST_LINES)
    return SweepSummary(
        name=sweep.name,
        metric=sweep.metric,
        goal=sweep.goal,
        trials=sweep.counts(),
        baseline=baseline,
        combinations=compare_combinations(sweep, baseline),
        drawn=drawn,
        figures=curve_figures({label(combination): sweep.runs_of(combination) for combination in drawn}),
    )


def _step_times(trainings: Sequence[Seeds], sweeps: Sequence[SweepResults]) -> StepTimes:
    """Return the step times of all GRPO trainings, and of all combinations of GRPO sweeps, by phase and by m."""
    splits, timed = {}, []
    for training in trainings:
        runs = [run for run in training.runs if is_timed(run)]
        if runs:
            splits[training.name] = split_seconds(runs)
        for run in runs:
            name = training.name if len(training.runs) == 1 else f"{training.name}, seed {run.seed}"
            timed.append(TimedRun(name, run, setting_of(run, same_inputs=True)))
    times = [StepTimes(splits, _named("the runs", compare_step_times(timed)), [])]
    times += [_sweep_times(sweep) for sweep in sweeps]
    return StepTimes(
        splits={name: split for part in times for name, split in part.splits.items()},
        speedups={name: comparison for part in times for name, comparison in part.speedups.items()},
        alone=[name for part in times for name in part.alone],
    )


def _sweep_times(sweep: SweepResults) -> StepTimes:
    splits, timed = {}, []
    for combination in sweep.combinations:
        runs = [run for run in sweep.runs_of(combination) if is_timed(run)]
        if runs:
            splits[f"{sweep.name}: {label(combination)}"] = split_seconds(runs)
        for run in runs:
            setting = settings_beside_m(combination) + setting_of(run, same_inputs=False)
            timed.append(TimedRun(f"{label(combination)}, seed {run.seed}", run, setting))
    if not timed or M not in sweep.combinations[0]:
        return StepTimes(splits, {}, [])
    comparisons = [comparison for comparison in compare_step_times(timed) if comparison.differ]
    return StepTimes(splits, _named(f"sweep {sweep.name}", comparisons), [] if comparisons else [sweep.name])


def _named(name: str, comparisons: Sequence[StepTimeComparison]) -> dict[str, StepTimeComparison]:
    """Return the comparisons by name. If there are several, the source of each comparison is added to `name`."""
    if len(comparisons) == 1:
        return {name: comparisons[0]}
    return {f"{name} like {comparison.source}": comparison for comparison in comparisons}
