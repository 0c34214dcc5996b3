"""An incomplete checkpoint is detected, whichever file is truncated or missing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raml_trl.training.checkpoints import read_progress, summarize_run, write_progress
from raml_trl.training.completeness import Fault, choose_checkpoint, find_fault


def test_the_summary_of_a_resumed_run_describes_the_whole_run() -> None:
    """Ten steps of 4 samples in 30 s, of which the last session has done 2 steps in 6 s."""
    logs = {"train_runtime": 6.0, "train_samples_per_second": 8 / 6, "train_steps_per_second": 2 / 6, "train_loss": 0.1}
    summarize_run(logs, {"steps": 8, "seconds": 24.0, "loss": 5.0}, 10)
    whole = {"train_runtime": 30.0, "train_samples_per_second": 1.333, "train_steps_per_second": 0.333}
    assert logs == whole | {"train_loss": 0.5}


def make_checkpoint(path: Path, num_processes: int = 2) -> Path:
    path.mkdir(parents=True)
    save_file({"a": torch.arange(100.0), "b": torch.zeros(3)}, path / "model.safetensors")
    torch.save({"state": torch.ones(50)}, path / "optimizer.pt")
    for process in range(num_processes):
        torch.save({"cpu": torch.ones(10)}, path / f"rng_state_{process}.pth")
        write_progress(path, {"num_processes": num_processes, "step": 3}, process)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return path


def test_a_complete_checkpoint(tmp_path: Path) -> None:
    assert find_fault(make_checkpoint(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state_1.pth", "progress_1.pt", "trainer_state.json"]
)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, name: str, kept: float) -> None:
    path = make_checkpoint(tmp_path / "checkpoint-1")
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: int(len(content) * kept)])
    assert find_fault(path) == Fault(f"{name} is truncated")


@pytest.mark.parametrize("name", ["progress_1.pt", "trainer_state.json", "shard-2.safetensors"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    path = make_checkpoint(tmp_path / "checkpoint-1")
    index = {"weight_map": {"a": "model.safetensors", "c": "shard-2.safetensors"}}
    save_file({"c": torch.zeros(2)}, path / "shard-2.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_fault(path) is None
    (path / name).unlink()
    assert find_fault(path) == Fault(f"{name} is missing", unfinished=name == "trainer_state.json")


def test_an_incomplete_checkpoint_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (9, 10):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    weights = tmp_path / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert choose_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert "checkpoint-10 is incomplete (model.safetensors is truncated)" in caplog.text


def test_progress_of_another_launch_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_checkpoint(tmp_path / "checkpoint-1")
    progress = read_progress(path, 1, 2)
    assert progress is not None
    assert progress["step"] == 3
    assert read_progress(path, 0, 4) is None
    assert "a launch of 2 processes, not 4" in caplog.text
    assert read_progress(path, 3, 4) is None
    assert "progress_3.pt is missing" in caplog.text
