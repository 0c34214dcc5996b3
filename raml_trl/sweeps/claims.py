"""Tests claims on the results of sweeps. A claim consists of comparisons; each compares two arms, paired by seed.

A file of claims is YAML, with one entry for each claim:

    C10:
      claim: GRPO improves with m.
      comparisons:
        - measure: last              # or steadiness, equal_seconds, equal_rollouts
          metric: pass@1             # as evaluated in training
          higher: {sweep: grpo_num_generations_update, num_generations_update: 4, learning_rate: 3.0e-4}
          lower: {sweep: grpo_num_generations_update, num_generations_update: 2, learning_rate: 3.0e-4}

An arm is one setting of a sweep: the trials with the given parameters, one trial for each seed. A comparison claims
that the arm `higher` exceeds the arm `lower`. They are compared by one of four measures:

- last: the metric at the last evaluation
- steadiness: minus the largest drop of the metric below its previous maximum
- equal_seconds, equal_rollouts: the metric after the same training time, or after the same number of rollouts

Claims with the same `family` test one question in several ways: their p-values are corrected together (Holm).

`NAME: tuned` chooses the value of the parameter NAME for each seed separately. It takes the value whose trials with the
other seeds have the highest mean of the metric at the last evaluation, so no trial is chosen for its own result.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Literal, get_args

from raml_trl.evaluation.intervals import Difference, holm, student_difference
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.sweeps.learning_curves import Trial, last, steadiness, value_at
from raml_trl.sweeps.sweep_file import SEED, Scalar

Measure = Literal["last", "steadiness", "equal_seconds", "equal_rollouts"]
Verdict = Literal["holds", "does not hold", "inconclusive"]

TUNED = "tuned"
_KEYS = frozenset({"measure", "metric", "higher", "lower"})
_FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Arm:
    """One setting of a sweep: the trials of `sweep` that have these `parameters`, one for each seed."""

    sweep: str
    parameters: Mapping[str, Scalar]

    def __str__(self) -> str:
        return ", ".join([self.sweep, *(f"{name} {value}" for name, value in self.parameters.items())])


@dataclass(frozen=True)
class ArmComparison:
    """The statement that one sweep setting, `higher`, exceeds another, `lower`, in `metric`, compared by `measure`."""

    measure: Measure
    metric: str
    higher: Arm
    lower: Arm


@dataclass(frozen=True)
class Claim:
    """A claim in one sentence, and the comparisons that must all hold for the claim to hold."""

    name: str
    claim: str
    comparisons: tuple[ArmComparison, ...]
    family: str | None = None
    """Name of the family, whose p-values are corrected together; None for a claim that belongs to no family."""


@dataclass(frozen=True)
class ArmDifference:
    """The result of a comparison.

    Each trial has one value, which the `measure` of the comparison defines. `higher` and `lower` are the means of these
    values for the two arms (settings of a sweep), over the `seeds` that both arms have. `difference` is `higher` minus
    `lower`, with its interval and p-value. `corrected` is this p-value, corrected together with those of the claim's
    `family` if the claim belongs to one.
    """

    comparison: ArmComparison
    seeds: tuple[int, ...]
    higher: float
    lower: float
    difference: Difference
    corrected: float
    """The p-value of the difference, corrected together with those of the claim's family if it belongs to one."""

    @property
    def verdict(self) -> Verdict:
        """`inconclusive` if the p-value `corrected` is .05 or more, or the 95 % interval of the difference contains 0.

        Otherwise `holds` if the interval is above zero, and `does not hold` if it is below zero.
        """
        if self.corrected >= 0.05:
            return "inconclusive"
        if self.difference.low > 0:
            return "holds"
        return "does not hold" if self.difference.high < 0 else "inconclusive"

    def as_json(self) -> dict[str, object]:
        """Return the entry of this comparison in `claims.json`."""
        higher, lower, difference = self.comparison.higher, self.comparison.lower, self.difference
        return {
            "measure": self.comparison.measure,
            "metric": self.comparison.metric,
            "higher": {"sweep": higher.sweep, **higher.parameters, "mean": self.higher},
            "lower": {"sweep": lower.sweep, **lower.parameters, "mean": self.lower},
            "difference": {
                "mean": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p_value,
                "corrected": self.corrected,
            },
            "seeds": list(self.seeds),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class WeighedClaim:
    """A claim with the results of its comparisons."""

    claim: Claim
    differences: tuple[ArmDifference, ...]

    @property
    def verdict(self) -> Verdict:
        """`holds` if all comparisons have this verdict, `does not hold` if at least one has this, else `inconclusive`.

        `holds` needs no correction for the number of comparisons, because all of them must hold (intersection-union
        test: Berger, Technometrics 24, 1982). `does not hold` rests on a single comparison and would need a correction,
        which is not made. Take this verdict as a warning.
        """
        verdicts = {difference.verdict for difference in self.differences}
        if "does not hold" in verdicts:
            return "does not hold"
        return "holds" if verdicts == {"holds"} else "inconclusive"

    def as_json(self) -> dict[str, object]:
        """Return the entry of this claim in `claims.json`."""
        return {
            "name": self.claim.name,
            "claim": self.claim.claim,
            "verdict": self.verdict,
            "comparisons": [difference.as_json() for difference in self.differences],
        }


def read_claims(path: Path) -> list[Claim]:
    """Read a file of claims.

    Raises:
        InputError: if the file does not have the format described at the top of this module.
    """
    claims = []
    for name, content in read_yaml(path).items():
        prefix = f"{path}: {name}"
        if not isinstance(content, dict) or content.keys() - {"family"} != {"claim", "comparisons"}:
            raise InputError(f"{prefix} must have claim and comparisons, and at most family, got {content!r}")
        listed = content["comparisons"]
        if not isinstance(listed, list) or not listed:
            raise InputError(f"{prefix}: comparisons must be a list of one or more, got {listed!r}")
        comparisons = tuple(_comparison(prefix, comparison) for comparison in listed)
        family = str(content["family"]) if "family" in content else None
        claims.append(Claim(str(name), str(content["claim"]), comparisons, family))
    return claims


def _comparison(prefix: str, content: object) -> ArmComparison:
    if not isinstance(content, dict) or content.keys() != _KEYS:
        raise InputError(f"{prefix}: a comparison has {', '.join(sorted(_KEYS))}, got {content!r}")
    if content["measure"] not in get_args(Measure):
        raise InputError(f"{prefix}: measure must be one of {', '.join(get_args(Measure))}, got {content['measure']!r}")
    arms = []
    for side in ("higher", "lower"):
        arm = content[side]
        if not isinstance(arm, dict) or not isinstance(arm.get("sweep"), str):
            raise InputError(f"{prefix}: {side} must name a sweep and its parameters, got {arm!r}")
        arms.append(Arm(arm["sweep"], {name: value for name, value in arm.items() if name != "sweep"}))
    return ArmComparison(content["measure"], str(content["metric"]), *arms)


def weigh(claims: Sequence[Claim], sweeps: Mapping[str, Sequence[Trial]]) -> list[WeighedClaim]:
    """Make the comparisons of all claims, and return each claim with its results.

    Args:
        claims: the claims to test.
        sweeps: the trials of each sweep, by the name of the sweep.

    Raises:
        InputError: for the reasons given at `compare_arms`.
    """
    weighed = [
        WeighedClaim(claim, tuple(compare_arms(comparison, sweeps) for comparison in claim.comparisons))
        for claim in claims
    ]
    families = {claim.family for claim in claims if claim.family is not None}
    for family in families:
        places = [place for place, own in enumerate(weighed) if own.claim.family == family]
        p_values = [result.difference.p_value for place in places for result in weighed[place].differences]
        corrected = iter(holm(p_values))
        for place in places:
            results = tuple(replace(result, corrected=next(corrected)) for result in weighed[place].differences)
            weighed[place] = replace(weighed[place], differences=results)
    return weighed


def compare_arms(comparison: ArmComparison, sweeps: Mapping[str, Sequence[Trial]]) -> ArmDifference:
    """Compare two arms, paired by seed.

    For `equal_seconds` and `equal_rollouts`, each step of an arm costs the same: the median of the seconds or rollouts
    per step over the trials of the arm. (Other load on the machine changes the times of single trials.) The total cost
    of an arm is this number times the steps of its shortest trial. The budget is the smaller total of the two arms. The
    metric of each trial is read at the step at which the trial has spent the budget.

    Raises:
        InputError: if an arm has no trial, or several for one seed; if the arms have fewer than three seeds in common;
            or if an arm that generates no rollouts (SFT) is compared by `equal_rollouts`.
    """
    higher, lower = (arm_trials(arm, sweeps, comparison.metric) for arm in (comparison.higher, comparison.lower))
    seeds = sorted(higher.keys() & lower.keys())
    if len(seeds) < _FEWEST_SEEDS:
        raise InputError(
            f"{comparison.higher} and {comparison.lower} have {len(seeds)} complete seeds in common, but need "
            f"{_FEWEST_SEEDS} or more: complete the sweeps"
        )
    score_higher, score_lower = _scores(comparison, higher.values(), lower.values())
    higher_values = [score_higher(higher[seed]) for seed in seeds]
    lower_values = [score_lower(lower[seed]) for seed in seeds]
    difference = student_difference(lower_values, higher_values)
    means = fmean(higher_values), fmean(lower_values)
    return ArmDifference(comparison, tuple(seeds), *means, difference, corrected=difference.p_value)


def _scores(
    comparison: ArmComparison, higher: Iterable[Trial], lower: Iterable[Trial]
) -> tuple[Callable[[Trial], float], Callable[[Trial], float]]:
    """Return two functions: one gives the score of a trial of `higher`, the other of a trial of `lower`."""
    metric = comparison.metric
    if comparison.measure == "last":
        return (lambda trial: last(trial, metric),) * 2
    if comparison.measure == "steadiness":
        return (lambda trial: steadiness(trial, metric),) * 2
    costs = [_step_cost(trials, comparison.measure) for trials in (higher, lower)]
    if 0 in costs:
        raise InputError(f"{comparison.higher} or {comparison.lower} generates no rollouts: SFT has no equal_rollouts")
    budget = min(
        cost * min(trial.steps[-1] for trial in trials) for cost, trials in zip(costs, (higher, lower), strict=True)
    )

    def score(cost: float) -> Callable[[Trial], float]:
        # Rounding must not move the budget beyond the last step.
        return lambda trial: value_at(trial, metric, min(budget / cost, trial.steps[-1]))

    return score(costs[0]), score(costs[1])


def _step_cost(trials: Iterable[Trial], measure: Measure) -> float:
    """Return the seconds or rollouts of a step, as the median over `trials`."""
    return median(trial.step_seconds if measure == "equal_seconds" else trial.step_rollouts for trial in trials)


def arm_trials(arm: Arm, sweeps: Mapping[str, Sequence[Trial]], metric: str) -> dict[int, Trial]:
    """Return the trials of an arm, each with its seed as the key.

    For each seed, a parameter given as `tuned` takes the value whose trials with the other seeds have the highest mean
    of `metric` at the last evaluation. With fewer than two seeds, nothing can be tuned, and no trial is returned.

    Raises:
        InputError: if the arm has no trial, or several for one seed; or if the sweep lacks the seed or a tuned
            parameter.
    """
    if arm.sweep not in sweeps:
        raise InputError(f"there is no sweep {arm.sweep!r}, only {', '.join(sweeps) or 'none'}")
    tuned = [name for name, value in arm.parameters.items() if value == TUNED]
    fixed = {name: value for name, value in arm.parameters.items() if value != TUNED}
    options: dict[tuple[Scalar, ...], dict[int, Trial]] = {}
    for trial in sweeps[arm.sweep]:
        if not fixed.items() <= trial.parameters.items():
            continue
        unknown = next((name for name in tuned if name not in trial.parameters), None)
        if unknown is not None:
            raise InputError(f"{arm}: the sweep has no parameter {unknown!r}, only {', '.join(trial.parameters)}")
        by_seed = options.setdefault(tuple(trial.parameters[name] for name in tuned), {})
        if trial.seed in by_seed:
            free = [name for name in trial.parameters if name not in {*arm.parameters, SEED}]
            raise InputError(f"{arm} has several trials for seed {trial.seed}: specify {' and '.join(free)}")
        by_seed[trial.seed] = trial
    if not options:
        raise InputError(f"{arm} matches no complete trial of the sweep")
    if not tuned:
        return options[()]
    seeds = set.intersection(*(set(by_seed) for by_seed in options.values()))
    if len(seeds) < 2:
        return {}
    return {
        seed: max(options.values(), key=lambda by_seed: _mean_of_others(by_seed, seed, seeds, metric))[seed]
        for seed in seeds
    }


def _mean_of_others(by_seed: Mapping[int, Trial], seed: int, seeds: Iterable[int], metric: str) -> float:
    return fmean(last(by_seed[other], metric) for other in seeds if other != seed)
