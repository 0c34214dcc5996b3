"""Claims held against trials whose every value is known."""

import json
import math
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run
from raml_trl.sweeps.break_even import break_even, break_even_table, break_evens
from raml_trl.sweeps.claims import Arm, Comparison, arm_trials, read_claims, verdict, weigh
from raml_trl.sweeps.claims_page import curves_figure
from raml_trl.sweeps.learning_curves import Trial, last, read_trial, steadiness, steps_to, value_at
from raml_trl.sweeps.measured_settings import by_setting, measure_settings
from raml_trl.sweeps.sweep_file import read_sweep
from raml_trl.weigh_claims import WeighClaimsConfig, main, read_sweeps
from tests.helpers import REPOSITORY

T_2_95, T_4_95 = 4.302653, 2.776445  # of Student's law: 97.5 % lie below, at 2 and 4 degrees of freedom


def trial(
    seed: int,
    curve: tuple[float, ...],
    *,
    price: float = 1.0,
    rollouts: int = 64,
    rows: int = 64,
    steps: int = 10,
    **parameters: Any,
) -> Trial:
    places = tuple(range(steps, steps * (len(curve) + 1), steps))
    return Trial({**parameters, "seed": seed}, places, {"pass@1": curve}, price, rollouts, rows)


CURVE = trial(0, (0.1, 0.5, 0.3, 0.9, 0.6))


def test_measures_of_a_curve() -> None:
    assert last(CURVE, "pass@1") == 0.6
    assert steadiness(CURVE, "pass@1") == pytest.approx(-0.3)  # from .9 to .6, not the .2 before
    assert steadiness(trial(0, (0.1, 0.1, 0.4)), "pass@1") == 0
    assert [value_at(CURVE, "pass@1", step) for step in (10, 15, 50)] == pytest.approx([0.1, 0.3, 0.6])
    assert [steps_to(CURVE, "pass@1", level) for level in (0.1, 0.4, 0.5, 0.9, 0.91)] == [10, 20, 20, 40, None]
    for step in (9, 51):
        with pytest.raises(InputError, match="evaluated from step 10 to 50, not at"):
            value_at(CURVE, "pass@1", step)
    with pytest.raises(InputError, match=r"'pass@2' was not evaluated.*there is pass@1"):
        last(CURVE, "pass@2")


def compare(measure: Any, **parameters: Any) -> Comparison:
    return Comparison(measure, "pass@1", Arm("s", {"m": 8, **parameters}), Arm("s", {"m": 1, **parameters}))


def test_arms_are_compared_seed_by_seed() -> None:
    high, low = {0: 0.5, 1: 0.7, 2: 0.9, 5: 0.0}, {2: 0.8, 1: 0.5, 0: 0.4, 4: 1.0}
    trials = [trial(seed, (0.0, value), m=8) for seed, value in high.items()]
    trials += [trial(seed, (0.0, value), m=1) for seed, value in low.items()]
    weighed = weigh(compare("last"), {"s": trials})
    differences = [0.1, 0.2, 0.1]  # of the seeds that both have
    half = T_2_95 * stdev(differences) / math.sqrt(3)
    assert weighed.seeds == (0, 1, 2)
    assert (weighed.higher, weighed.lower) == pytest.approx((0.7, 1.7 / 3))
    assert weighed.difference.mean == pytest.approx(fmean(differences))
    assert (weighed.difference.low, weighed.difference.high) == pytest.approx(
        (fmean(differences) - half, fmean(differences) + half), abs=1e-6
    )
    assert weighed.verdict == "cannot be told" if weighed.difference.low <= 0 else "holds"
    turned = weigh(Comparison("last", "pass@1", compare("last").lower, compare("last").higher), {"s": trials})
    assert turned.difference.mean == -weighed.difference.mean
    assert turned.difference.p_value == pytest.approx(weighed.difference.p_value)


@pytest.mark.parametrize(("difference", "expected"), [(0.2, "holds"), (-0.2, "does not hold"), (0.0, "cannot be told")])
def test_verdict(difference: float, expected: str) -> None:
    noise = (0.0, 0.01, -0.01, 0.02, -0.02)
    trials = [trial(seed, (0.5 + difference + noise[seed],), m=8) for seed in range(5)]
    trials += [trial(seed, (0.5,), m=1) for seed in range(5)]
    weighed = weigh(compare("last"), {"s": trials})
    assert weighed.verdict == expected
    half = T_4_95 * stdev(noise) / math.sqrt(5)
    assert weighed.difference.high - difference == pytest.approx(half, abs=1e-6)


