"""Tests the grader on pairs of an answer and a reference whose verdict is beyond dispute, by kind of answer.

`answer_pairs.jsonl`, `typed_pairs.jsonl` and `further_pairs.jsonl` were written before the code that they test. About
half of their answers are wrong and made to fool a grader.
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


@pytest.mark.children
@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("answer_pairs", 50, 52), ("typed_pairs", 72, 48), ("further_pairs", 197, 214)]
)
def test_pairs(pool: GradingPool, name: str, right: int, wrong: int) -> None:
    rows = read_rows(Path(__file__).with_name(f"{name}.jsonl"))
    assert Counter(row["expected"] for row in rows) == {"correct": right, "not correct": wrong}
    assert misjudged(pool, rows, "not correct") == []
    assert misjudged(pool, rows, "correct") == []


@pytest.mark.children
def test_reported_pairs(pool: GradingPool, shared_data: Path) -> None:
    """No wrong answer of the reported pairs is accepted, and no right answer is refused."""
    path = shared_data / "answer_pairs.jsonl"
    if not path.is_file():
        pytest.skip("no reported pairs beside this checkout")
    rows = read_rows(path)
    assert misjudged(pool, rows, "not correct") == []
    assert misjudged(pool, rows, "correct") == []
