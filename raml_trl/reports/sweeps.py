"""Reads the sweeps that a report shows, complete or not, and compares each combination with a baseline.

A combination has one value for each parameter that the sweep varies, except the seed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from raml_trl.evaluation.intervals import Difference, SeedMean, mean_over_seeds, student_difference
from raml_trl.render.tables import DASH, Cell, Table, interval, number
from raml_trl.reports.runs import TRAINING, TrainingRun, is_held_out, metric_order, read_training
from raml_trl.reports.terms import INTERVAL, P_VALUE, metric_terms, metric_title
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.recipes import find_recipe
from raml_trl.runtime.runs import find_record, read_record
from raml_trl.sweeps.results import TrialResult, means_over_seeds
from raml_trl.sweeps.study import read_study
from raml_trl.sweeps.sweep_file import SEED, Settings, logged_name, read_sweep

M = "num_generations_update"
_SHORT = {M: "m", "num_generations": "G", "num_trajectories": "K"}  # symbols of the documentation
_MEANINGS = {
    "m": "rollouts of each question that are trained on",
    "G": "rollouts that are generated for each question",
    "K": "trajectories per question in supervised fine-tuning",
}


@dataclass(frozen=True)
class LeftOut:
    """A trial that is not complete. `reason` says why it failed; None if it did not fail."""

    trial: str
    status: str
    reason: str | None


@dataclass(frozen=True)
class TrialCounts:
    """Number of trials by status, and the trials that are not complete."""

    complete: int
    failed: int
    unfinished: int
    left_out: list[LeftOut]

    def sentence(self) -> str:
        """Format the counts as a sentence."""
        total = self.complete + self.failed + self.unfinished
        if not self.left_out:
            return f"All {total} trials are complete."
        names = ", ".join(f"{trial.trial} ({trial.reason or trial.status})" for trial in self.left_out)
        return f"{self.complete} of {total} trials are complete. Left out: {names}."


@dataclass(frozen=True)
class SweepResults:
    """A sweep: its trials, and its combinations of settings in the order of the sweep file.

    `runs` has the training runs of the complete trials, by name of the trial.
    """

    name: str
    metric: str
    goal: str
    trials: list[TrialResult]
    combinations: list[Settings]
    runs: dict[str, TrainingRun]

    def trials_of(self, combination: Settings) -> list[TrialResult]:
        """Return the complete trials of a combination of settings."""
        return [
            trial
            for trial in self.trials
            if trial.metric is not None and combination.items() <= trial.parameters.items()
        ]

    def runs_of(self, combination: Settings) -> list[TrainingRun]:
        """Return the training runs of the complete trials of a combination of settings, ordered by seed."""
        runs = [self.runs[trial.name] for trial in self.trials_of(combination) if trial.name in self.runs]
        return sorted(runs, key=lambda run: run.seed)

    def final_metrics(self, trial: TrialResult) -> dict[str, float]:
        """Return the final value of each metric of a complete trial, by the name of the metric.

        The metrics are the one that the sweep compares, and all metrics of the last evaluation during the training.
        """
        assert trial.metric is not None
        run = self.runs.get(trial.name)
        held_out = {name: curve[max(curve)] for name, curve in (run.curves if run else {}).items() if is_held_out(name)}
        others = sorted(held_out.keys() - {logged_name(self.metric)}, key=metric_order)
        return {self.metric: trial.metric} | {name: held_out[name] for name in others}

    def counts(self) -> TrialCounts:
        statuses = [trial.status for trial in self.trials]
        left_out = [
            LeftOut(trial.name, trial.status, trial.reason) for trial in self.trials if trial.status != "complete"
        ]
        return TrialCounts(statuses.count("complete"), statuses.count("failed"), statuses.count("unfinished"), left_out)


def read_sweep_results(name: str, directory: str) -> SweepResults:
    """Read the sweep in `directory`, including one that is still running or was stopped.

    Raises:
        InputError: if `directory` holds no sweep, or if the sweep is not complete and its sweep file is gone or has
            changed.
    """
    path, record = Path(directory), read_record(Path(directory))
    if record["command"] != "sweep":
        raise InputError(f"{directory} holds a run of {record['command']}, not of sweep")
    if record["status"] == "complete" and (path / "sweep.json").is_file():
        content = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        metric, goal = content["metric"], content["goal"]
        trials = [TrialResult(**trial) for trial in content["trials"]]
        combinations = [row["parameters"] for row in content["means"]]
    else:
        sweep = read_sweep(find_recipe(record["settings"]["sweep"]))
        metric, goal, trials = sweep.metric, sweep.goal, read_study(path, sweep).results()
        combinations = [row.parameters for row in means_over_seeds(sweep, trials)]
    runs = {
        trial.name: read_training(path / "trials" / trial.name)
        for trial in trials
        if trial.status == "complete" and _is_training(path / "trials" / trial.name)
    }
    return SweepResults(name, metric, goal, trials, combinations, runs)


def _is_training(directory: Path) -> bool:
    record = find_record(directory)
    return record is not None and record["command"] in TRAINING


def label(combination: Settings) -> str:
    """Format a combination of settings in short, such as `m = 4, learning_rate = 0.001`."""
    return ", ".join(f"{_SHORT.get(name, name)} = {value}" for name, value in combination.items()) or "all trials"


def find_baseline(sweep: SweepResults, wanted: str | None) -> Settings:
    """Return the combination of settings with which the other combinations are compared.

    Args:
        sweep: the sweep to choose from.
        wanted: the combination, in the form `parameter=value,…`. None means the first combination with the largest
            `num_generations_update`, or the first combination if that setting was not swept.

    Raises:
        InputError: if `wanted` matches no combination, or several.
    """
    if wanted is None:
        sizes = [combination.get(M) for combination in sweep.combinations]
        largest = max((size for size in sizes if isinstance(size, int)), default=None)
        return sweep.combinations[sizes.index(largest)]
    pairs = dict(pair.partition("=")[::2] for pair in wanted.split(","))
    matches = [
        combination
        for combination in sweep.combinations
        if all(name in combination and str(combination[name]) == text for name, text in pairs.items())
    ]
    if len(matches) != 1:
        choices = "; ".join(
            ",".join(f"{name}={value}" for name, value in combination.items()) for combination in sweep.combinations
        )
        raise InputError(
            f"baseline {wanted!r} of sweep {sweep.name!r} must match one combination, but matches {len(matches)} of "
            f"{choices}"
        )
    return matches[0]


def best_combinations(sweep: SweepResults, most: int) -> list[Settings]:
    """Return at most `most` combinations of settings: those with the best mean of the metric that the sweep compares.

    The best mean is the highest or the lowest, as the sweep's goal says. The combinations are returned in the order of
    the sweep file.
    """
    means = {}
    for place, combination in enumerate(sweep.combinations):
        metrics = [trial.metric for trial in sweep.trials_of(combination) if trial.metric is not None]
        if metrics:
            means[place] = fmean(metrics)
    ranked = sorted(means, key=lambda place: means[place], reverse=sweep.goal == "maximize")
    return [sweep.combinations[place] for place in sorted(ranked[:most])]


def settings_beside_m(combination: Settings) -> str:
    """Return a text that is equal for combinations of settings that differ only in `num_generations_update`."""
    return repr([(name, value) for name, value in combination.items() if name != M])


@dataclass(frozen=True)
class SeedDifference(Difference):
    """Metric of a combination of settings minus that of the baseline, paired by seed: the mean over `n` seeds."""

    n: int


@dataclass(frozen=True)
class CombinationMean:
    """Final value of a metric for one combination of settings, averaged over seeds.

    `difference` is the value minus that of the baseline, paired by seed. The baseline itself has no difference. If
    another combination has none, `reason` says why.
    """

    metric: str
    parameters: Settings
    value: SeedMean
    difference: SeedDifference | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the mean as `report.json` stores it."""
        content = {"metric": self.metric, "parameters": self.parameters, **asdict(self.value)}
        if self.difference is not None:
            content["difference"] = asdict(self.difference)
        elif self.reason is not None:
            content["difference"] = {"reason": self.reason}
        return content


