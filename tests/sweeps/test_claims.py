"""Claims get the verdicts that follow from trials with known values."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import yaml

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run
from raml_trl.sweeps.break_even import break_even, break_even_table, break_evens
from raml_trl.sweeps.claims import (
    Arm,
    ArmComparison,
    ArmDifference,
    Claim,
    Measure,
    WeighedClaim,
    arm_trials,
    compare_arms,
    read_claims,
    weigh,
)
from raml_trl.sweeps.claims_page import curves_figure
from raml_trl.sweeps.learning_curves import (
    LevelReached,
    Trial,
    by_setting,
    last,
    read_trial,
    read_trials,
    steadiness,
    steps_to,
    summarise_settings,
    value_at,
)
from raml_trl.sweeps.sweep_file import Scalar, read_sweep
from raml_trl.weigh_claims import WeighClaimsConfig, main
from tests.helpers import REPOSITORY

T_2_95, T_4_95 = 4.302653, 2.776445  # 97.5 % quantiles of Student's t at 2 and 4 degrees of freedom


def trial(
    seed: int,
    curve: tuple[float, ...],
    *,
    seconds: float = 1.0,
    rollouts: int = 64,
    rows: int = 64,
    **parameters: Scalar,
) -> Trial:
    """Make a trial that was evaluated every 10 steps, with `curve` as its Pass@1."""
    steps = tuple(range(10, 10 * (len(curve) + 1), 10))
    return Trial({**parameters, "seed": seed}, steps, {"pass@1": curve}, seconds, rollouts, rows)


CURVE = trial(0, (0.1, 0.5, 0.3, 0.9, 0.6))


def test_statistics_of_a_curve() -> None:
    assert last(CURVE, "pass@1") == 0.6
    assert steadiness(CURVE, "pass@1") == pytest.approx(-0.3)  # the drop from .9 to .6; the drop before was only .2
    assert steadiness(trial(0, (0.1, 0.1, 0.4)), "pass@1") == 0
    assert [value_at(CURVE, "pass@1", step) for step in (10, 15, 50)] == pytest.approx([0.1, 0.3, 0.6])
    assert [steps_to(CURVE, "pass@1", level) for level in (0.1, 0.4, 0.5, 0.9, 0.91)] == [10, 20, 20, 40, None]
    for step in (9, 51):
        with pytest.raises(InputError, match="evaluated from step 10 to 50, not at"):
            value_at(CURVE, "pass@1", step)
    with pytest.raises(InputError, match=r"no evaluation of 'pass@2', only of pass@1"):
        last(CURVE, "pass@2")


def eight_above_one(measure: Measure) -> ArmComparison:
    return ArmComparison(measure, "pass@1", Arm("s", {"m": 8}), Arm("s", {"m": 1}))


def one_above_eight(measure: Measure) -> ArmComparison:
    return ArmComparison(measure, "pass@1", Arm("s", {"m": 1}), Arm("s", {"m": 8}))


def test_arms_are_compared_seed_by_seed() -> None:
    high, low = {0: 0.5, 1: 0.7, 2: 0.9, 5: 0.0}, {2: 0.8, 1: 0.5, 0: 0.4, 4: 1.0}
    trials = [trial(seed, (0.0, value), m=8) for seed, value in high.items()]
    trials += [trial(seed, (0.0, value), m=1) for seed, value in low.items()]
    result = compare_arms(eight_above_one("last"), {"s": trials})
    differences = [0.1, 0.2, 0.1]  # at the seeds that both arms have
    half = T_2_95 * stdev(differences) / math.sqrt(3)
    assert result.seeds == (0, 1, 2)
    assert (result.higher, result.lower) == pytest.approx((0.7, 1.7 / 3))
    assert result.difference.mean == pytest.approx(fmean(differences))
    assert (result.difference.low, result.difference.high) == pytest.approx(
        (fmean(differences) - half, fmean(differences) + half), abs=1e-6
    )
    assert result.verdict == "inconclusive" if result.difference.low <= 0 else "holds"
    reversed_result = compare_arms(one_above_eight("last"), {"s": trials})
    assert reversed_result.difference.mean == -result.difference.mean
    assert reversed_result.difference.p_value == pytest.approx(result.difference.p_value)


@pytest.mark.parametrize(("difference", "expected"), [(0.2, "holds"), (-0.2, "does not hold"), (0.0, "inconclusive")])
def test_verdict(difference: float, expected: str) -> None:
    noise = (0.0, 0.01, -0.01, 0.02, -0.02)
    trials = [trial(seed, (0.5 + difference + noise[seed],), m=8) for seed in range(5)]
    trials += [trial(seed, (0.5,), m=1) for seed in range(5)]
    result = compare_arms(eight_above_one("last"), {"s": trials})
    assert result.verdict == expected
    half = T_4_95 * stdev(noise) / math.sqrt(5)
    assert result.difference.high - difference == pytest.approx(half, abs=1e-6)


def test_a_claim_holds_if_all_comparisons_hold() -> None:
    def result(difference: float) -> ArmDifference:
        trials = [trial(seed, (0.5 + difference + 0.01 * seed,), m=8) for seed in range(3)]
        trials += [trial(seed, (0.5,), m=1) for seed in range(3)]
        return compare_arms(eight_above_one("last"), {"s": trials})

    def verdict(*differences: float) -> str:
        results = tuple(map(result, differences))
        return WeighedClaim(Claim("C", "", tuple(each.comparison for each in results)), results).verdict

    yes, zero, no = 0.3, 0.0, -0.3
    assert (verdict(yes), verdict(yes, yes)) == ("holds", "holds")
    assert (verdict(yes, no), verdict(zero, no)) == ("does not hold", "does not hold")
    assert (verdict(yes, zero), verdict(zero)) == ("inconclusive", "inconclusive")


def test_an_equal_budget_ends_with_the_shorter_arm() -> None:
    """A step takes 2 s with 8 of 8 and 1 s with 1 of 8, so 8 of 8 has made 25 steps when 1 of 8 ends after 50 s."""
    line = tuple(step / 100 for step in range(10, 60, 10))
    expensive = [trial(seed, line, m=8, seconds=seconds) for seed, seconds in enumerate((2.0, 1.5, 9.0))]  # median 2
    cheap = [trial(seed, line, m=1, seconds=1.0, rollouts=16) for seed in range(3)]
    sweeps = {"s": expensive + cheap}
    at_seconds = compare_arms(eight_above_one("equal_seconds"), sweeps)
    assert (at_seconds.higher, at_seconds.lower) == pytest.approx((0.25, 0.5))
    at_rollouts = compare_arms(eight_above_one("equal_rollouts"), sweeps)  # 50 x 16 = 800 rollouts are 12.5 steps of 64
    assert (at_rollouts.higher, at_rollouts.lower) == pytest.approx((0.125, 0.5))
    sft = {"s": [trial(seed, line, m=m, rollouts=0) for seed in range(3) for m in (1, 8)]}
    with pytest.raises(InputError, match="SFT has no equal_rollouts"):
        compare_arms(eight_above_one("equal_rollouts"), sft)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_arms_break_even_at_the_computed_share(share: float) -> None:
    """1 of 8 trains on a quarter of the rows, and is set up to be as fast as 8 of 8 if generation is `share`."""
    cost = share + (1 - share) / 4
    steps = range(10, 110, 10)
    more = [trial(seed, tuple(s / 100 for s in steps), m=8) for seed in range(3)]
    fewer = [trial(seed, tuple(cost * s / 100 for s in steps), m=1, rows=16, seconds=0.4) for seed in range(3)]
    for comparison in (eight_above_one("equal_seconds"), one_above_eight("equal_seconds")):
        pair = break_even(comparison, {"s": more + fewer})
        assert (pair.fewer, pair.more) == (Arm("s", {"m": 1}), Arm("s", {"m": 8}))
        assert (pair.level, pair.allowed, pair.measured) == pytest.approx((cost, cost, 0.4))
        assert (pair.share, pair.low, pair.high) == pytest.approx((share,) * 3)
        assert f"| {share:.0%} of a step ({share:.0%} to {share:.0%}) " in break_even_table([pair])


def test_more_rollouts_for_the_same_rows_are_faster_if_generation_is_cheap() -> None:
    """The smaller share learns twice as fast from 8 times the rollouts and as many rows: 8 f + (1 - f) = 2."""
    steps = range(10, 110, 10)
    more = [trial(seed, tuple(s / 200 for s in steps), m=8, rollouts=64) for seed in range(3)]
    fewer = [trial(seed, tuple(s / 100 for s in steps), m=1, rollouts=512) for seed in range(3)]
    comparison = eight_above_one("equal_seconds")
    pair = break_even(comparison, {"s": more + fewer})
    assert (pair.level, pair.allowed, pair.share) == pytest.approx((0.5, 2, 1 / 7))
    early = [trial(seed, (0.9,) * 10, m=1, rollouts=512) for seed in range(3)]
    unknown = break_even(comparison, {"s": more + early})
    assert (unknown.allowed, unknown.share, unknown.low) == (None, None, None)
    assert "before the first evaluation" in break_even_table([unknown])
    for rates, text in (((1, 1), "never"), ((1, 9), "always")):
        arms = [
            trial(seed, tuple(rate * s / 1000 for s in steps), m=m, rollouts=rollouts)
            for seed in range(3)
            for rate, m, rollouts in zip(rates, (8, 1), (64, 512), strict=True)
        ]
        assert f"| {text} (" in break_even_table([break_even(comparison, {"s": arms})])


def test_an_arm_reaches_its_own_final_level_in_spite_of_rounding() -> None:
    """numpy adds eight numbers in another order than eight rows, with a sum that is one rounding smaller."""
    ends = (0.36, 0.17, 0.96, 0.12, 0.79, 0.32, 0.68, 0.9)
    assert np.mean(ends) > np.mean([[0.0, end] for end in ends], axis=0)[-1]
    fewer = [trial(seed, (0.0, end), m=1, rows=16) for seed, end in enumerate(ends)]
    more = [trial(seed, (0.0, 1.0), m=8) for seed in range(len(ends))]
    pair = break_even(eight_above_one("equal_seconds"), {"s": more + fewer})
    assert pair.allowed == pytest.approx((10 + 10 * 0.5375) / 20)


def test_trials_of_an_arm_must_be_evaluated_at_the_same_steps() -> None:
    more = [trial(seed, (0.1, 0.2, 0.3), m=8) for seed in range(3)]
    fewer = [trial(seed, (0.1, 0.2, 0.3)[: 3 - (seed == 1)], m=1, rows=16) for seed in range(3)]
    evaluated = r"'seed': 0} was evaluated at 3 steps up to 30, but .*'seed': 1} at 2 up to 20: run one of them again"
    with pytest.raises(InputError, match=evaluated):
        break_even(eight_above_one("equal_seconds"), {"s": more + fewer})


def test_arms_that_select_the_same_share_have_no_break_even() -> None:
    steps = range(10, 110, 10)

    def arms(rollouts: int, rows: tuple[int, int]) -> dict[str, list[Trial]]:
        curve = tuple(s / 100 for s in steps)
        pairs = zip((8, 1), rows, strict=True)
        return {"s": [trial(seed, curve, m=m, rollouts=rollouts, rows=n) for m, n in pairs for seed in range(3)]}

    both = [eight_above_one("last"), eight_above_one("equal_seconds")]
    assert [len(break_evens(both, arms(64, rows))) for rows in ((64, 16), (16, 16))] == [1, 0]
    assert break_evens(both, arms(0, (0, 0))) == []  # SFT generates no rollouts


def test_tuned_parameters_are_chosen_on_the_other_seeds() -> None:
    values = {"a": (0.9, 0.1, 0.1), "b": (0.2, 0.4, 0.4)}
    trials = [trial(seed, (value,), m=8, lr=lr) for lr, row in values.items() for seed, value in enumerate(row)]
    chosen = arm_trials(Arm("s", {"m": 8, "lr": "tuned"}), {"s": trials}, "pass@1")
    # Without seed 0, b has the higher mean (.4 against .1); without seed 1 or 2, a has (.5 against .3).
    assert {seed: each.parameters["lr"] for seed, each in chosen.items()} == {0: "b", 1: "a", 2: "a"}
    incomplete = [*trials, trial(3, (1.0,), m=8, lr="a")]  # seed 3 does not count, since b lacks it
    assert arm_trials(Arm("s", {"m": 8, "lr": "tuned"}), {"s": incomplete}, "pass@1") == chosen


def test_invalid_arms_are_rejected() -> None:
    trials = [trial(seed, (0.5,), m=8, lr=lr) for seed, lr in product(range(3), (1, 2))]
    for parameters, message in (
        ({"m": 8}, "several trials for seed 0: specify lr"),
        ({"m": 4}, "s, m 4 matches no complete trial"),
        ({"m": 8, "lrr": "tuned"}, "s, m 8, lrr tuned: the sweep has no parameter 'lrr', only m, lr, seed"),
    ):
        with pytest.raises(InputError, match=message):
            arm_trials(Arm("s", parameters), {"s": trials}, "pass@1")
    with pytest.raises(InputError, match="no sweep 'x', only s"):
        arm_trials(Arm("x", {}), {"s": trials}, "pass@1")
    few = [trial(seed, (0.5,), m=m) for seed, m in product(range(2), (1, 8))]
    with pytest.raises(InputError, match="2 complete seeds in common, but need 3 or more"):
        compare_arms(eight_above_one("last"), {"s": few})
    tuned = ArmComparison("last", "pass@1", Arm("s", {"m": 8, "lr": "tuned"}), Arm("s", {"m": 8, "lr": 1}))
    with pytest.raises(InputError, match="0 complete seeds in common, but need 3 or more"):
        compare_arms(tuned, {"s": [each for each in trials if each.seed == 0]})
    for seed in ({}, {"seed": "first"}):
        odd = [replace(trials[0], parameters={"m": 8} | seed)]
        with pytest.raises(
            InputError, match=f"seed of .* is {seed.get('seed')!r}: sweep the parameter seed, with whole"
        ):
            arm_trials(Arm("s", {"m": 8}), {"s": odd}, "pass@1")


@pytest.mark.parametrize("text", ['{"sweep": ["grid"], "seed": 0, "count": null}', "[]", '{"s": [{"m": 8}]}', "{"])
def test_another_file_than_stored_trials_is_named(text: str, tmp_path: Path) -> None:
    """The output directory of a sweep also has a file named trials.json."""
    path = tmp_path / "trials.json"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"trials\.json is not a trials\.json of weigh_claims: give such a file, or the"
    ):
        read_trials(path)


def test_settings_are_grouped_by_the_parameters_that_differ() -> None:
    trials = [trial(seed, (0.5, 0.2, 0.8), m=m, g=8, seconds=2 * m) for seed, m in product((1, 0), (8, 1))]
    trials.append(trial(2, (0.5, 0.5, 0.5), m=8, g=8, seconds=9))
    assert list(by_setting(trials)) == [(("m", 1),), (("m", 8),)]
    first, eight = summarise_settings(trials, metric="pass@1", levels=[0.5, 0.7])
    assert (first.parameters, first.n, first.steps, first.step_seconds) == ({"m": 1}, 2, 30, 2)
    assert first.steadiness == pytest.approx(-0.3)
    assert first.as_json()["metrics"] == {"pass@1": {"mean": 0.8, "low": 0.8, "high": 0.8}}
    assert first.levels == [LevelReached(0.5, 2, 10, 20), LevelReached(0.7, 2, 30, 60)]
    assert eight.metrics["pass@1"].mean == pytest.approx(0.7)
    assert eight.step_seconds == 16
    assert eight.levels[1] == LevelReached(0.7, 2, None, None)


def write_sweep(home: Path, name: str, trials: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    listed = []
    for trial_name, (parameters, logs) in trials.items():
        directory = home / name / "trials" / trial_name
        directory.mkdir(parents=True)
        (directory / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
        spent: dict[str, Any] = {"seconds": {}, "counts": {}, "speedup": {}}
        summary = {"num_generations": 16, "num_generations_update": 4, **spent}
        (directory / "summary.json").write_text(json.dumps(summary))
        listed.append({"name": trial_name, "parameters": parameters, "status": "complete"})
    listed.append({"name": "interrupted", "parameters": {}, "status": "unfinished"})
    (home / name / "sweep.json").write_text(json.dumps({"trials": listed}))


def grpo_logs(value: float) -> list[dict[str, Any]]:
    steps = [
        {"step": step, "step_time": seconds, "rows/selected": 32.0} for step, seconds in ((1, 0.5), (2, 9.0), (3, 0.3))
    ]
    evaluated = {"eval_pass@1": value, "eval_pass@1_low": 0, "eval_pass@1_high": 1, "eval_runtime": 1.0, "step": 3}
    return [*steps, evaluated, {"step": 3, "train_runtime": 10.0}]


def test_a_trial_is_read(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", {"t": ({"m": 4, "seed": 0}, grpo_logs(0.5))})
    directory = tmp_path / "s/trials/t"
    read = read_trial(directory, {"m": 4, "seed": 0})
    assert read == Trial({"m": 4, "seed": 0}, (3,), {"pass@1": (0.5,)}, 0.5, 128, 32)  # 32 rows, 4 of each 16
    sft = [{"step": 4, "eval_runtime": 2.0, "eval_pass@1": 0.1}, {"step": 4, "train_runtime": 10.0}]
    (directory / "summary.json").unlink()
    with pytest.raises(InputError, match=r"has no summary\.json"):
        read_trial(directory, {"m": 4, "seed": 0})
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": sft}))
    read = read_trial(directory, {"seed": 0})
    assert (read.step_seconds, read.step_rollouts, read.step_rows) == (2.0, 0, 0)
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": sft[1:]}))
    with pytest.raises(InputError, match="never evaluated in training: set eval_strategy"):
        read_trial(directory, {"seed": 0})


CLAIMS = {
    "C1 <b>": {
        "claim": "8 | 1",
        "comparisons": [
            {
                "measure": "last",
                "metric": "pass@1",
                "higher": {"sweep": "s", "m": 8},
                "lower": {"sweep": "s", "m": 1},
            }
        ],
    }
}


@pytest.mark.long
def test_results_can_be_regenerated_from_trials_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trials = {
        f"m={m},seed={seed}": ({"m": m, "seed": seed}, grpo_logs(m / 10 + seed / 100))
        for m, seed in product((1, 8), range(3))
    }
    write_sweep(tmp_path / "sweeps", "s", trials)
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(CLAIMS))
    pages = []
    for sweeps, out in ((tmp_path / "sweeps", "out"), (tmp_path / "out/trials.json", "again")):
        config = WeighClaimsConfig(str(tmp_path / "claims.yaml"), str(sweeps), str(tmp_path / out))
        main(config, open_run(tmp_path / out, "weigh_claims", {}))
        pages.append({path.name: path.read_bytes() for path in (tmp_path / out).iterdir() if path.name != "run.json"})
    assert "1 of 7 trials are not complete" in caplog.text
    assert pages[0] == pages[1]
    assert set(pages[0]) == {"claims.json", "claims.md", "claims.svg", "s.svg", "trials.json"}
    [claim] = json.loads(pages[0]["claims.json"])["claims"]
    assert claim["verdict"] == "holds"
    assert claim["comparisons"][0]["difference"]["mean"] == pytest.approx(0.7)
    assert "| 8 \\| 1 |" in pages[0]["claims.md"].decode()
    assert "C1 &lt;b&gt;" in pages[0]["claims.svg"].decode()
    with pytest.raises(InputError, match=r"no directory with a sweep\.json"):
        read_trials(tmp_path / "out")


@pytest.mark.long
def test_curves_have_one_legend_and_axes_that_fit_the_values() -> None:
    def drawn(sign: int) -> str:
        values = (0.0, 0.0, 0.9)  # the interval of their mean reaches below 0
        return curves_figure(
            [
                trial(seed, (sign * value,) * 2, m=m, lr=lr)
                for (seed, value), m, lr in product(enumerate(values), (1, 8), (0.1, 0.2))
            ],
            "pass@1",
        )

    assert [drawn(1).count(f">{label}<") for label in ("m 1", "m 8", "lr 0.1", "lr 0.2")] == [1] * 4
    minus = "\N{MINUS SIGN}"
    assert minus not in drawn(1)
    assert minus in drawn(-1)
    assert curves_figure([], "pass@1").startswith("<svg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claim": "x"}, "must have claim and comparisons"),
        ({"claim": "x", "comparisons": []}, "a list of one or more"),
        ({"claim": "x", "comparisons": [{"measure": "last"}]}, "higher, lower, measure, metric, got"),
        (
            {"claim": "x", "comparisons": [CLAIMS["C1 <b>"]["comparisons"][0] | {"measure": "best"}]},  # type: ignore[operator]
            "measure must be one of last.*got 'best'",
        ),
        (
            {"claim": "x", "comparisons": [CLAIMS["C1 <b>"]["comparisons"][0] | {"lower": {"m": 1}}]},  # type: ignore[operator]
            "lower must name a sweep",
        ),
    ],
)
def test_invalid_claims_are_rejected(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"C": change}))
    with pytest.raises(InputError, match=f"C.*{message}"):
        read_claims(tmp_path / "claims.yaml")


def test_the_claims_of_the_recipes_match_their_sweeps() -> None:
    """Every arm gives each swept parameter except the seed a value of its sweep, or tunes it."""
    home = REPOSITORY / "recipes/tiny"
    sweeps = {path.stem: read_sweep(path) for path in (home / "sweeps").glob("*.yaml")}
    used = set()
    for claim in read_claims(home / "claims/claims.yaml"):
        for comparison in claim.comparisons:
            for arm in (comparison.higher, comparison.lower):
                sweep = sweeps[arm.sweep]
                used.add(arm.sweep)
                assert arm.parameters.keys() >= sweep.swept.keys() - {"seed"}, (claim.name, arm)
                for name, value in arm.parameters.items():
                    assert value == "tuned" or value in sweep.parameters[name].values, (claim.name, arm)
    assert used == sweeps.keys()


def test_claims_of_a_family_are_corrected_together() -> None:
    """A difference that is significant alone is not, beside three others: its p-value is multiplied by four."""
    trials = [trial(seed, (0.5 + 0.1 + 0.04 * seed,), m=8) for seed in range(3)]
    trials += [trial(seed, (0.5,), m=1) for seed in range(3)]
    comparison = eight_above_one("last")
    alone = Claim("alone", "", (comparison,))
    family = [Claim(f"one of four, {number}", "", (comparison,), family="four") for number in range(4)]
    weighed = weigh([alone, *family], {"s": trials})
    assert [own.claim.name for own in weighed] == ["alone", *(claim.name for claim in family)]
    p_value = weighed[0].differences[0].difference.p_value
    assert 0.0125 < p_value < 0.05
    assert [own.differences[0].corrected for own in weighed] == pytest.approx([p_value, *[4 * p_value] * 4])
    assert [own.verdict for own in weighed] == ["holds", *["inconclusive"] * 4]
