"""The stored comparison of rules agrees with its learning curves, and docs/findings.md with the stored comparison."""

import json

import pytest

from raml_trl.render.tables import escape_cell
from raml_trl.sweeps.rule_results import Point, RuleCurve, compare_curves, results_page, tuning_scores
from raml_trl.sweeps.rules import RuleRun, Rules, best_rates, read_rules
from tests.helpers import REPOSITORY

RULES = REPOSITORY / "recipes/tiny/rules/rules_mixed.yaml"
RESULTS = REPOSITORY / "recipes/tiny/rules/results/mixed"
PAGE = REPOSITORY / "docs/findings.md"


@pytest.fixture(scope="module")
def rules() -> Rules:
    return read_rules(RULES)


@pytest.fixture(scope="module")
def compared(rules: Rules) -> list[RuleCurve]:
    """The curves of the comparison, found by the settings of `rules.yaml` and the learning rates of the tuning runs."""
    stored = json.loads((RESULTS / "rules.json").read_text("utf-8"))["curves"]
    points = {json.dumps(curve["run"], sort_keys=True): curve["points"] for curve in stored}

    def curve(run: RuleRun) -> RuleCurve:
        return RuleCurve(run, tuple(Point(**point) for point in points[json.dumps(run.as_json(), sort_keys=True)]))

    rates = best_rates(tuning_scores(map(curve, rules.tuning_runs())))
    return list(map(curve, rules.comparison_runs(rates)))


def test_the_stored_page_follows_from_the_stored_curves(rules: Rules, compared: list[RuleCurve]) -> None:
    page = results_page(compare_curves(compared, rules), compared, rules)
    assert (RESULTS / "rules.md").read_text("utf-8") == page


def test_every_run_of_the_comparison_is_stored(rules: Rules, compared: list[RuleCurve]) -> None:
    assert len(compared) == len(rules.worlds) * len(rules.arms) * len(rules.comparison.seeds)
    assert all(curve.spent("tokens_generated") >= rules.comparison.tokens for curve in compared)


def test_the_findings_show_the_stored_differences(rules: Rules) -> None:
    """The table of the findings has the cell of each arm and world at equal time."""
    cells: dict[str, list[str]] = {}
    for line in (RESULTS / "rules.md").read_text("utf-8").splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[0] in rules.arms:
            cells.setdefault(row[0], []).append(row[5])
    text = PAGE.read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert cells.keys() == set(rules.arms)
    for arm, at_equal_time in cells.items():
        assert [escape_cell(arm), *at_equal_time] in rows, arm