def compare_combinations(sweep: SweepResults, baseline: Settings) -> list[CombinationMean]:
    """Average every metric of every combination of settings over seeds, and compare it with the baseline.

    `baseline` is one of the combinations. The comparison is paired by seed.
    """
    finals = {trial.name: sweep.final_metrics(trial) for trial in sweep.trials if trial.metric is not None}
    metrics = list(dict.fromkeys(name for values in finals.values() for name in values)) or [sweep.metric]
    rows = []
    for metric in metrics:
        of_baseline = _by_seed(sweep, baseline, finals, metric)
        for combination in sweep.combinations:
            values = _by_seed(sweep, combination, finals, metric)
            mean = mean_over_seeds([value for _, value in values])
            if combination == baseline:
                rows.append(CombinationMean(metric, combination, mean))
            else:
                difference, reason = _paired(dict(of_baseline), dict(values))
                rows.append(CombinationMean(metric, combination, mean, difference, reason))
    return rows


def _by_seed(
    sweep: SweepResults, combination: Settings, finals: Mapping[str, Mapping[str, float]], metric: str
) -> list[tuple[object, float]]:
    """Return the seed and the final value of each complete trial of `combination` that has the metric."""
    trials = [trial for trial in sweep.trials_of(combination) if metric in finals[trial.name]]
    return [(trial.parameters.get(SEED), finals[trial.name][metric]) for trial in trials]


