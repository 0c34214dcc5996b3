"""Claims, as comparisons of settings over seeds: which of two arms is said to be higher, by which measure.

A file of claims is YAML, by the name of the claim:

    C10:
      claim: GRPO gets better with m.
      comparisons:
        - measure: last              # or steadiness, equal_seconds, equal_rollouts
          metric: pass@1             # as evaluated in training
          higher: {sweep: grpo_num_generations_update, num_generations_update: 4, learning_rate: 3.0e-4}
          lower: {sweep: grpo_num_generations_update, num_generations_update: 2, learning_rate: 3.0e-4}

An arm is the trials of a sweep that have these parameters, one for each seed. `NAME: tuned` takes for every seed the
value that did best on the other seeds, by the last value of the metric: no arm is chosen by what it is judged by.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from raml_trl.evaluation.intervals import Difference, student_difference
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.sweeps.learning_curves import Trial, last, steadiness, value_at
from raml_trl.sweeps.sweep_file import SEED, Scalar

Measure = Literal["last", "steadiness", "equal_seconds", "equal_rollouts"]
Verdict = Literal["holds", "does not hold", "cannot be told"]

TUNED = "tuned"
_MEASURES = ("last", "steadiness", "equal_seconds", "equal_rollouts")
_KEYS = frozenset({"measure", "metric", "higher", "lower"})
_FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Arm:
    """The trials of `sweep` with `parameters`."""

    sweep: str
    parameters: Mapping[str, Scalar]

    def __str__(self) -> str:
        return ", ".join([self.sweep, *(f"{name} {value}" for name, value in self.parameters.items())])


@dataclass(frozen=True)
class Comparison:
    """`higher` is said to be above `lower`."""

    measure: Measure
    metric: str
    higher: Arm
    lower: Arm


@dataclass(frozen=True)
class Claim:
    name: str
    claim: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Weighed:
    """A comparison, with the means of both arms over the `seeds` that both have, and their difference."""

    comparison: Comparison
    seeds: tuple[int, ...]
    higher: float
    lower: float
    difference: Difference

    @property
    def verdict(self) -> Verdict:
        """By whether the 95 % interval of the difference leaves out zero."""
        if self.difference.low > 0:
            return "holds"
        return "does not hold" if self.difference.high < 0 else "cannot be told"


def verdict(weighed: Sequence[Weighed]) -> Verdict:
    """A claim holds if all of its comparisons hold, and does not if one of them is the other way round.

    To ask for all at once needs no correction for their number: Berger, Technometrics 24, 1982, the
    intersection-union test. To find one the other way round would; with a handful it is taken as a warning.
    """
    verdicts = {one.verdict for one in weighed}
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts == {"holds"} else "cannot be told"


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file.

    Raises:
        InputError: if it is no such file.
    """
    claims = []
    for name, content in read_yaml(path).items():
        told = f"{path}: {name}"
        if not isinstance(content, dict) or content.keys() != {"claim", "comparisons"}:
            raise InputError(f"{told} must have claim and comparisons, and nothing else, got {content!r}")
        listed = content["comparisons"]
        if not isinstance(listed, list) or not listed:
            raise InputError(f"{told}: comparisons must be a list of one or more, got {listed!r}")
        claims.append(Claim(str(name), str(content["claim"]), tuple(_comparison(told, one) for one in listed)))
    return claims


def _comparison(told: str, content: object) -> Comparison:
    if not isinstance(content, dict) or content.keys() != _KEYS:
        raise InputError(f"{told}: a comparison has {', '.join(sorted(_KEYS))}, got {content!r}")
    if content["measure"] not in _MEASURES:
        raise InputError(f"{told}: measure must be one of {', '.join(_MEASURES)}, got {content['measure']!r}")
    arms = []
    for side in ("higher", "lower"):
        given = content[side]
        if not isinstance(given, dict) or not isinstance(given.get("sweep"), str):
            raise InputError(f"{told}: {side} must name a sweep and its parameters, got {given!r}")
        arms.append(Arm(given["sweep"], {name: value for name, value in given.items() if name != "sweep"}))
    return Comparison(content["measure"], str(content["metric"]), *arms)


