"""Files of rules are read, refused and turned into runs; curves are compared as an independent calculation does."""

import math
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import yaml

from raml_trl.evaluation.intervals import holm
from raml_trl.runtime.errors import InputError
from raml_trl.sweeps.rule_results import (
    Point,
    RuleCurve,
    compare_curves,
    results_figure,
    results_page,
    tuning_scores,
)
from raml_trl.sweeps.rules import Rules, best_rates, read_rules
from tests.helpers import REPOSITORY

T_2_95 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom

RULES: dict[str, Any] = {
    "baseline": "all",
    "arms": {"all": {}, "half": {"num_generations_update": 4}, "some": {"num_generations_update": 2}},
    "worlds": {"w": {"model": "m/{seed}", "questions": "q-{seed}", "test": "t", "settings": {"beta": 0.0}}},
    "settings": {"num_generations": 8, "beta": 0.1},
    "prompt_style": "bare",
    "learning_rates": [1e-3, 1e-2],
    "tuning": {"seeds": [7, 8], "tokens": 2, "evaluations": 1},
    "comparison": {"seeds": [0, 1, 2], "tokens": 55, "evaluations": 4},
    "num_samples": 2,
    "correction": "holm",
}


def read(tmp_path: Path, **changes: Any) -> Rules:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES | changes))
    return read_rules(path)


def test_the_worlds_of_the_repository_compare_the_same_arms() -> None:
    home = REPOSITORY / "recipes/tiny/rules"
    mixed, plain = (read_rules(home / f"rules_{name}.yaml") for name in ("mixed", "arithmetic"))
    assert (list(mixed.worlds), list(plain.worlds)) == (["arithmetic_mixed"], ["arithmetic"])
    assert mixed.arms == plain.arms
    for rules in (mixed, plain):
        assert len(rules.comparison.seeds) == 5
        assert not set(rules.comparison.seeds) & set(rules.tuning.seeds)
        assert rules.correction == "holm"


def test_runs_of_both_stages(tmp_path: Path) -> None:
    rules = read(tmp_path)
    tuning = list(rules.tuning_runs())
    assert len({run.name for run in tuning}) == len(tuning) == 2 * 3 * 2
    rates = {("w", "all"): 1e-3, ("w", "half"): 1e-2, ("w", "some"): 1e-2}
    compared = list(rules.comparison_runs(rates))
    assert [(run.seed, run.arm) for run in compared] == [(s, a) for s in (0, 1, 2) for a in ("all", "half", "some")]
    run = compared[4]
    assert (run.start.model, run.start.questions, run.start.test) == ("m/1", "q-1", "t")
    assert {(run.tokens, run.evaluations) for run in tuning} == {(2, 1)}
    assert {(run.tokens, run.evaluations) for run in compared} == {(55, 4)}
    assert run.settings == {
        "num_generations": 8,
        "beta": 0.0,
        "num_generations_update": 4,
        "learning_rate": 1e-2,
        "seed": 1,
    }


def test_the_best_rate_is_the_lowest_of_equal_ones() -> None:
    scores = {
        ("w", "a", 0.3): [0.5, 0.7],
        ("w", "a", 0.1): [0.6, 0.6],
        ("w", "a", 1.0): [0.9, 0.1],
        ("v", "a", 1.0): [0.0],
    }
    assert best_rates(scores) == {("w", "a"): 0.1, ("v", "a"): 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, "baseline 'none' is none of the arms all, half, some"),
        ({"tuning": {"seeds": [2, 3], "tokens": 1, "evaluations": 1}}, "seed 2 is in tuning and in comparison"),
        (
            {"comparison": {"seeds": [0, 1], "tokens": 1, "evaluations": 1}},
            "comparison has 2 seeds, but intervals need 3",
        ),
        ({"comparison": {"seeds": [0, 1, 1], "tokens": 1, "evaluations": 1}}, "different whole numbers"),
        (
            {"comparison": {"seeds": [0, 1, 2], "tokens": 1.5, "evaluations": 1}},
            "tokens must be a whole number",
        ),
        ({"arms": {"all": {"seed": 3}}}, "all has seed, which the comparison sets"),
        ({"arms": {"all": {}, "hot": {"temperature": 1.3}}}, "arm hot has temperature, which evaluations use too"),
        ({"arms": {"all": {}, "../x": {}}}, "use letters, digits and underscores"),
        ({"arms": {"all": None}}, "all must be a mapping of settings of train_grpo"),
        ({"arms": {}}, "arms must be a mapping with at least one entry"),
        ({"learning_rates": [0.1, 0.1]}, "a list of different numbers above 0"),
        ({"correction": "some"}, "correction must be holm or none"),
        ({"num_samples": True}, "num_samples must be a whole number from 1"),
        (
            {"tuning": {"seeds": [7], "tokens": 1, "evaluations": 0}},
            "tuning: evaluations must be a whole number from 1",
        ),
        ({"prompt_style": "odd"}, "prompt_style 'odd' is unknown"),
        ({"surplus": 1}, "and nothing else"),
        ({"worlds": {"w": {"model": "m"}}}, "world w must have model, questions, test, settings"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, **changes)


