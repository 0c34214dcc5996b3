"""Runs the main commands on GSM8K trajectories and Open-Reasoner-Zero questions. Skipped if the data are missing."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from raml_trl.grading.references import KINDS
from raml_trl.runtime.files import read_rows
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

pytestmark = pytest.mark.children


def start(command: str, recipe: str, **settings: object) -> None:
    overrides = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split())]
    config = REPOSITORY / "recipes" / "tiny" / "real" / f"{recipe}.yaml"
    subprocess.run([*python(), "-m", f"raml_trl.{command}", "--config", config, *overrides], check=True)


def results(directory: Path) -> dict[str, object]:
    return json.loads((directory / "run.json").read_text())["results"]


@pytest.mark.slow
def test_sft_data(shared_data: Path, tmp_path: Path) -> None:
    start("prepare_data", "data_sft", dataset_name=shared_data / "gsm8k_rollouts_4x.jsonl.gz", output_dir=tmp_path)
    assert results(tmp_path) == {
        "rows": 1319,
        "questions": 1319,
        "questions_without_markup": 0,
        "trajectories": 5276,
        "correct_trajectories": 290 + 2 * 236 + 3 * 205 + 4 * 156,
        "left_out": {},
        "unreadable_answers": dict.fromkeys(KINDS, 0),
    }
    written = next(row for row in read_rows(tmp_path / "trajectories-00000.parquet") if sum(row["labels"]))
    trajectory = written["generations"][written["labels"].index(1)]
    assert trajectory.startswith("<think>\n")
    assert trajectory.endswith("}\n</conclusion>")


@pytest.mark.slow
def test_grpo_data(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "orz_math_sample_2000.jsonl.gz"
    benchmarks = f"{shared_data}/aime24.jsonl {shared_data}/aime25.jsonl {shared_data}/math500.jsonl.gz"
    settings = {"dataset_name": source, "num_questions": 2000, "benchmarks": benchmarks}
    start("prepare_data", "data_grpo", **settings, output_dir=tmp_path / "data")
    counts = results(tmp_path / "data")
    assert counts["left_out"] == {
        "needs a figure": 76,
        "garbled": 14,  # a form feed or another control character in place of a ligature
        "duplicate": 4,
        "near duplicate": 4,
        "solution in the question": 4,
        "answer the grader cannot read": 3,
    }
    unreadable = {kind: number for kind, number in counts["unreadable_answers"].items() if number}
    assert unreadable == {"relation": 3}
    assert counts["questions"] == 2000 - 76 - 14 - 4 - 4 - 4 - 3
    assert counts["questions_without_markup"] == 56
    rejects = [json.loads(line) for line in (tmp_path / "data" / "rejects.jsonl").read_text().splitlines()]
    assert Counter(row["reason"] for row in rejects) == counts["left_out"]
    assert Counter(row["kind"] for row in rejects if "kind" in row) == unreadable
    assert len({row["row"] for row in rejects}) == len(rejects)
    report = (tmp_path / "data" / "report.md").read_text()
    assert all(f"| {reason} " in report for reason in counts["left_out"])
    assert "dots: 0, relation: 3, words: 0" in report


@pytest.mark.slow
def test_all_commands_in_turn(shared_data: Path, tmp_path: Path) -> None:
    home = tmp_path
    sources = {"sft": "gsm8k_rollouts_4x.jsonl.gz", "grpo": "orz_math_sample_2000.jsonl.gz"}
    for stage, source in sources.items():
        directory = home / f"data_{stage}"
        start("prepare_data", f"data_{stage}", dataset_name=shared_data / source, output_dir=directory)
    start("build_model", "model", tokenizer_data=home / "data_sft", output_dir=home / "model")
    sft = {"model_name_or_path": home / "model", "dataset_name": home / "data_sft", "output_dir": home / "sft"}
    start("train_sft", "sft", **sft, max_steps=30, save_steps=15, logging_steps=5)
    losses = [entry["loss"] for entry in logged(home / "sft") if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    trained = cut_off(home / "sft", 30)
    start("train_sft", "sft", **sft, max_steps=30, save_steps=15, logging_steps=5)
    assert (home / "sft" / "model.safetensors").read_bytes() == trained

    grpo = {"model_name_or_path": home / "sft", "dataset_name": home / "data_grpo", "output_dir": home / "grpo"}
    short = {"max_steps": 3, "save_steps": 1, "max_completion_length": 32}
    start("train_grpo", "grpo", **grpo, **short)
    assert [entry["step"] for entry in logged(home / "grpo") if "reward" in entry] == [1, 2, 3]
    trained = cut_off(home / "grpo", 3)
    start("train_grpo", "grpo", **grpo, **short)
    assert (home / "grpo" / "model.safetensors").read_bytes() == trained

    evaluation = {"model_name_or_path": home / "grpo", "dataset_name": home / "data_grpo", "output_dir": home / "eval"}
    start("evaluate", "eval", **evaluation, num_questions=4, max_completion_length=32)
    assert results(home / "eval")["questions"] == 4


def cut_off(directory: Path, last_step: int) -> bytes:
    """Make a complete run look killed before its last checkpoint, and return its final weights."""
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").unlink()
    shutil.rmtree(directory / f"checkpoint-{last_step}")
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"status": "running"}))
    return weights


def logged(directory: Path) -> list[dict[str, float]]:
    return json.loads((directory / "trainer_state.json").read_text())["log_history"]
