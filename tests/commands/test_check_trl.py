"""Tests `check_trl` with one case: its table, its files and its exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trl import GRPOTrainer

from raml_trl import check_trl
from raml_trl.check_trl import CheckTRLConfig
from raml_trl.grpo.agreement.cases import Case
from raml_trl.runtime.cli import run
from tests.grpo.test_agreement import changed_loss

Start = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Runs the command with one case, and returns its exit code, standard output and standard error."""
    monkeypatch.setattr(check_trl, "loss_cases", lambda: [Case("dapo", {"loss_type": "dapo"})])

    def start(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["check_trl", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            run(check_trl.main, CheckTRLConfig, repeatable=True, optional_output=True)
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return start


@pytest.mark.long
def test_agreement_is_printed_and_written(start: Start, tmp_path: Path) -> None:
    code, output, _ = start("--output_dir", tmp_path / "out")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    assert rows[0] == ["case", "plain", "default", "drop against mask"]
    assert rows[2][:2] == ["dapo", "0"]
    assert output.splitlines()[-3:] == [
        f"{tmp_path}/out/check_trl.json",
        f"{tmp_path}/out/check_trl.svg",
        f"Results: {tmp_path}/out",
    ]
    content = json.loads((tmp_path / "out/check_trl.json").read_text())
    assert content["failures"] == []
    assert 0 < content["cases"][0]["default"]["gradient"] < 1e-5
    assert (tmp_path / "out/check_trl.svg").read_text().startswith("<svg")


@pytest.mark.long
def test_a_change_of_trl_is_named(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", changed_loss("loss / len(advantages)"))
    monkeypatch.chdir(tmp_path)
    code, output, _ = start()
    assert code == 1
    assert "dapo: default: the " in output
    assert "dapo: drop against mask: the " in output
    assert output.splitlines()[-1].startswith("TRL ")
    assert list(tmp_path.iterdir()) == []  # no output_dir, no files


@pytest.mark.long
def test_differences_are_written_and_their_place_is_printed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", changed_loss("loss / len(advantages)"))
    code, output, _ = start("--output_dir", tmp_path / "out")
    assert code == 1
    assert output.splitlines()[-1] == f"Results: {tmp_path}/out"
    assert json.loads((tmp_path / "out/check_trl.json").read_text())["failures"]


def test_a_wrong_tolerance_is_refused(start: Start) -> None:
    code, _, error = start("--tolerance", "0")
    allowed = "a number above 0 and up to 1, got 0.0: give such a value, or leave tolerance out for its default 0.0001"
    assert (code, error) == (2, f"raml-trl check_trl: tolerance must be {allowed}\n")


@pytest.mark.slow
def test_the_installed_trl_agrees(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from raml_trl.grpo.agreement.cases import loss_cases

    monkeypatch.setattr(check_trl, "loss_cases", loss_cases)
    code, output, _ = start()
    assert code == 0, output
