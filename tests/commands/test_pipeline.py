"""Trains a student from questions: prepares data, samples from a teacher, chooses K trajectories and trains.

Each command is started in a process of its own, as a user starts it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raml_trl.runtime.files import read_rows
from tests.helpers import REPOSITORY
from tests.launches.test_interruption import LAUNCH


def run(command: str, recipe: str, directory: Path, *, processes: int = 1, **settings: object) -> dict[str, Any]:
    """Run a command with a demo recipe and return the `results` of its `run.json`."""
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    start = [sys.executable] if processes == 1 else LAUNCH
    start = [*start, "-m", f"raml_trl.{command}", "--config", f"recipes/tiny/demo/{recipe}.yaml"]
    subprocess.run([*start, "--output_dir", str(directory), *words], cwd=REPOSITORY, check=True)
    return json.loads((directory / "run.json").read_text())["results"]


def losses(directory: Path) -> list[float]:
    history = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_two_processes_train_as_one_does(model_dir: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run("prepare_data", "data_sft", data, num_questions=24)
    settings = {"model_name_or_path": model_dir, "dataset_name": data, "max_steps": 4, "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 8, "train_sampling_strategy": "batch_rebalance", "num_trajectories": 3}
    one = run("train_sft", "sft", tmp_path / "one", **settings, gradient_accumulation_steps=4)
    two = run("train_sft", "sft", tmp_path / "two", processes=2, **settings, gradient_accumulation_steps=2)
    assert (one["processes"], two["processes"], two["distributed"]) == (1, 2, "MULTI_CPU")
    assert one["data"] == two["data"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert len(set(losses(tmp_path / "one"))) == 4


@pytest.mark.slow
def test_a_student_of_sampled_trajectories(tmp_path: Path) -> None:
    data, model, teacher, sampled, student = (
        tmp_path / name for name in ("data", "model", "teacher", "sampled", "student")
    )
    prepared = run("prepare_data", "data_sft", data, num_questions=24)
    assert prepared["trajectories"] == 24 * 8
    run("build_model", "model", model)
    # The teacher is trained on the same questions, so that some of its sampled trajectories are correct.
    short = {"model_name_or_path": model, "per_device_train_batch_size": 32, "save_steps": 1000}
    trained = run("train_sft", "sft", teacher, dataset_name=data, **short, max_steps=180)
    assert trained["data"]["trajectories"] == 24 * 4

    settings = {"model_name_or_path": teacher, "dataset_name": data, "num_questions": 24, "questions_per_shard": 5}
    counts = run("sample_trajectories", "sample", sampled, **settings, num_trajectories=6)
    rows = [row for path in sorted(sampled.glob("*.parquet")) for row in read_rows(path)]
    right = [sum(row["labels"]) for row in rows]
    assert counts["questions"] == len(rows) == 24
    assert counts["correct_trajectories"] == sum(right) > 24
    assert counts["shards"] == 5

    for k in (1, 3):
        trained = run(
            "train_sft",
            "sft_sampled",
            student.with_name(f"student{k}"),
            dataset_name=sampled,
            num_trajectories=k,
            **short,
            max_steps=30,
        )
        distinct = [
            len({text for text, label in zip(row["generations"], row["labels"], strict=True) if label}) for row in rows
        ]
        assert trained["data"]["questions"] == 24
        assert trained["data"]["without_correct"] == right.count(0)
        assert trained["data"]["examples"] == sum(right)
        assert trained["data"]["trajectories"] == sum(min(number, k) for number in distinct)
        assert losses(student.with_name(f"student{k}"))[-1] < 0.8 * losses(student.with_name(f"student{k}"))[0]