def test_a_claim_holds_if_all_of_it_does() -> None:
    def outcome(difference: float) -> Any:
        trials = [trial(seed, (0.5 + difference + 0.01 * seed,), m=8) for seed in range(3)]
        return weigh(compare("last"), {"s": trials + [trial(seed, (0.5,), m=1) for seed in range(3)]})

    yes, open_, no = outcome(0.3), outcome(0.0), outcome(-0.3)
    assert [verdict(one) for one in ([yes], [yes, yes], [yes, open_], [yes, no], [open_, no], [open_])] == [
        *("holds", "holds", "cannot be told", "does not hold", "does not hold", "cannot be told")
    ]


def test_an_equal_budget_ends_with_the_shorter_arm() -> None:
    """8 of 8 costs 2 s a step and 1 of 8 costs 1 s: after its 50 steps' 50 s, 8 of 8 has made 25 steps."""
    line = tuple(step / 100 for step in range(10, 60, 10))
    expensive = [trial(seed, line, m=8, price=price) for seed, price in enumerate((2.0, 1.5, 9.0))]  # median 2
    cheap = [trial(seed, line, m=1, price=1.0, rollouts=16) for seed in range(3)]
    sweeps = {"s": expensive + cheap}
    at_seconds = weigh(compare("equal_seconds"), sweeps)
    assert (at_seconds.higher, at_seconds.lower) == pytest.approx((0.25, 0.5))
    at_rollouts = weigh(compare("equal_rollouts"), sweeps)  # 50 x 16 = 800 rollouts are 12.5 steps of 64
    assert (at_rollouts.higher, at_rollouts.lower) == pytest.approx((0.125, 0.5))
    none = {"s": [trial(seed, line, m=m, rollouts=0) for seed in range(3) for m in (1, 8)]}
    with pytest.raises(InputError, match="SFT generates none"):
        weigh(compare("equal_rollouts"), none)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_arms_are_level_where_it_is_said(share: float) -> None:
    """All rows learn a point a step, a quarter as much as makes their times equal at this share of generation."""
    cost = share + (1 - share) / 4
    steps = range(10, 110, 10)
    every = [trial(seed, tuple(s / 100 for s in steps), m=8) for seed in range(3)]
    fewer = [trial(seed, tuple(cost * s / 100 for s in steps), m=1, rows=16, price=0.4) for seed in range(3)]
    for comparison in (compare("equal_seconds"), Comparison("equal_seconds", "pass@1", *reversed(arms_of()))):
        found = break_even(comparison, {"s": every + fewer})
        assert (found.fewer, found.more) == (Arm("s", {"m": 1}), Arm("s", {"m": 8}))
        assert (found.level, found.allowed, found.measured) == pytest.approx((cost, cost, 0.4))
        assert (found.share, found.low, found.high) == pytest.approx((share,) * 3)
        assert f"| {share:.0%} of a step ({share:.0%} to {share:.0%}) " in break_even_table([found])


def arms_of() -> tuple[Arm, Arm]:
    return compare("last").higher, compare("last").lower


def test_more_rollouts_for_the_same_rows_pay_where_generation_is_cheap() -> None:
    """4 of 32 learns twice as fast as 4 of 4, for 8 times the rollouts: 1 + 7 f = 2."""
    steps = range(10, 110, 10)
    every = [trial(seed, tuple(s / 200 for s in steps), m=8, rollouts=64) for seed in range(3)]
    fewer = [trial(seed, tuple(s / 100 for s in steps), m=1, rollouts=512) for seed in range(3)]
    found = break_even(compare("equal_seconds"), {"s": every + fewer})
    assert (found.level, found.allowed, found.share) == pytest.approx((0.5, 2, 1 / 7))
    early = [trial(seed, (0.9,) * 10, m=1, rollouts=512) for seed in range(3)]
    unknown = break_even(compare("equal_seconds"), {"s": every + early})
    assert (unknown.allowed, unknown.share, unknown.low) == (None, None, None)
    assert "before the first evaluation" in break_even_table([unknown])
    for rates, told in (((1, 1), "nowhere"), ((1, 9), "everywhere")):
        arms = [
            trial(seed, tuple(rate * s / 1000 for s in steps), m=m, rollouts=rollouts)
            for seed in range(3)
            for rate, m, rollouts in zip(rates, (8, 1), (64, 512), strict=True)
        ]
        assert f"| {told} (" in break_even_table([break_even(compare("equal_seconds"), {"s": arms})])