def random_curves(rules: Rules, rng: np.random.Generator) -> list[RuleCurve]:
    curves = []
    for run in rules.comparison_runs(dict.fromkeys([("w", arm) for arm in rules.arms], 1e-3)):
        points, costs = [Point(float(rng.random()))], np.zeros(3)
        for step in range(1, 5):
            costs = costs + rng.integers(1, 100, size=3)
            seconds, tokens, rows = costs.tolist()
            points.append(
                Point(
                    float(rng.random()),
                    step,
                    process_seconds=seconds,
                    wall_seconds=2 * seconds,
                    tokens_generated=int(tokens),
                    rows_selected=int(rows),
                )
            )
        curves.append(RuleCurve(run, tuple(points)))
    return curves


def interpolate(points: list[tuple[float, float]], place: float) -> float:
    """Read a polygon at `place`, by the two-point form of a line."""
    for (x, y), (next_x, next_y) in pairwise(points):
        if x <= place <= next_x:
            return y + (place - x) * (next_y - y) / (next_x - x)
    raise AssertionError(place)


def test_differences_equal_an_independent_calculation(tmp_path: Path, rng: np.random.Generator) -> None:
    rules = read(tmp_path)
    curves = random_curves(rules, rng)
    results = compare_curves(curves, rules)
    assert len(results) == 3 * 3
    for cost in ("process_seconds", "tokens_generated", "rows_selected"):
        drawn = {
            (curve.run.arm, curve.run.seed): [(vars(point)[cost], point.pass_at_1) for point in curve.points]
            for curve in curves
        }
        if cost == "process_seconds":  # runs have four steps, so the median run sets the time of the whole run
            ends = {
                arm: sorted(points[-1][0] for (own, _), points in drawn.items() if own == arm) for arm in rules.arms
            }
            drawn = {
                (arm, seed): [(x * ends[arm][1] / points[-1][0], y) for x, y in points]
                for (arm, seed), points in drawn.items()
            }
        budget = min(points[-1][0] for points in drawn.values())
        read_off = {key: interpolate(points, budget) for key, points in drawn.items()}
        for result in (result for result in results if result.cost == cost):
            assert result.budget == pytest.approx(budget)
            assert result.scores == pytest.approx([read_off[result.arm, seed] for seed in (0, 1, 2)])
            if result.arm == "all":
                assert result.difference is None
                assert result.corrected is None
                continue
            differences = [read_off[result.arm, seed] - read_off["all", seed] for seed in (0, 1, 2)]
            half = T_2_95 * stdev(differences) / math.sqrt(3)
            assert result.difference is not None
            assert result.difference.mean == pytest.approx(fmean(differences))
            assert result.difference.low == pytest.approx(fmean(differences) - half, abs=1e-6)
            assert result.difference.high == pytest.approx(fmean(differences) + half, abs=1e-6)
        own = [row for row in results if row.cost == cost and row.difference is not None]
        assert [row.corrected for row in own] == holm([row.difference.p_value for row in own if row.difference])


def test_holm_is_the_closure_of_bonferroni(rng: np.random.Generator) -> None:
    for _ in range(20):
        p_values = (rng.random(5) ** 3).tolist()
        closed = [
            max(
                min(1.0, size * min(p_values[place] for place in subset))
                for size in range(1, 6)
                for subset in combinations(range(5), size)
                if hypothesis in subset
            )
            for hypothesis in range(5)
        ]
        assert holm(p_values) == pytest.approx(closed)
    assert holm([]) == []


def test_page_and_figure_name_every_arm(tmp_path: Path, rng: np.random.Generator) -> None:
    rules = read(tmp_path)
    curves = random_curves(rules, rng)
    results = compare_curves(curves, rules)
    page, figure = results_page(results, curves, rules), results_figure(results, rules)
    assert all(f"| {arm} " in page for arm in rules.arms)
    assert "| half" in page
    assert "Holm's correction" in page
    assert "2.00" in page
    assert "half" in figure
    assert "w, equal generated tokens" in figure


def test_tuning_reads_the_last_evaluation(tmp_path: Path, rng: np.random.Generator) -> None:
    curves = random_curves(read(tmp_path), rng)
    scores = tuning_scores(curves)
    assert scores["w", "half", 1e-3] == [curve.points[-1].pass_at_1 for curve in curves if curve.run.arm == "half"]
