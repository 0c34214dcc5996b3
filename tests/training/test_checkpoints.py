"""An incomplete checkpoint is detected, whichever file is truncated or missing."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import Trainer

from raml_trl.training.checkpoints import ResumableTrainer, read_progress, summarize_run, write_progress
from raml_trl.training.completeness import Fault, choose_checkpoint, find_fault
from raml_trl.training.hub_mixin import HubTrainer


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


class Saving(Trainer):
    """Saves and pushes checkpoints in the order of transformers, but pushes to a list."""

    def __init__(self, directory: Path) -> None:
        self.args = SimpleNamespace(output_dir=str(directory), save_total_limit=1, should_save=True, process_index=0)
        self.state = SimpleNamespace(global_step=0, best_model_checkpoint=None)
        self.accelerator, self.hp_search_backend = PartialState(), None
        self.hub_model_id, self.push_in_progress = "user/model", SimpleNamespace(jobs=[])
        self.pushed: list[tuple[str, bool]] = []

    def _save_checkpoint(self) -> None:
        checkpoint = make_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        self._push_from_checkpoint(str(checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.pushed.append((Path(checkpoint_folder).name, (Path(checkpoint_folder) / "manifest.json").is_file()))
        self.push_in_progress.jobs.append(Future())


class PushingTrainer(HubTrainer, ResumableTrainer, Saving):
    def __init__(self, directory: Path) -> None:
        Saving.__init__(self, directory)

    def save(self, step: int) -> list[str]:
        self.state.global_step = step
        self._save_checkpoint()
        return sorted(path.name for path in Path(self.args.output_dir).iterdir())


def test_a_checkpoint_is_pushed_when_it_is_complete_and_kept_until_it_is_sent(tmp_path: Path) -> None:
    trainer = PushingTrainer(tmp_path)
    assert trainer.save(1) == ["checkpoint-1"]
    assert trainer.pushed == [("checkpoint-1", True)]
    assert trainer.save(2) == ["checkpoint-1", "checkpoint-2"]  # checkpoint-1 is being sent
    for job in trainer.push_in_progress.jobs:
        job.set_result(None)
    assert trainer.save(3) == ["checkpoint-3"]
    assert [name for name, _ in trainer.pushed] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