def _paired(
    baseline: Mapping[object, float], values: Mapping[object, float]
) -> tuple[SeedDifference | None, str | None]:
    """Return the difference over the seeds that are in both mappings, or None and the reason."""
    seeds = [seed for seed in values if seed in baseline and seed is not None]
    if len(seeds) < 2:
        return None, f"{len(seeds)} seed{'s' * (len(seeds) != 1)} in common"
    difference = student_difference([baseline[seed] for seed in seeds], [values[seed] for seed in seeds])
    return SeedDifference(**asdict(difference), n=len(seeds)), None


def combinations_table(rows: Sequence[CombinationMean], baseline: Settings) -> Table:
    """Make the table of final metrics, one row per metric and combination of settings.

    The table also has the difference of each combination to `baseline`.
    """
    shown = [
        (
            Cell(metric_title(row.metric)),
            *(Cell(str(value)) for value in row.parameters.values()),
            Cell(str(row.value.n)),
            Cell(number(row.value.mean), "one seed") if row.value.n == 1 else interval(row.value),
            *_difference_cells(row),
        )
        for row in rows
        if row.value.n
    ]
    empty = dict.fromkeys(label(row.parameters) for row in rows if not row.value.n)
    missing = f" Without a complete trial: {'; '.join(empty)}." if empty else ""
    few = min((row.value.n for row in rows if row.value.n > 1), default=0)
    wide = f" With {few} seeds ({few - 1} degree{'s' * (few > 2)} of freedom) they are wide." if 1 < few < 5 else ""
    note = (
        f"Final values, averaged over seeds, with Student's 95 % intervals.{wide} Differences are to "
        f"{label(baseline)}, paired by seed. P-values are those of the paired t-test, not corrected for multiple "
        f"comparisons.{missing}"
    )
    names = [_SHORT.get(name, name) for name in baseline]
    terms = (
        *metric_terms(dict.fromkeys(row.metric for row in rows)),
        *((symbol, _MEANINGS[symbol]) for symbol in names if symbol in _MEANINGS),
        INTERVAL,
        P_VALUE,
        ("pairs", "number of seeds with which both the combination and the one it is compared with were run"),
    )
    head = ("metric", *names, "seeds", "mean", f"minus {label(baseline)}", "pairs")
    return Table(head, tuple(shown), note, terms, "final metrics of the sweep")


def _difference_cells(row: CombinationMean) -> tuple[Cell, Cell]:
    """Make the cells of a row's difference to the baseline and its number of pairs."""
    if row.difference is None:
        return Cell(DASH, row.reason or "the baseline"), Cell(DASH)
    return interval(row.difference, signed=True, p=row.difference.p_value), Cell(str(row.difference.n))
