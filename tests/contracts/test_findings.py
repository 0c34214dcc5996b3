"""The page of findings says what follows from the curves that are kept beside the recipes."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from raml_trl.runtime.runs import open_run
from raml_trl.sweeps.break_even import break_even_table, break_evens
from raml_trl.sweeps.claims import read_claims, weigh
from raml_trl.sweeps.measured_settings import measure_settings, settings_table
from raml_trl.sweeps.sweep_file import read_sweep
from raml_trl.weigh_claims import WeighClaimsConfig, main, read_sweeps, verdicts_table
from tests.helpers import REPOSITORY

RESULTS = REPOSITORY / "recipes/tiny/claims/results"
PAGE = REPOSITORY / "docs/findings.md"


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `weigh_claims` makes of the curves."""
    directory = tmp_path_factory.mktemp("claims") / "out"
    claims, trials = REPOSITORY / "recipes/tiny/claims/claims.yaml", RESULTS / "trials.json"
    main(WeighClaimsConfig(str(claims), str(trials), str(directory)), open_run(directory, "weigh_claims", {}))
    return directory


def flat(content: Any, path: str = "") -> dict[str, Any]:
    """The leaves of JSON by where they stand."""
    if isinstance(content, dict):
        return {key: leaf for name, one in content.items() for key, leaf in flat(one, f"{path}/{name}").items()}
    if isinstance(content, list):
        return {key: leaf for place, one in enumerate(content) for key, leaf in flat(one, f"{path}/{place}").items()}
    return {path: content}


def test_the_results_follow_from_the_curves(again: Path) -> None:
    kept, made = (flat(json.loads((place / "claims.json").read_text())) for place in (RESULTS, again))
    assert kept.keys() == made.keys()
    for place, value in kept.items():
        assert made[place] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), place
    assert (RESULTS / "claims.md").read_text() == (again / "claims.md").read_text()


def test_the_page_has_the_tables() -> None:
    page, sweeps = PAGE.read_text(), read_sweeps(RESULTS / "trials.json")
    claims = read_claims(REPOSITORY / "recipes/tiny/claims/claims.yaml")
    weighed = {claim.name: [weigh(one, sweeps) for one in claim.comparisons] for claim in claims}
    assert verdicts_table(claims, weighed) in page
    comparisons = [one for claim in claims for one in claim.comparisons]
    assert break_even_table(break_evens(comparisons, sweeps)) in page
    for name, trials in sweeps.items():
        rows = measure_settings(trials, metric="pass@1", levels=[0.6, 0.7, 0.8])
        assert settings_table(rows, "pass@1") in page, name
        assert f"results/{name}.svg" in page


def test_the_curves_are_those_of_the_sweeps() -> None:
    """All of their settings, five seeds each."""
    kept = read_sweeps(RESULTS / "trials.json")
    recipes = {path.stem: read_sweep(path) for path in (REPOSITORY / "recipes/tiny/sweeps").glob("*.yaml")}
    assert kept.keys() == recipes.keys()
    for name, sweep in recipes.items():
        values = product(*(parameter.values for parameter in sweep.parameters.values()))
        asked = [dict(zip(sweep.parameters, settings, strict=True)) for settings in values]
        measured = [trial.parameters for trial in kept[name]]
        assert sorted(map(json.dumps, measured)) == sorted(map(json.dumps, asked)), name