def test_where_no_share_differs_nothing_turns() -> None:
    steps = range(10, 110, 10)

    def arms(rollouts: int, rows: tuple[int, int]) -> dict[str, list[Trial]]:
        curve = tuple(s / 100 for s in steps)
        pairs = zip((8, 1), rows, strict=True)
        return {"s": [trial(seed, curve, m=m, rollouts=rollouts, rows=own) for m, own in pairs for seed in range(3)]}

    both = [compare("last"), compare("equal_seconds")]
    assert [len(break_evens(both, arms(64, rows))) for rows in ((64, 16), (16, 16))] == [1, 0]
    assert break_evens(both, arms(0, (0, 0))) == []  # SFT


def test_what_is_tuned_is_chosen_by_the_other_seeds() -> None:
    values = {"a": (0.9, 0.1, 0.1), "b": (0.2, 0.4, 0.4)}
    trials = [trial(seed, (value,), m=8, lr=lr) for lr, row in values.items() for seed, value in enumerate(row)]
    chosen = arm_trials(Arm("s", {"m": 8, "lr": "tuned"}), {"s": trials}, "pass@1")
    # The others of seed 0 say b; those of 1 and 2 say a, .5 against .3.
    assert {seed: one.parameters["lr"] for seed, one in chosen.items()} == {0: "b", 1: "a", 2: "a"}
    two = [*trials, trial(3, (1.0,), m=8, lr="a")]  # a seed that b lacks counts for nothing
    assert arm_trials(Arm("s", {"m": 8, "lr": "tuned"}), {"s": two}, "pass@1") == chosen


def test_what_is_no_arm_is_refused() -> None:
    trials = [trial(seed, (0.5,), m=8, lr=lr) for seed, lr in product(range(3), (1, 2))]
    for parameters, message in (
        ({"m": 8}, "several trials for seed 0: say which lr"),
        ({"m": 4}, "s, m 4 is no complete trial"),
    ):
        with pytest.raises(InputError, match=message):
            arm_trials(Arm("s", parameters), {"s": trials}, "pass@1")
    with pytest.raises(InputError, match="no sweep 'x', only s"):
        arm_trials(Arm("x", {}), {"s": trials}, "pass@1")
    few = [trial(seed, (0.5,), m=m) for seed, m in product(range(2), (1, 8))]
    with pytest.raises(InputError, match="2 complete seeds in common, and need 3 or more"):
        weigh(compare("last"), {"s": few})


def test_settings_are_told_apart_by_what_differs() -> None:
    trials = [trial(seed, (0.5, 0.2, 0.8), m=m, g=8, price=2 * m) for seed, m in product((1, 0), (8, 1))]
    trials.append(trial(2, (0.5, 0.5, 0.5), m=8, g=8, price=9))
    assert [setting for setting, _ in by_setting(trials).items()] == [(("m", 1),), (("m", 8),)]
    one, eight = measure_settings(trials, metric="pass@1", levels=[0.5, 0.7])
    assert (one["parameters"], one["n"], one["steps"], one["step_seconds"]) == ({"m": 1}, 2, 30, 2)
    assert one["steadiness"] == pytest.approx(-0.3)
    assert one["metrics"]["pass@1"] == {"mean": 0.8, "low": 0.8, "high": 0.8}
    assert one["levels"] == [
        {"level": 0.5, "reached": 2, "steps": 10, "seconds": 20},
        {"level": 0.7, "reached": 2, "steps": 30, "seconds": 60},
    ]
    assert eight["metrics"]["pass@1"]["mean"] == pytest.approx(0.7)
    assert eight["step_seconds"] == 16
    assert eight["levels"][1] == {"level": 0.7, "reached": 2, "steps": None, "seconds": None}


