"""The script that runs TRL's own tests puts our classes in place of TRL's, and lists other outcomes."""

import sys
from pathlib import Path

import pytest

from tests.helpers import trl_own_tests

TESTS = """
import pytest
from trl import GRPOConfig, GRPOTrainer


def test_alike():
    assert issubclass(GRPOTrainer, object)


@pytest.mark.parametrize("name", ["GRPOTrainer"])
def test_different(name):
    assert (GRPOTrainer.__name__, GRPOConfig.__name__) == (name, "GRPOConfig")
"""


@pytest.mark.children
@pytest.mark.slow  # two child processes that import TRL
def test_other_outcomes_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "trl_tests"
    directory.mkdir()
    (directory / trl_own_tests.FILES[-1]).write_text(TESTS)
    monkeypatch.setattr(sys, "argv", ["trl_own_tests", "--tests", str(directory), "--models", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        trl_own_tests.main()
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "test_grpo_trainer.test_different[GRPOTrainer]: passed with TRL's class, failure with ours",
        "passed with TRL's class: 2, with ours: 1, different: 1",
    ]


def test_outcomes_are_read(tmp_path: Path) -> None:
    cases = '<testcase classname="a" name="b"/><testcase classname="a" name="c"><skipped/></testcase>'
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert trl_own_tests.outcomes(tmp_path / "report.xml") == {"a.b": "passed", "a.c": "skipped"}
