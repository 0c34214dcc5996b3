"""A command that is killed and started again ends with the weights and log of an uninterrupted one."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import REPOSITORY

STEPS = {"max_steps": 12, "save_steps": 3, "per_device_train_batch_size": 16}
# Some checkpoints lie between the two steps of one generation, and between two log entries.
MID_BUFFER = STEPS | {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "logging_steps": 2}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]


def command(name: str, recipe: str, num_processes: int = 1, **settings: object) -> list[str]:
    overrides = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    config = str(REPOSITORY / "recipes" / "tiny" / "demo" / f"{recipe}.yaml")
    start = [sys.executable] if num_processes == 1 else LAUNCH
    return [*start, "-m", f"raml_trl.{name}", "--config", config, *overrides]


def kill_when(exists: Path, arguments: list[str]) -> None:
    """Start a command, and kill it with all its child processes as soon as a file exists."""
    process = psutil.Popen(arguments, cwd=REPOSITORY)
    deadline = time.monotonic() + 120
    while not exists.exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = [process, *process.children(recursive=True)]  # a launcher starts its processes in separate sessions
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=30)


def logged(directory: Path) -> list[dict[str, Any]]:
    """Return the log of a run without its timings."""
    timed = ("seconds/", "speedup/", "step_time", "train_")
    history = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [
        {name: value for name, value in line.items() if not name.startswith(timed)}
        for line in history
        if "loss" in line
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings", "num_processes"),
    [
        ("sft", STEPS | {"logging_steps": 5}, 1),
        ("sft", STEPS | {"logging_steps": 5, "train_sampling_strategy": "batch_rebalance"}, 2),
        ("grpo", STEPS, 1),
        ("grpo", MID_BUFFER, 1),
        ("grpo", MID_BUFFER, 2),
    ],
)
def test_killed_and_started_again(
    model_dir: str, tmp_path: Path, stage: str, settings: dict[str, Any], num_processes: int
) -> None:
    data = tmp_path / "data"
    subprocess.run(command("prepare_data", f"data_{stage}", num_questions=40, output_dir=data), check=True)
    inputs = {"model_name_or_path": model_dir, "dataset_name": data}
    whole, killed = (
        command(f"train_{stage}", stage, num_processes, **inputs, **settings, output_dir=tmp_path / name)
        for name in ("whole", "killed")
    )
    subprocess.run(whole, cwd=REPOSITORY, check=True)

    kill_when(tmp_path / "killed" / "checkpoint-9" / "manifest.json", killed)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    weights = tmp_path / "killed" / "checkpoint-9" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])  # as on a full disk, so the previous checkpoint must be used

    again = subprocess.run(killed, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "checkpoint-9 is incomplete (model.safetensors is truncated)" in again.stderr
    assert "checkpoint-6" in again.stderr.partition("resuming from")[2].splitlines()[0]
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    if stage == "grpo":
        assert logged(tmp_path / "whole")[-1]["step"] == 12
        counts = [json.loads((tmp_path / name / "summary.json").read_text())["counts"] for name in ("whole", "killed")]
        assert counts[0] == counts[1]
