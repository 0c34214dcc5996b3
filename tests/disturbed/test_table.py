"""The table of docs/disturbed.md is that of the committed counts, and the counts are right."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.disturbed.table import KINDS, RESULTS, Tally, markdown, merge, shown_table


def report(
    name: str, outcome: Literal["passed", "failed", "skipped"], *properties: tuple[str, object], when: Any = "call"
) -> pytest.TestReport:
    """Return the report of pytest about a phase of a test of the kind "data"."""
    user_properties = [("disturbance", "data"), *properties]
    nodeid = f"tests/disturbed/test_it.py::{name}"
    return pytest.TestReport(nodeid, ("", None, ""), {}, outcome, None, when, user_properties=user_properties)


def test_the_page_shows_the_committed_counts() -> None:
    counts = json.loads(RESULTS.read_text())
    assert list(counts) == list(KINDS)
    assert shown_table() == markdown(counts)
    for tests in counts.values():
        assert tests
        assert all(count["tried"] == count["held"] > 0 for count in tests.values())
        assert all((RESULTS.parent / name.partition("::")[0]).is_file() for name in tests)


def test_cases_are_counted_by_test() -> None:
    tally = Tally()
    for name in ("three[0]", "three[1]", "three[2]"):
        for when in ("setup", "call", "teardown"):
            tally.pytest_runtest_logreport(report(name, "passed", when=when))
    tally.pytest_runtest_logreport(report("five", "passed", ("cases", 2), ("other", "x"), ("cases", 3)))
    tally.pytest_runtest_logreport(report("third_fails", "failed", ("cases", 2)))
    tally.pytest_runtest_logreport(report("fixture_fails", "failed", when="setup"))
    tally.pytest_runtest_logreport(report("skipped", "skipped"))
    uncounted = report("other", "passed")
    uncounted.user_properties.clear()
    tally.pytest_runtest_logreport(uncounted)
    assert tally.counts == {
        "data": {
            "test_it.py::three": {"tried": 3, "held": 3},
            "test_it.py::five": {"tried": 5, "held": 5},
            "test_it.py::third_fails": {"tried": 3, "held": 2},
            "test_it.py::fixture_fails": {"tried": 1, "held": 0},
        }
    }


def test_every_test_of_this_directory_has_a_kind(request: pytest.FixtureRequest) -> None:
    """Except for those of this file, and of the files that were not collected."""
    here = Path(__file__)
    for item in request.session.items:
        if item.path.parent == here.parent and item.path != here:
            marker = item.get_closest_marker("disturbance")
            assert marker is not None, item.nodeid
            assert marker.args[0] in KINDS, item.nodeid


def test_counts_of_other_tests_stay() -> None:
    one, two = {"tried": 1, "held": 1}, {"tried": 2, "held": 1}
    merged = merge({"data": {"a": one, "b": one}}, {"data": {"b": two}, "Hub": {"c": two}})
    assert merged == {kind: {} for kind in KINDS} | {"data": {"a": one, "b": two}, "Hub": {"c": two}}
    assert "| data | 3 | 2 |" in markdown(merged)
