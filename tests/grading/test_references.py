"""Tests which references count as unreadable, and of which kind."""

import time
from pathlib import Path

import pytest

from benchmarks.grading.pairs import references
from raml_trl.grading import grader
from raml_trl.grading import references as unreadable
from raml_trl.grading.grader import decide_without_algebra, readable
from raml_trl.grading.references import KINDS, unreadable_kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("$$", "blank"),
        ("", "blank"),
        ("NaN", "NaN or infinite"),
        ("-inf", "NaN or infinite"),
        ("Infinity", "NaN or infinite"),
        ("1" * 2_000, "too long"),
        ("{" * 40 + "1" + "}" * 40, "too long"),
        (r"\frac{", "unbalanced"),
        (r"(1, \ldots, 1)", None),
        (r"1 + \ldots", "dots"),
        (r"DQ \parallel AB", "relation"),
        (r"\det(A) > 0", "relation"),
        (r"\oint\oint", "other"),
        (r"\infty", None),
        ("12", None),
        (r"\text{infinity}", None),
    ],
)
def test_kind(answer: str, kind: str | None) -> None:
    assert unreadable_kind(answer) == kind
    assert readable(answer) == (kind is None)
    assert kind is None or kind in KINDS


def test_every_kind_is_used(shared_data: Path) -> None:
    """The references of the real data are readable, except for three that state a relation."""
    assert shared_data.is_dir()
    kinds = [kind for answer in references() if (kind := unreadable_kind(answer.strip()))]
    assert sorted(kinds) == ["relation", "relation", "relation"]


def test_reading_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_slowly(_answer: str) -> bool:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(unreadable, "readable", read_slowly)
    monkeypatch.setattr(unreadable, "SECONDS", 0.1)
    assert unreadable_kind("x") == "too slow"
    assert grader.SECONDS > 1


def test_no_answer_equals_nan_or_infinity() -> None:
    for text in ("NaN", "nan", "inf", "-Infinity"):
        assert decide_without_algebra(text, "5") == "unreadable answer"
        assert decide_without_algebra("5", text) == "unreadable reference"
        assert decide_without_algebra(text, text) == "unreadable answer"
    assert decide_without_algebra(r"\infty", r"\infty") == "correct"
