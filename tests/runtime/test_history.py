"""Reading the log history and the summary of a training run, from intact, missing and damaged files."""

import json
from pathlib import Path

import pytest

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import logged_curves, read_log_history, read_summary


def test_the_log_is_read_and_arranged_by_step(tmp_path: Path) -> None:
    logs = [
        {"step": 1, "reward": 0.5, "note": "text", "flag": True},
        {"step": 2, "reward": float("nan"), "loss": 3},
        {"eval_pass@1": 0.25},
        {"step": 3, "reward": 0.75, "grad_norm": float("inf")},
        {"step": 4, "grad_norm": 0.5},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    entries = read_log_history(tmp_path)
    assert entries[0] == {"step": 1, "reward": 0.5}
    assert entries[2] == {"eval_pass@1": 0.25}
    curves = logged_curves(entries)
    assert curves == {
        "step": {1: 1, 2: 2, 3: 3, 4: 4},
        "reward": {1: 0.5, 3: 0.75},
        "loss": {2: 3.0},
        "grad_norm": {4: 0.5},
    }


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "FileNotFoundError"),
        (b'{"log_his', "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "its log_history is not a list of log entries"),
        (b'{"log_history": [1]}', "its log_history is not a list of log entries"),
    ],
)
def test_an_unreadable_log_is_named_with_its_cause(tmp_path: Path, content: bytes | None, cause: str) -> None:
    if content is not None:
        (tmp_path / "trainer_state.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"trainer_state\.json cannot be read: {cause}") as error:
        read_log_history(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_summary_is_optional_but_never_damaged(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None
    summary = {"steps": 3, "seconds": {"updating": 1.0}, "counts": {"rollouts": 8}, "speedup": {"estimated": 1.5}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_summary(tmp_path) == summary
    (tmp_path / "summary.json").write_text('{"seconds": {}}')
    with pytest.raises(InputError, match=r"summary\.json cannot be read: it lacks seconds, counts or speedup"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"seconds": ')
    with pytest.raises(InputError, match=r"summary\.json cannot be read: JSONDecodeError"):
        read_summary(tmp_path)
