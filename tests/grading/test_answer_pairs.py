"""Tests the grader on pairs of an answer and a reference whose verdict is beyond dispute, by kind of answer.

`answer_pairs.jsonl` was written before the code that it tests. About half of its answers are wrong and made to fool a
grader.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raml_trl.grading import GradingPool

Row = dict[str, Any]


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(1) as pool:
        yield pool


def read_rows(path: Path) -> list[Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if not row.get("debatable", False)]


def misjudged(pool: GradingPool, rows: list[Row], expected: str) -> list[Row]:
    """Return the rows with the verdict `expected` to which the grader gives the other verdict."""
    rows = [row for row in rows if row["expected"] == expected]
    grades = pool.grade([(row["text"], row["reference"]) for row in rows], style="boxed")
    return [row for row, graded in zip(rows, grades, strict=True) if graded.correct != (expected == "correct")]


def kinds(rows: list[Row]) -> Counter[str]:
    return Counter(row["kind"] for row in rows)


# Right answers that the grader cannot read yet, by kind.
OPEN = Counter({"approximate signs": 1, "inequalities": 1, "qualifiers": 1})


@pytest.mark.children
def test_pairs(pool: GradingPool) -> None:
    rows = read_rows(Path(__file__).with_name("answer_pairs.jsonl"))
    assert Counter(row["expected"] for row in rows) == {"correct": 50, "not correct": 52}
    assert misjudged(pool, rows, "not correct") == []
    assert kinds(misjudged(pool, rows, "correct")) == OPEN


@pytest.mark.children
def test_reported_pairs(pool: GradingPool, shared_data: Path) -> None:
    """No wrong answer of the reported pairs is accepted, and at most 11 right answers are refused."""
    path = shared_data / "answer_pairs.jsonl"
    if not path.is_file():
        pytest.skip("no reported pairs beside this checkout")
    rows = read_rows(path)
    assert misjudged(pool, rows, "not correct") == []
    assert len(misjudged(pool, rows, "correct")) <= 11
