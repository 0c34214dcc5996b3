"""The stored comparison of rules agrees with its learning curves, and docs/findings.md with it."""

import json
from pathlib import Path
from statistics import median

import pytest

from raml_trl.render.tables import escape_cell
from raml_trl.sweeps.rule_results import Point, RuleCurve, compare_curves, result_cell, results_page, tuning_scores
from raml_trl.sweeps.rules import RuleRun, Rules, best_rates, read_rules
from tests.helpers import REPOSITORY

RECIPES = REPOSITORY / "recipes/tiny/rules"
RESULTS = sorted((RECIPES / "results").iterdir())
FIRST = sorted((RECIPES / "first_results").iterdir())
PAGE = REPOSITORY / "docs/findings.md"


@pytest.fixture(scope="module", params=[*RESULTS, *FIRST], ids=lambda path: f"{path.parent.name}-{path.name}")
def results(request: pytest.FixtureRequest) -> Path:
    """The directory with the stored results of one file of rules."""
    return request.param


@pytest.fixture(scope="module")
def rules(results: Path) -> Rules:
    return read_rules(RECIPES / f"rules_{results.name}.yaml")


@pytest.fixture(scope="module")
def compared(results: Path, rules: Rules) -> list[RuleCurve]:
    return read_compared(results, rules)


def read_compared(results: Path, rules: Rules) -> list[RuleCurve]:
    """Return the curves of the comparison, found by the file of rules and by the learning rates of the tuning runs."""
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


def at_equal_time(results: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Return, by arm, the cell of a table at equal time, and the time of a step relative to `all`."""
    rules = read_rules(RECIPES / f"rules_{results.name}.yaml")
    curves = read_compared(results, rules)
    compared = compare_curves(curves, rules)
    cells = {result.arm: result_cell(result) for result in compared if result.cost == "process_seconds"}
    seconds = {arm: median(curve.step_seconds for curve in curves if curve.run.arm == arm) for arm in rules.arms}
    return cells, {arm: seconds[arm] / seconds["all"] for arm in rules.arms}


def table_rows() -> list[list[str]]:
    lines = PAGE.read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]


def test_the_findings_compare_both_runs() -> None:
    (first, first_steps), (second, second_steps) = (
        at_equal_time(path / "arithmetic") for path in (FIRST[0].parent, RESULTS[0].parent)
    )
    rows = table_rows()
    for arm, cell in first.items():
        steps = [f"{relative[arm]:.2f}" for relative in (first_steps, second_steps)]
        assert [escape_cell(arm), steps[0], cell, steps[1], second[arm]] in rows, arm


def test_the_findings_say_which_differences_are_significant() -> None:
    """None is in the second run, and the page names the range of the differences."""
    text = " ".join(PAGE.read_text("utf-8").split())
    for path in RESULTS:
        cells, _ = at_equal_time(path)
        assert not any("*" in cell for cell in cells.values())
        differences = [float(cell.split()[1]) for arm, cell in cells.items() if arm != "all"]
        assert f"lie between {min(differences):+.3f} and {max(differences):+.3f}" in text


def test_the_findings_show_the_stored_differences() -> None:
    """The table of the findings has, for each arm, the cell of each world at equal time."""
    cells: dict[str, list[str]] = {}
    for results in RESULTS:
        arms = read_rules(RECIPES / f"rules_{results.name}.yaml").arms
        for line in (results / "rules.md").read_text("utf-8").splitlines():
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if row[0] in arms:
                cells.setdefault(row[0], []).append(row[5])
    rows = table_rows()
    assert len(cells) == 20
    for arm, at_equal_time in cells.items():
        assert [escape_cell(arm), *at_equal_time] in rows, arm
