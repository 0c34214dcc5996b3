"""The commands run under `accelerate launch`, as the recipes describe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", "-m"]


@pytest.mark.slow
def test_two_processes_train_save_and_are_recorded(model_dir: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare = ["raml_trl.prepare_data", "--config", "recipes/tiny/demo/data_grpo.yaml", "--num_questions", "40"]
    command = [*LAUNCH, *prepare, "--output_dir", str(data)]
    prepared = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert prepared.stderr.count(": 40 of 40 rows kept as questions") == 1  # only the first process ran it,
    assert "nothing to do" not in prepared.stderr  # and the second exited at once
    inputs = ["--model_name_or_path", model_dir, "--dataset_name", str(data)]
    short = ["--per_device_train_batch_size", "8", "--max_steps", "4", "--save_steps", "2"]
    output = ["--output_dir", str(tmp_path / "grpo")]
    train = [*LAUNCH, "raml_trl.train_grpo", "--config", "recipes/tiny/demo/grpo.yaml", *inputs, *short, *output]
    subprocess.run(train, cwd=REPOSITORY, check=True)

    record = json.loads((tmp_path / "grpo" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["results"]["processes"] == 2
    assert record["results"]["distributed"] == "MULTI_CPU"
    assert (tmp_path / "grpo" / "model.safetensors").is_file()
    assert (tmp_path / "grpo" / "checkpoint-4" / "rng_state_1.pth").is_file()

    again = subprocess.run(train, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert again.stderr.count("is complete, nothing to do") == 1  # only the first process says so
