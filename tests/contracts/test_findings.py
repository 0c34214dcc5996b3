"""docs/findings.md agrees with the learning curves that are stored with the recipes."""

import json
from itertools import product
from pathlib import Path

import pytest

from raml_trl.runtime.runs import open_run
from raml_trl.sweeps.break_even import break_even_table, break_evens
from raml_trl.sweeps.claims import read_claims, weigh
from raml_trl.sweeps.claims_page import settings_table, verdicts_table
from raml_trl.sweeps.learning_curves import read_trials, summarise_settings
from raml_trl.sweeps.sweep_file import read_sweep
from raml_trl.weigh_claims import WeighClaimsConfig, main
from tests.helpers import REPOSITORY

RESULTS = REPOSITORY / "recipes/tiny/claims/results"
CLAIMS = REPOSITORY / "recipes/tiny/claims/claims.yaml"
PAGE = REPOSITORY / "docs/findings.md"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that `weigh_claims` generates from the stored curves."""
    directory = tmp_path_factory.mktemp("claims") / "out"
    config = WeighClaimsConfig(str(CLAIMS), str(RESULTS / "trials.json"), str(directory))
    main(config, open_run(directory, "weigh_claims", {}))
    return directory


def leaves(content: object, path: str = "") -> dict[str, object]:
    """Return the values in nested JSON by their path, such as `/0/name`."""
    if isinstance(content, dict):
        return {key: leaf for name, part in content.items() for key, leaf in leaves(part, f"{path}/{name}").items()}
    if isinstance(content, list):
        return {
            key: leaf for place, part in enumerate(content) for key, leaf in leaves(part, f"{path}/{place}").items()
        }
    return {path: content}


@pytest.mark.long
def test_results_follow_from_the_curves(regenerated: Path) -> None:
    kept, made = (leaves(json.loads((home / "claims.json").read_text())) for home in (RESULTS, regenerated))
    assert kept.keys() == made.keys()
    for path, value in kept.items():
        assert made[path] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), path
    assert (RESULTS / "claims.md").read_text() == (regenerated / "claims.md").read_text()


def test_the_page_has_the_tables() -> None:
    page, sweeps = PAGE.read_text(), read_trials(RESULTS / "trials.json")
    claims = weigh(read_claims(CLAIMS), sweeps)
    assert verdicts_table(claims) in page
    comparisons = [comparison for weighed in claims for comparison in weighed.claim.comparisons]
    assert break_even_table(break_evens(comparisons, sweeps)) in page
    for name, trials in sweeps.items():
        summaries = summarise_settings(trials, metric="pass@1", levels=[0.6, 0.7, 0.8])
        assert settings_table(summaries, "pass@1") in page, name
        assert f"results/{name}.svg" in page


def test_the_curves_cover_all_trials_of_the_sweeps() -> None:
    kept = read_trials(RESULTS / "trials.json")
    recipes = {path.stem: read_sweep(path) for path in (REPOSITORY / "recipes/tiny/sweeps").glob("*.yaml")}
    assert kept.keys() == recipes.keys()
    for name, sweep in recipes.items():
        values = product(*(parameter.values for parameter in sweep.parameters.values()))
        expected = [dict(zip(sweep.parameters, settings, strict=True)) for settings in values]
        parameters = [trial.parameters for trial in kept[name]]
        assert sorted(map(json.dumps, parameters)) == sorted(map(json.dumps, expected)), name
