"""Compares the seconds of a GRPO step for different m (rollouts selected per group).

The seconds are measured in runs with different m, and predicted for each m from a single run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median

from raml_trl.evaluation.intervals import mean_over_seeds
from raml_trl.grpo.ledger import PHASES, is_uncertain
from raml_trl.reports.runs import TrainingRun
from raml_trl.reports.step_prediction import PARTS, Part, possible_m, predict_step
from raml_trl.runtime.history import read_summary

_UPDATING = ("scoring", "selecting", "updating")
"""Phases that make up an update. They depend on m; the other phases take the same time for every m."""

_NOT_COMPARED = frozenset({"num_generations_update", "seed", "log_completions", "max_steps"})


@dataclass(frozen=True)
class Split:
    """Mean seconds of each phase of an optimizer step, over the steps of `n` runs."""

    seconds: dict[str, float]
    n: int


@dataclass(frozen=True)
class Speedup:
    """Measured speed-up of training on m of the G rollouts of a group, over training on all G (m = G).

    It is the geometric mean over seeds, with its 95 % interval. `low` and `high` are None with a single seed.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StepTimeRow:
    """Seconds of an update and of a step for one m, and the speed-ups of both over m = G; None if unknown.

    m of G rollouts are selected per group. `n` is the number of measured runs with this m.
    """

    m: int
    n: int
    predicted: Mapping[Part, float] | None
    measured: Mapping[Part, float] | None
    predicted_speedup: Mapping[Part, float] | None
    measured_speedup: Mapping[Part, Speedup] | None


@dataclass(frozen=True)
class StepTimeComparison:
    """Step times by m (rollouts selected per group), over runs that differ only in m and seed.

    Attributes:
        source: name of the run that the predictions are made from. It is not one of the measured runs.
        g: G (rollouts generated per group), the same in all runs.
        others: number of measured runs, which are all runs except `source`.
        differ: whether m differs between the runs, `source` included.
        reason: why nothing is predicted, or None.
        uncertain: whether the cost of a token is uncertain in `source`, so that the predictions are rough.
        rows: the times of each m.
    """

    source: str
    g: int
    others: int
    differ: bool
    reason: str | None
    uncertain: bool
    rows: list[StepTimeRow]


@dataclass(frozen=True)
class TimedRun:
    """A GRPO run that logged the seconds of its steps. Runs with the same `setting` differ only in m and seed.

    m of the g rollouts of a group are selected.
    """

    name: str
    run: TrainingRun
    setting: str

    @property
    def g(self) -> int:
        return self.run.num_generations

    @property
    def m(self) -> int:
        return self.run.num_generations_update

    def medians(self) -> dict[Part, float]:
        """Return the median seconds of an update and of a step, over the logged steps of the run."""
        steps = list(zip(*(_phase(self.run, phase) for phase in PHASES), strict=True))
        update = [PHASES.index(phase) for phase in _UPDATING]
        return {
            "update": median(sum(step[place] for place in update) for step in steps),
            "step": median(sum(step) for step in steps),
        }


def _phase(run: TrainingRun, phase: str) -> list[float]:
    curve = run.curves[f"seconds/{phase}"]
    return [curve[step] for step in sorted(curve)]


def is_timed(run: TrainingRun) -> bool:
    """Return whether the run logged the seconds of every phase of a step."""
    return all(f"seconds/{phase}" in run.curves for phase in PHASES)


def setting_of(run: TrainingRun, *, same_inputs: bool) -> str:
    """Return a text that is equal for runs that differ only in m (rollouts selected per group) and seed.

    Differences in `log_completions` and `max_steps` are also ignored.

    Args:
        run: a run of `train_grpo`.
        same_inputs: whether runs with different models or data get different texts. False suits the trials of a sweep,
            where each seed may have its own model and data.
    """
    ignored = _NOT_COMPARED | (set() if same_inputs else set(run.record["inputs"]))
    settings = {name: value for name, value in run.settings.items() if name not in ignored}
    return repr(sorted(settings.items())) + repr(run.record.get("results", {}).get("processes"))