def weigh(comparison: Comparison, sweeps: Mapping[str, Sequence[Trial]]) -> Weighed:
    """Hold the two arms of `comparison` against each other, seed by seed.

    With an equal budget of seconds or rollouts, every trial is taken where the shorter of the two arms ends. The
    seconds of a step are the median over the trials of an arm: what else the machine did falls on all of them alike.

    Raises:
        InputError: if an arm has no trial, several for one seed, or the arms have fewer than three seeds in common.
    """
    higher, lower = (arm_trials(arm, sweeps, comparison.metric) for arm in (comparison.higher, comparison.lower))
    seeds = sorted(higher.keys() & lower.keys())
    if len(seeds) < _FEWEST_SEEDS:
        raise InputError(
            f"{comparison.higher} and {comparison.lower} have {len(seeds)} complete seeds in common, and need "
            f"{_FEWEST_SEEDS} or more: let the sweeps run to their end"
        )
    measures = _measures(comparison, higher.values(), lower.values())
    values = [
        [measure(trials[seed]) for seed in seeds] for measure, trials in zip(measures, (higher, lower), strict=True)
    ]
    difference = student_difference(values[1], values[0])
    return Weighed(comparison, tuple(seeds), fmean(values[0]), fmean(values[1]), difference)


def _measures(
    comparison: Comparison, higher: Iterable[Trial], lower: Iterable[Trial]
) -> tuple[Callable[[Trial], float], Callable[[Trial], float]]:
    """How the trials of the one arm are measured, and those of the other."""
    metric = comparison.metric
    if comparison.measure == "last":
        return (lambda trial: last(trial, metric),) * 2
    if comparison.measure == "steadiness":
        return (lambda trial: steadiness(trial, metric),) * 2
    prices = [_price(trials, comparison.measure) for trials in (higher, lower)]
    if 0 in prices:
        raise InputError(
            f"{comparison.higher} or {comparison.lower} has no rollouts to be equal in: SFT generates none"
        )
    ends = [
        price * min(trial.steps[-1] for trial in trials) for price, trials in zip(prices, (higher, lower), strict=True)
    ]
    budget = min(ends)

    def measure(price: float) -> Callable[[Trial], float]:
        # Rounding must not carry the budget beyond the last step.
        return lambda trial: value_at(trial, metric, min(budget / price, trial.steps[-1]))

    return measure(prices[0]), measure(prices[1])


def _price(trials: Iterable[Trial], measure: str) -> float:
    """What a step of an arm costs."""
    return median(trial.step_seconds if measure == "equal_seconds" else trial.step_rollouts for trial in trials)


def arm_trials(arm: Arm, sweeps: Mapping[str, Sequence[Trial]], metric: str) -> dict[int, Trial]:
    """The trials of an arm by seed, those of a tuned parameter chosen by the other seeds.

    Raises:
        InputError: if there is none, or several for one seed.
    """
    if arm.sweep not in sweeps:
        raise InputError(f"there is no sweep {arm.sweep!r}, only {', '.join(sweeps) or 'none'}")
    tuned = [name for name, value in arm.parameters.items() if value == TUNED]
    fixed = {name: value for name, value in arm.parameters.items() if value != TUNED}
    options: dict[tuple[Scalar, ...], dict[int, Trial]] = {}
    for trial in sweeps[arm.sweep]:
        if not fixed.items() <= trial.parameters.items():
            continue
        by_seed = options.setdefault(tuple(trial.parameters[name] for name in tuned), {})
        if trial.seed in by_seed:
            free = [name for name in trial.parameters if name not in {*arm.parameters, SEED}]
            raise InputError(f"{arm} has several trials for seed {trial.seed}: say which {' and '.join(free)}")
        by_seed[trial.seed] = trial
    if not options:
        raise InputError(f"{arm} is no complete trial of the sweep")
    if not tuned:
        return options[()]
    seeds = set.intersection(*(set(by_seed) for by_seed in options.values()))
    return {
        seed: max(options.values(), key=lambda one: _mean_of_others(one, seed, seeds, metric))[seed] for seed in seeds
    }


def _mean_of_others(by_seed: Mapping[int, Trial], seed: int, seeds: Iterable[int], metric: str) -> float:
    return fmean(last(by_seed[other], metric) for other in seeds if other != seed)


def as_data(weighed: Weighed) -> dict[str, Any]:
    """A weighed comparison for JSON."""
    comparison, difference = weighed.comparison, weighed.difference
    return {
        "measure": comparison.measure,
        "metric": comparison.metric,
        "higher": {"sweep": comparison.higher.sweep, **comparison.higher.parameters, "mean": weighed.higher},
        "lower": {"sweep": comparison.lower.sweep, **comparison.lower.parameters, "mean": weighed.lower},
        "difference": {
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p_value,
        },
        "seeds": list(weighed.seeds),
        "verdict": weighed.verdict,
    }