def write_sweep(home: Path, name: str, trials: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    listed = []
    for trial_name, (parameters, logs) in trials.items():
        directory = home / name / "trials" / trial_name
        directory.mkdir(parents=True)
        (directory / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
        settings = {"num_generations": 16, "num_generations_update": 4}
        record = {"command": "train_grpo", "settings": settings, "inputs": {}, "status": "complete", "seconds": 1}
        (directory / "run.json").write_text(json.dumps(record | {"results": {}}))
        listed.append({"name": trial_name, "parameters": parameters, "status": "complete"})
    listed.append({"name": "cut off", "parameters": {}, "status": "unfinished"})
    (home / name / "sweep.json").write_text(json.dumps({"trials": listed}))


def grpo_logs(value: float) -> list[dict[str, Any]]:
    steps = [
        {"step": step, "step_time": seconds, "rows/selected": 32.0} for step, seconds in ((1, 0.5), (2, 9.0), (3, 0.3))
    ]
    evaluated = {"eval_pass@1": value, "eval_pass@1_low": 0, "eval_pass@1_high": 1, "eval_runtime": 1.0, "step": 3}
    return [*steps, evaluated, {"step": 3, "train_runtime": 10.0}]


def test_a_trial_is_read(tmp_path: Path) -> None:
    write_sweep(tmp_path, "s", {"t": ({"m": 4, "seed": 0}, grpo_logs(0.5))})
    found = read_trial(tmp_path / "s/trials/t", {"m": 4, "seed": 0})
    assert found == Trial({"m": 4, "seed": 0}, (3,), {"pass@1": (0.5,)}, 0.5, 128, 32)  # 32 rows of 4 of 16
    sft = [{"step": 4, "eval_runtime": 2.0, "eval_pass@1": 0.1}, {"step": 4, "train_runtime": 10.0}]
    (tmp_path / "s/trials/t/trainer_state.json").write_text(json.dumps({"log_history": sft}))
    found = read_trial(tmp_path / "s/trials/t", {"seed": 0})
    assert (found.step_seconds, found.step_rollouts, found.step_rows) == (2.0, 0, 0)
    (tmp_path / "s/trials/t/trainer_state.json").write_text(json.dumps({"log_history": sft[1:]}))
    with pytest.raises(InputError, match="never evaluated in training: set eval_strategy"):
        read_trial(tmp_path / "s/trials/t", {"seed": 0})


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


def test_the_command_and_again_from_its_own_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert "1 trials of 7 are not complete" in caplog.text
    assert pages[0] == pages[1]
    assert set(pages[0]) == {"claims.json", "claims.md", "claims.svg", "s.svg", "trials.json"}
    [claim] = json.loads(pages[0]["claims.json"])["claims"]
    assert claim["verdict"] == "holds"
    assert claim["comparisons"][0]["difference"]["mean"] == pytest.approx(0.7)
    assert "C1 &lt;b&gt;" in pages[0]["claims.svg"].decode()
    with pytest.raises(InputError, match=r"no directory with a sweep\.json"):
        read_sweeps(tmp_path / "out")


def test_curves_have_one_legend_and_no_more_room_than_values() -> None:
    def drawn(sign: int) -> str:
        values = (0.0, 0.0, 0.9)  # of which the interval reaches below 0
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
def test_what_is_no_claim_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"C": change}))
    with pytest.raises(InputError, match=f"C.*{message}"):
        read_claims(tmp_path / "claims.yaml")


def test_the_claims_of_the_recipes_are_about_their_sweeps() -> None:
    """Every arm is one setting of its sweep, and everything swept but the seed is named or tuned."""
    home = REPOSITORY / "recipes/tiny"
    sweeps = {path.stem: read_sweep(path) for path in (home / "sweeps").glob("*.yaml")}
    used = set()
    for claim in read_claims(home / "claims.yaml"):
        for one in claim.comparisons:
            for arm in (one.higher, one.lower):
                sweep = sweeps[arm.sweep]
                used.add(arm.sweep)
                assert arm.parameters.keys() >= sweep.swept.keys() - {"seed"}, (claim.name, arm)
                for name, value in arm.parameters.items():
                    assert value == "tuned" or value in sweep.parameters[name].values, (claim.name, arm)
    assert used == sweeps.keys()