def split_seconds(runs: Sequence[TrainingRun]) -> Split:
    """Return the mean seconds of each phase of a step, averaged over the steps of each run and then over the runs."""
    return Split({phase: fmean(fmean(_phase(run, phase)) for run in runs) for phase in PHASES}, len(runs))


def compare_step_times(timed: Sequence[TimedRun]) -> list[StepTimeComparison]:
    """Group runs that differ only in seed and m (rollouts selected of G), and compare their step times by m.

    The first run with m < G is the reference of its group of runs, or the first run if all have m = G. The step times
    of the other runs are predicted from the times of the reference, and shown beside the times that these runs
    recorded.
    """
    settings: dict[str, list[TimedRun]] = {}
    for run in timed:
        settings.setdefault(run.setting, []).append(run)
    return [_compare(runs) for runs in settings.values()]


_Medians = Mapping[tuple[int, int], Mapping[Part, float]]
"""Median seconds of the runs with one m. A key is the seed of the run, and the number of runs before with that seed."""


def _compare(runs: Sequence[TimedRun]) -> StepTimeComparison:
    source = next((run for run in runs if run.m < run.g), runs[0])
    others = [run for run in runs if run is not source]
    measured: dict[int, dict[tuple[int, int], Mapping[Part, float]]] = {}
    for other in others:
        of_m = measured.setdefault(other.m, {})
        of_m[other.run.seed, sum(seed == other.run.seed for seed, _ in of_m)] = other.medians()
    ms = sorted({*measured, source.m, source.g}) if others else possible_m(source.run)
    predicted: dict[int, dict[Part, float]] = {}
    reason = None
    try:
        predicted = predict_step(source.name, source.run, ms)
    except ValueError as error:
        reason = str(error)
    of_all = measured.get(source.g, {})
    rows = [
        StepTimeRow(
            m=m,
            n=len(measured.get(m, {})),
            predicted=predicted.get(m),
            measured=_means(measured.get(m, {})),
            predicted_speedup=(
                {part: predicted[source.g][part] / predicted[m][part] for part in PARTS} if predicted else None
            ),
            measured_speedup=_speedups(of_all, measured.get(m, {})) if m != source.g else None,
        )
        for m in ms
    ]
    summary = read_summary(source.run.directory)
    return StepTimeComparison(
        source=source.name,
        g=source.g,
        others=len(others),
        differ=len({run.m for run in runs}) > 1,
        reason=reason,
        uncertain=summary is not None and is_uncertain(summary),
        rows=rows,
    )


def _means(medians: _Medians) -> dict[Part, float] | None:
    return {part: fmean(run[part] for run in medians.values()) for part in PARTS} if medians else None


def _speedups(of_all: _Medians, of_m: _Medians) -> dict[Part, Speedup] | None:
    """Return how many times faster a step with this m is than a step with m = G.

    The speed-up is the geometric mean of the ratios over the seeds that ran with this m and with m = G. Without such a
    seed it is the ratio of the mean seconds.
    """
    if not of_all or not of_m:
        return None
    seeds = [seed for seed in of_m if seed in of_all]
    speedups: dict[Part, Speedup] = {}
    for part in PARTS:
        ratios = [of_all[seed][part] / of_m[seed][part] for seed in seeds]
        if not ratios:
            ratios = [fmean(run[part] for run in of_all.values()) / fmean(run[part] for run in of_m.values())]
        logs = mean_over_seeds([log(ratio) for ratio in ratios])  # half and twice as fast are then equally far from 1
        assert logs.mean is not None
        speedups[part] = Speedup(
            mean=exp(logs.mean),
            low=None if logs.low is None else exp(logs.low),
            high=None if logs.high is None else exp(logs.high),
        )
    return speedups
