"""`report.json` of a fixed small input equals the stored one: same keys in the same order, same values."""

import json
from pathlib import Path

import pytest

from tests.reports.test_report import (
    VALUES,
    make,
    verdicts_of,
    write_completions,
    write_evaluation,
    write_grpo,
    write_run,
    write_sweep,
)

EXPECTED = Path(__file__).with_name("report.json")


def write_inputs(home: Path) -> dict[str, list[str]]:
    """Write runs, evaluations and a sweep below `home`; return the arguments of a report on all of them."""
    write_run(home / "sft", "train_sft", {"seed": 3}, [{"step": step, "loss": 2.0 / step} for step in (1, 2, 3)])
    for m, seed in ((2, 0), (2, 1), (8, 0), (8, 1)):
        write_grpo(home / f"m{m}s{seed}", seed, m)
    write_completions(home / "m2s0", 6, {"1 + 1": [("2", True, True), ("3", False, False)]})
    write_evaluation(home / "eval_base", verdicts_of([0, 1, 2]))
    write_evaluation(home / "eval_sft", verdicts_of([1, 3, 2]))
    write_sweep(home / "sweep", {**VALUES, (8, 2): None, (2, 0): None})
    return {
        "runs": ["SFT=sft", "m2=m2s0", "m2=m2s1", "m8=m8s0", "m8=m8s1"],
        "evaluations": ["base=eval_base", "SFT=eval_sft"],
        "sweeps": ["matched=sweep"],
        "baselines": ["matched=num_generations_update=4"],
    }


def ordered(text: str, **options: object) -> object:
    """Parse JSON with each object as a list of pairs, so that comparing also compares the order of keys."""
    return json.loads(text, object_pairs_hook=lambda pairs: [list(pair) for pair in pairs], **options)


def test_report_json_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(), title="Fixed", lead="A fixed input.", **write_inputs(Path()))
    content = ordered(Path("report/report.json").read_text())
    # Floats may differ in the last digits between platforms.
    assert content == ordered(EXPECTED.read_text(), parse_float=lambda number: pytest.approx(float(number), rel=1e-9))
