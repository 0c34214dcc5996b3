"""Runs the commands of the demo one after the other, with small numbers of questions and steps."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raml_trl import build_model, evaluate, prepare_data, report, train_grpo, train_sft
from raml_trl.data.config import PrepareDataConfig
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.report import ReportConfig
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.history import read_log_history
from raml_trl.sampling.config import EvaluateConfig
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.training.config import CheckedModelConfig
from tests.helpers import REPOSITORY

TINY = REPOSITORY / "recipes" / "tiny" / "demo"
COMMANDS = {
    "build_model": (build_model.main, build_model.BuildModelConfig),
    "prepare_data": (prepare_data.main, PrepareDataConfig),
    "train_sft": (train_sft.main, SFTArguments, CheckedSFTConfig, CheckedModelConfig),
    "train_grpo": (train_grpo.main, GRPOArguments, CheckedGRPOConfig, CheckedModelConfig),
    "evaluate": (evaluate.main, EvaluateConfig),
    "report": (report.main, ReportConfig),
}
Start = Callable[..., tuple[int, str, str]]


def start_command(command: str, recipe: str, **settings: object) -> int:
    """Run a command in this process and return its exit code."""
    overrides = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command, "--config", str(TINY / f"{recipe}.yaml"), *overrides])
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS[command], repeatable=command == "report")
    return stop.value.code


@pytest.fixture
def start(capsys: pytest.CaptureFixture[str]) -> Start:
    """Runs a command in this process and returns its exit code, standard output and standard error."""

    def start(command: str, recipe: str, **settings: object) -> tuple[int, str, str]:
        code = start_command(command, recipe, **settings)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of the demo."""
    home = tmp_path_factory.mktemp("pipeline")
    run_pipeline(lambda *words, **settings: (start_command(*words, **settings), "", ""), home)
    return home


def run_pipeline(start: Start, home: Path) -> None:
    """Run the stages of the demo with a few steps each."""
    short = {"per_device_train_batch_size": 16, "max_steps": 4, "save_steps": 2, "disable_tqdm": "true"}
    stages = [
        ("build_model", "model", {"output_dir": home / "model"}),
        ("prepare_data", "data_sft", {"output_dir": home / "data_sft", "num_questions": 20}),
        ("prepare_data", "data_grpo", {"output_dir": home / "data_grpo", "num_questions": 20}),
        ("prepare_data", "data_test", {"output_dir": home / "data_test", "num_questions": 6}),
        (
            "train_sft",
            "sft",
            short
            | {
                "model_name_or_path": home / "model",
                "dataset_name": home / "data_sft",
                "output_dir": home / "sft",
                "warmup_steps": 1,
            },
        ),
        (
            "train_grpo",
            "grpo",
            short
            | {
                "model_name_or_path": home / "sft",
                "dataset_name": home / "data_grpo",
                "output_dir": home / "grpo",
                "log_completions": "true",
            },
        ),
    ]
    for stage in ("model", "sft", "grpo"):
        settings = {
            "model_name_or_path": home / stage,
            "dataset_name": home / "data_test",
            "output_dir": home / f"eval_{stage}",
            "num_samples": 8,
        }
        stages.append(("evaluate", "eval", settings))
    for command, recipe, settings in stages:
        code, _, error = start(command, recipe, **settings)
        assert code == 0, (command, error)


def make_report(start: Start, home: Path) -> str:
    names = {"base": "model", "SFT": "sft", "GRPO": "grpo"}
    code, output, error = start(
        "report",
        "report",
        output_dir=home / "report",
        evaluations=" ".join(f"{name}={home}/eval_{stage}" for name, stage in names.items()),
        runs=f"SFT={home}/sft GRPO={home}/grpo",
    )
    assert code == 0, error
    assert output.endswith(f"Results: {home}/report\nPage: {home}/report/report.html\n")
    return output


@pytest.mark.children
def test_from_random_weights_to_a_report(start: Start, pipeline: Path) -> None:
    home = pipeline
    output = make_report(start, home)
    lines = output.strip().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "stage",
        "Pass@1",
        "Pass@8",
        "mG-Pass@8",
        "maj@8",
        "seconds",
    ]
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["base", "SFT", "GRPO"]

    page = (home / "report" / "report.html").read_text()
    assert page.count('class="drawing"') >= 3
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)  # the page loads no other files
    data = json.loads((home / "report" / "report.json").read_text())
    assert [stage["name"] for stage in data["stages"]] == ["base", "SFT", "GRPO"]

    samples = read_rows(home / "eval_grpo" / "samples.parquet")
    assert [(row["question_id"], row["sample"]) for row in samples] == [
        (f"test-{question}", sample) for question in range(6) for sample in range(8)
    ]
    metrics = json.loads((home / "eval_grpo" / "metrics.json").read_text())
    correct = sum(row["correct"] for row in samples) / 48
    assert metrics["metrics"]["pass@1"]["mean"] == pytest.approx(correct)

    # The logged tables contain all G rollouts of each group and mark the selected ones.
    table = pd.read_parquet(sorted((home / "grpo" / "completions").iterdir())[-1])
    assert len(table) == 16
    assert table["raml/selected"].tolist().count(True) == 8
    assert {"raml/correct", "raml/formatted", "answer_reward", "advantage"} <= set(table.columns)

    card = (home / "grpo" / "README.md").read_text()
    assert "# Model Card for grpo" in card
    assert "2505.19815" in card

    for saved in ("model", "sft", "grpo", "grpo/checkpoint-4"):  # transformers 4 needs the key rope_theta
        assert json.loads((home / saved / "config.json").read_text())["rope_theta"] == 10_000

    # When all commands are started a second time, none of them does its work again, and the report's table is the same.
    before = {path: path.stat().st_mtime_ns for path in home.glob("*/run.json") if path.parent.name != "report"}
    run_pipeline(start, home)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert make_report(start, home) == output


