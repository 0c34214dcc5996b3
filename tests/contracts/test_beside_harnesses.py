"""The comparison with other evaluation harnesses detects differences, and docs/other_harnesses.md has its results."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.grading import beside_harnesses as beside
from raml_trl.evaluation.metrics import g_pass_at_k, mg_pass_at_k, pass_at_k
from tests.helpers import REPOSITORY


class Same:
    """A stub of another harness, with our own metrics."""

    pass_at_k = staticmethod(pass_at_k)
    mg_pass_at_k = staticmethod(mg_pass_at_k)
    g_pass_at_k = staticmethod(g_pass_at_k)


class Other(Same):
    """A stub of another harness whose Pass@k and G-Pass@k are each wrong in a single case."""

    @staticmethod
    def pass_at_k(n: int, c: int, k: int) -> float:
        return pass_at_k(n, c, k) + 0.25 * ((n, c, k) == (8, 3, 4))

    @staticmethod
    def g_pass_at_k(n: int, c: int, k: int, tau: str) -> float:
        return g_pass_at_k(n, c, k, tau) - 0.5 * ((n, c, k, tau) == (8, 3, 4, "0.35"))


def test_a_difference_anywhere_on_the_grid_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "NS", (4, 8))
    same, other = beside.on_grid(Same()), beside.on_grid(Other())
    assert {row["greatest_difference"] for row in same.values()} == {0}
    assert {name: row["greatest_difference"] for name, row in other.items()} == pytest.approx(
        {"pass": 0.25, "g_pass": 0.5, "mg_pass": 0}
    )
    # n = 4: k = 1 to 4, and 0 to 4 correct. n = 8: k = 1 to 8, and 0 to 8 correct. mG-Pass@k needs an even k.
    assert {name: row["cases"] for name, row in same.items()} == {"pass": 92, "mg_pass": 46, "g_pass": 92 * 21}


def test_samples_are_compared_question_by_question() -> None:
    found = beside.on_samples(Other(), [8, 8], [3, 6], (2, 4))
    assert found["pass@4"]["greatest_difference"] == pytest.approx(0.25)
    assert found["pass@4"]["theirs"] - found["pass@4"]["ours"] == pytest.approx(0.25 / 2)
    assert found["pass@2"]["greatest_difference"] == 0


def test_samples_are_gathered_by_question(tmp_path: Path) -> None:
    columns = {"question_id": ["a", "b", "a"], "text": ["1", "2", "3"], "correct": [True, False, False]}
    pq.write_table(pa.table(columns), tmp_path / "samples.parquet")
    texts, correct = beside.gather(tmp_path / "samples.parquet")
    assert texts == {"a": ["1", "3"], "b": ["2"]}
    assert correct == {"a": [True, False], "b": [False]}


@pytest.mark.parametrize("harness", beside.HARNESSES)
def test_the_other_harness_agrees(harness: str) -> None:
    record = json.loads((beside.RESULTS / f"beside_{harness}.json").read_text())
    results = record["results"]
    assert record["settings"]["grid"] == json.loads(json.dumps({"n": beside.NS, "k": beside.KS, "tau": beside.TAUS}))
    assert results["greatest_difference"] < 1e-12
    rounded = results["departures"]["thresholds rounded up by floating point"]
    page = (REPOSITORY / "docs" / "other_harnesses.md").read_text()
    assert re.findall(r"\((\d+), (0\.\d+)\)", page) == [(str(row["k"]), str(row["tau"])) for row in rounded]
    assert {row["ours"] for row in rounded} == {1.0}
    cases = sum(row["cases"] for row in results["grid"].values())
    assert f"| {record['machine']['versions'][harness]} | {cases:,} | {results['greatest_difference']:.0e} |" in page
