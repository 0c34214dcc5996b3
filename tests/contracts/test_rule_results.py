"""The stored comparison of rules agrees with its learning curves, and docs/findings.md with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pytest

from raml_trl.render.tables import escape_cell
from raml_trl.sweeps.rule_results import Point, RuleCurve, compare_curves, result_cell, results_page, tuning_scores
from raml_trl.sweeps.rules import RuleRun, Rules, best_rates, read_rules
from tests.helpers import REPOSITORY

RECIPES = REPOSITORY / "recipes/tiny/rules"
RESULTS = sorted((RECIPES / "results").iterdir())
PAGE = REPOSITORY / "docs/findings.md"


@pytest.fixture(scope="module", params=RESULTS, ids=lambda path: path.name)
def results(request: pytest.FixtureRequest) -> Path:
    """The directory with the stored results of one file of rules."""
    return request.param


@pytest.fixture(scope="module")
def rules(results: Path) -> Rules:
    return read_rules(RECIPES / f"rules_{results.name}.yaml")


@pytest.fixture(scope="module")
def compared(results: Path, rules: Rules) -> list[RuleCurve]:
    """The curves of the comparison, found by the file of rules and by the learning rates of the tuning runs."""
    stored = json.loads((results / "rules.json").read_text("utf-8"))["curves"]
    points = {json.dumps(curve["run"], sort_keys=True): curve["points"] for curve in stored}

    def curve(run: RuleRun) -> RuleCurve:
        return RuleCurve(run, tuple(Point(**point) for point in points[json.dumps(run.as_json(), sort_keys=True)]))

    rates = best_rates(tuning_scores(map(curve, rules.tuning_runs())))
    return list(map(curve, rules.comparison_runs(rates)))


def test_the_stored_page_follows_from_the_stored_curves(results: Path, rules: Rules, compared: list[RuleCurve]) -> None:
    page = results_page(compare_curves(compared, rules), compared, rules)
    assert (results / "rules.md").read_text("utf-8") == page


def test_every_run_of_the_comparison_is_stored(rules: Rules, compared: list[RuleCurve]) -> None:
    assert len(compared) == len(rules.worlds) * len(rules.arms) * len(rules.comparison.seeds)
    assert all(curve.spent("tokens_generated") >= rules.comparison.tokens for curve in compared)


def at_equal_time(curves: list[RuleCurve], rules: Rules, seconds: Mapping[str, float]) -> dict[str, str]:
    """Compare arms at equal time if their steps take `seconds`, and return the cells of a table by arm."""
    rescaled = [curve.with_step_seconds(seconds[curve.run.arm]) for curve in curves]
    return {
        result.arm: result_cell(result)
        for result in compare_curves(rescaled, rules)
        if result.cost == "process_seconds" and result.difference is not None
    }


def test_the_findings_show_the_comparison_without_other_work(
    results: Path, rules: Rules, compared: list[RuleCurve]
) -> None:
    stored = json.loads((results / "step_seconds.json").read_text("utf-8"))["seconds_per_step"]
    seconds = {arm: median(values) for arm, values in stored.items()}
    cells = at_equal_time(compared, rules, seconds)
    assert cells.keys() == rules.arms.keys() - {"all"}
    assert not any("*" in cell for cell in cells.values())
    text = " ".join(PAGE.read_text("utf-8").split())
    if results.name == "mixed":
        differences = [float(cell.split()[1]) for cell in cells.values()]
        assert f"the differences then lie between {min(differences):+.3f} and {max(differences):+.3f}" in text
        return
    arm = "cost_aware_importance_4"
    assert f"`{arm}` is then {cells[arm]}" in text
    assert f"takes {seconds['all']:.2f} instead of" in text
    assert f"takes {seconds[arm] / seconds['all']:.2f} instead of" in text
    recorded = {arm: median(curve.step_seconds for curve in compared if curve.run.arm == arm) for arm in rules.arms}
    assert f"instead of {recorded['all']:.2f} seconds" in text
    assert f"instead of {recorded[arm] / recorded['all']:.2f} of" in text
    for ratio in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75):
        changed = recorded | {arm: ratio * recorded["all"]}
        assert f"| {ratio:.2f} | {at_equal_time(compared, rules, changed)[arm]} |" in text


def test_the_findings_show_the_stored_differences() -> None:
    """The table of the findings has, for each arm, the cell of each world at equal time."""
    cells: dict[str, list[str]] = {}
    for results in RESULTS:
        arms = read_rules(RECIPES / f"rules_{results.name}.yaml").arms
        for line in (results / "rules.md").read_text("utf-8").splitlines():
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if row[0] in arms:
                cells.setdefault(row[0], []).append(row[5])
    text = PAGE.read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len(cells) == 20
    for arm, at_equal_time in cells.items():
        assert [escape_cell(arm), *at_equal_time] in rows, arm
