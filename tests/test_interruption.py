"""A command that is killed and started again ends where it would have ended."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

STEPS = {"max_steps": 12, "save_steps": 3, "per_device_train_batch_size": 16}


def command(name: str, recipe: str, **settings: object) -> list[str]:
    overrides = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    config = str(REPOSITORY / "recipes" / "tiny" / f"{recipe}.yaml")
    return [sys.executable, "-m", f"raml_trl.{name}", "--config", config, *overrides]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_killed_and_started_again(model_dir: str, tmp_path: Path, stage: str) -> None:
    data = tmp_path / "data"
    subprocess.run(command("prepare_data", f"data_{stage}", num_questions=40, output_dir=data), check=True)
    inputs = {"model_name_or_path": model_dir, "dataset_name": data}
    whole, killed = (
        command(f"train_{stage}", stage, **inputs, **STEPS, output_dir=tmp_path / name) for name in ("whole", "killed")
    )
    subprocess.run(whole, check=True)

    process = subprocess.Popen(killed)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    again = subprocess.run(killed, check=True, capture_output=True, text=True)
    assert "resuming from" in again.stderr
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second
