"""Runs the tests of this directory, counts the disturbances, and writes the table of docs/disturbed.md.

    python -m tests.disturbed.table                 # all tests, also the slow ones
    python -m tests.disturbed.table -k servers      # some tests; the counts of the others stay
    python -m tests.disturbed.table tests/disturbed/test_kills.py

A test counts as one case, or as the number that it passes to `record_property("cases", number)` whenever some cases
have held. Skipped tests do not count.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.disturbed.documented import PAGE

RESULTS = Path(__file__).with_name("results.json")
KINDS = ("kills", "damaged checkpoints", "locks", "settings", "data", "servers", "Hub", "disks", "escaping")
_PLACE = re.compile(r"(?<=<!-- counts -->\n).*?(?=<!-- end of counts -->)", re.DOTALL)

Counts = dict[str, dict[str, dict[str, int]]]
"""The numbers of cases that were tried and that held, by kind and test function."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "disturbance(kind): the kind under which `tests.disturbed.table` counts a test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the kind of disturbance into the reports of a test."""
    for item in items:
        marker = item.get_closest_marker("disturbance")
        if marker is not None:
            item.user_properties.append(("disturbance", marker.args[0]))


class Tally:
    """Plugin of pytest that counts the cases of each test."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kinds = [value for name, value in report.user_properties if name == "disturbance"]
        ended = report.when == "call" or (report.when == "setup" and report.failed)
        if not kinds or not ended or report.skipped:
            return
        held = sum(int(str(value)) for name, value in report.user_properties if name == "cases")
        if report.passed and held == 0:
            held = 1
        test = report.nodeid.partition("[")[0].removeprefix("tests/disturbed/")
        count = self.counts.setdefault(str(kinds[0]), {}).setdefault(test, {"tried": 0, "held": 0})
        count["tried"] += held + report.failed
        count["held"] += held


def merge(before: Counts, new: Counts) -> Counts:
    """Replace the counts of the tests that have run."""
    return {kind: dict(sorted((before.get(kind, {}) | new.get(kind, {})).items())) for kind in KINDS}


def markdown(counts: Counts) -> str:
    """Return the table of the page."""
    lines = ["| kind | cases tried | cases that held |", "|---|---|---|"]
    for kind in KINDS:
        tried, held = (sum(count[name] for count in counts[kind].values()) for name in ("tried", "held"))
        lines.append(f"| {kind} | {tried:,} | {held:,} |")
    return "\n".join(lines) + "\n"


def shown_table() -> str:
    """Return the table that the page shows."""
    [table] = _PLACE.findall(PAGE.read_text())
    return str(table)


def main(arguments: list[str]) -> int:
    tally = Tally()
    places = [] if any(word.startswith("tests/") for word in arguments) else ["tests/disturbed"]
    code = pytest.main([*places, "-m", "not vllm", *arguments], plugins=[tally])
    before = json.loads(RESULTS.read_text()) if arguments and RESULTS.exists() else {}
    counts = merge(before, tally.counts)
    RESULTS.write_text(json.dumps(counts, indent=1) + "\n")
    PAGE.write_text(_PLACE.sub(lambda _: markdown(counts), PAGE.read_text()))
    sys.stdout.write(markdown(counts))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