@pytest.mark.children
def test_the_same_seed_gives_the_same_numbers(start: Start, pipeline: Path, tmp_path: Path) -> None:
    run_pipeline(start, tmp_path)
    first, second = ((home / "eval_grpo" / "samples.parquet").read_bytes() for home in (pipeline, tmp_path))
    assert first == second
    weights = [(home / "grpo" / "model.safetensors").read_bytes() for home in (pipeline, tmp_path)]
    assert weights[0] == weights[1]


def test_models_that_cannot_be_loaded(start: Start, model_dir: str, tmp_path: Path) -> None:
    start("prepare_data", "data_grpo", output_dir=tmp_path / "data", num_questions=16)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(model_dir).iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    for model, reason in ((broken, "cannot be loaded"), (tmp_path / "missing", "there is no such directory")):
        for command, recipe in (("train_grpo", "grpo"), ("evaluate", "eval")):
            code, _, error = start(
                command, recipe, model_name_or_path=model, dataset_name=tmp_path / "data", output_dir=tmp_path / "out"
            )
            assert code == 2
            assert reason in error
            assert error.strip().splitlines()[-1].startswith(f"raml-trl {command}: model {model}")
            assert not (tmp_path / "out").exists()


def test_a_missing_vllm_is_reported_before_the_work(
    start: Start, model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("prepare_data", "data_grpo", output_dir=tmp_path / "data", num_questions=4)
    monkeypatch.setitem(sys.modules, "vllm", None)
    given = {"model_name_or_path": model_dir, "dataset_name": tmp_path / "data", "output_dir": tmp_path / "out"}
    code, _, error = start("train_grpo", "grpo", use_vllm=True, **given)
    assert (code, error) == (
        2,
        "raml-trl train_grpo: vLLM is not installed: in the checkout of raml_trl, run pip install -c constraints.txt "
        '-e ".[vllm]", or set use_vllm: false\n',
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.children
def test_adapters_can_be_trained_and_evaluated(start: Start, model_dir: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    start("prepare_data", "data_grpo", output_dir=data, num_questions=4)
    lora = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "q_proj v_proj", "disable_tqdm": "true"}
    short = {"per_device_train_batch_size": 16, "max_steps": 2}
    inputs = {"model_name_or_path": model_dir, "dataset_name": data, "output_dir": tmp_path / "lora"}
    assert start("train_grpo", "grpo", **inputs, **lora, **short)[0] == 0
    assert not (tmp_path / "lora" / "model.safetensors").exists()
    inputs = {"model_name_or_path": tmp_path / "lora", "dataset_name": data, "output_dir": tmp_path / "eval"}
    assert start("evaluate", "eval", **inputs, num_samples=8)[0] == 0


@pytest.mark.children
def test_a_reward_of_the_user_is_added_to_the_paper_s(start: Start, model_dir: str, tmp_path: Path) -> None:
    start("prepare_data", "data_grpo", output_dir=tmp_path / "data", num_questions=4)
    inputs = {"model_name_or_path": model_dir, "dataset_name": tmp_path / "data", "output_dir": tmp_path / "out"}
    short = {"per_device_train_batch_size": 16, "max_steps": 1, "logging_steps": 1, "disable_tqdm": "true"}
    rewards = {"reward_funcs": "answer tests.helpers.trainers:digit_reward", "reward_weights": "1.0 0.5"}
    assert start("train_grpo", "grpo", **inputs, **short, **rewards)[0] == 0
    log = read_log_history(tmp_path / "out")[0]
    answers, digits = log["rewards/answer_reward/mean"], log["rewards/digit_reward/mean"]
    assert digits > 0
    assert log["reward"] == pytest.approx(answers + digits / 2, abs=1e-5)
    code, _, error = start("train_grpo", "grpo", **inputs | {"output_dir": tmp_path / "b"}, reward_funcs="nowhere:f")
    assert (code, "No module named 'nowhere'" in error, (tmp_path / "b").exists()) == (2, True, False)


def test_m_above_g_is_refused(start: Start, tmp_path: Path) -> None:
    code, _, error = start("train_grpo", "grpo", num_generations_update=9, output_dir=tmp_path / "out")
    assert code == 2
    assert "num_generations_update (m = 9) must lie between 1 and num_generations (G = 8)" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.children
def test_completions_are_escaped_in_the_report(start: Start, pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("report"))
    samples = pd.read_parquet(tmp_path / "eval_grpo" / "samples.parquet")
    samples["text"] = "<script>alert(1)</script>"
    samples.to_parquet(tmp_path / "eval_grpo" / "samples.parquet")
    make_report(start, tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
