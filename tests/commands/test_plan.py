"""Tests `plan` with a small model: its table, its error messages, and its predictions for a real run."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from raml_trl import plan, prepare_data, train_grpo
from raml_trl.data.config import PrepareDataConfig
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning import forecast
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.inputs import logged_completion_lengths, read_groups
from raml_trl.grpo.planning.step_cost import UNCERTAIN, Work
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from tests.helpers import REPOSITORY

COMMANDS = {
    "plan": (plan.main, PlanConfig),
    "prepare_data": (prepare_data.main, PrepareDataConfig),
    "train_grpo": (train_grpo.main, GRPOArguments, SubsetGRPOConfig, ModelConfig),
}
Start = Callable[..., tuple[int, str, str]]

GIVEN = {"length_median": 20, "length_sigma": 0.5, "seconds_generating": 3.0, "seconds_updating": 2.0}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Start:
    """Runs a command in this process, and returns its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def start(command: str, **settings: object) -> tuple[int, str, str]:
        words = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split())]
        monkeypatch.setattr(sys, "argv", [command, *words])
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS[command], repeatable=command == "plan")
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return start


@pytest.fixture
def recipe(model_dir: str, tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes the demo's GRPO recipe, with a smaller batch and the given values replaced."""

    def recipe(**changes: object) -> Path:
        settings = yaml.safe_load((REPOSITORY / "recipes" / "tiny" / "demo" / "grpo.yaml").read_text())
        settings |= {"model_name_or_path": model_dir, "dataset_name": "data", "per_device_train_batch_size": 16}
        path = tmp_path / f"grpo-{'-'.join(changes)}.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return recipe


def read(directory: Path) -> list[dict]:
    return json.loads((directory / "plan.json").read_text())["predictions"]


@pytest.mark.long
def test_a_plan_from_given_numbers(start: Start, recipe: Callable[..., Path], tmp_path: Path) -> None:
    settings = {"prompt_length": 20, "output_dir": "out", "device_memory": 24, **GIVEN}
    code, output, error = start("plan", recipe=recipe(), **settings)
    assert code == 0, error
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in output.split("\n\n")[0].split("\n")[1:]
    ]
    assert head[:3] == ["trainer", "cells of a micro-batch", "rows"]
    assert [row[0] for row in rows] == ["TRL, m = 8", "ours, m = 1", "ours, m = 2", "ours, m = 4", "ours, m = 8"]
    assert [row[1] for row in rows] == ["960", "118", "198", "358", "678"]
    assert rows[0][4:9] == ["3", "2", "5", "1.00", "1.00"]
    assert rows[2][8] == "1.43"  # 1 / (0.6 + 0.4 * 2 / 8)
    assert "Given: 3 s of generating and 2 s of updating" in output
    assert "Measured" not in output
    assert "Speed-up and ceiling: relative to TRL's trainer" in output
    assert (tmp_path / "out" / "plan.svg").read_text().startswith("<svg")

    baseline, *ours = read(tmp_path / "out")
    assert (baseline["trainer"], baseline["rows"]) == ("TRL", 16)
    assert [row["seconds"]["step"] for row in ours] == sorted(row["seconds"]["step"] for row in ours)
    assert [row["rows"] for row in ours] == [2, 4, 8, 16]
    # float32 takes 16 bytes per parameter. The model has 2 layers, hidden size 64, feed-forward size 64, 24 words, and
    # one matrix for both embedding and head.
    parameters = 24 * 64 + 2 * (4 * 64 * 64 + 3 * 64 + 3 * 64 * 64 + 2 * 64) + 64
    states = ("optimizer", "gradients", "weights")
    assert [ours[0]["bytes"][state] for state in states] == [8 * parameters, 4 * parameters, 4 * parameters]
    # A micro-batch has 2 prompts, of which 19 tokens are shared, and 2 completions of 40 tokens. Its memory consists of
    # the tensors that 2 layers keep and of the working memory of the backward pass, which on a CPU is larger than the
    # working memory of the head.
    layer = 24 * 64 + 4 * (2 * 64 + 2 * 64 + 4 * 64) + 4 * 60
    assert ours[0]["bytes"]["activations"] == 118 * (2 * layer + 4 * (3 * 64 + 2 * 64))
    # A generation has 2 prompts and 16 completions of 40 tokens. The completions of a prompt share 19 of its tokens.
    assert "Not compared: ways to save, because `run` names no run that has logged its rollouts." in output
    assert "Proposed: max_tokens_per_micro_batch: 678, because a whole generation of a process fits" in output
    assert start("plan", recipe=recipe(), **settings)[1] == output


@pytest.mark.children
def test_a_run_matches_its_plan(start: Start, recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Compares runs with m = 2 and 8 with a plan that is based on the run with m = 8.

    It compares rows and cells, but not seconds, which depend on the machine. The lengths in the plan are those of the
    logged texts, in which the special tokens are missing that a random model writes.
    """
    start("prepare_data", dataset_name="arithmetic", dataset_split="grpo", num_questions=40, output_dir="data")
    # A model with random weights is never correct, so with skip_zero_advantage no row would be trained.
    planned = recipe(gradient_accumulation_steps=2, skip_zero_advantage=False, max_steps=6, log_completions=True)
    for selected in (8, 2):
        settings = {"output_dir": f"run-{selected}", "disable_tqdm": "true", "save_strategy": "no"}
        code, _, error = start("train_grpo", config=planned, num_generations_update=selected, **settings)
        assert code == 0, error
    code, output, error = start("plan", recipe=planned, prompt_length=18, run="run-8", output_dir="out")
    assert code == 0, error
    assert "Measured: run-8, 6 steps at m = 8" in output
    assert "Not compared: ways to save, because no logged group has a signal." in output
    # For m = 8 there are two predictions: the one for our trainer replaces the one for TRL's.
    predictions = {row["num_generations_update"]: row for row in read(tmp_path / "out")}
    for selected in (8, 2):
        counts = json.loads((tmp_path / f"run-{selected}" / "summary.json").read_text())["counts"]
        assert predictions[selected]["rows"] == counts["trained"] / 6 == 4 * selected
        assert predictions[selected]["cells"] == pytest.approx(counts["cells_updating"] / 6, rel=0.15)
    # the prediction for m = 8 repeats the measurement
    seconds = json.loads((tmp_path / "run-8" / "summary.json").read_text())["seconds"]
    assert predictions[8]["seconds"]["generating"] == pytest.approx(
        (seconds["generating"] + seconds["rewarding"] + seconds["preparing"]) / 6, rel=1e-3
    )

    baseline = read(tmp_path / "out")[0]  # TRL's trainer, which trains on all rollouts
    assert baseline["seconds"]["speedup"] == pytest.approx(1)

    record = json.loads((tmp_path / "run-8" / "summary.json").read_text())
    assert (record["length_bucketing"], record["skip_zero_advantage"]) == (True, False)
    record["counts"]["trained"] //= 2  # as if half of the groups had no signal
    record["cell_seconds"] = {"fitted": 5e-5, "low": 4e-5, "high": 6e-5}
    write_json(tmp_path / "run-8" / "summary.json", record)
    skipping = recipe(gradient_accumulation_steps=2)
    code, output, error = start("plan", recipe=skipping, prompt_length=18, run="run-8", output_dir="skipping")
    assert code == 0, error
    assert read(tmp_path / "skipping")[-1]["rows"] == 16
    assert "a cell (a token or padding; fitted: 50, 95 % interval 40 to 60)." in output
    assert UNCERTAIN not in output

    record["cell_seconds"]["low"] = 2e-5
    write_json(tmp_path / "run-8" / "summary.json", record)
    shutil.rmtree(tmp_path / "run-8" / "completions")
    code, output, error = start("plan", recipe=planned, prompt_length=18, run="run-8", output_dir="logged")
    assert code == 0, error
    assert UNCERTAIN in output
    logged = {row["num_generations_update"]: row for row in read(tmp_path / "logged")}
    assert logged[8]["cells"] == pytest.approx(predictions[8]["cells"], rel=0.1)

    for settings, message in (
        ({"num_processes": 2}, "run run-8 had processes 1 and the plan has 2"),
        ({"recipe": recipe(num_generations=4)}, "run run-8 had num_generations 8 and the plan has 4"),
        ({"run": "data"}, "data holds a run of prepare_data, not of train_grpo"),
    ):
        code, _, error = start(
            "plan", **{"recipe": planned, "prompt_length": 18, "run": "run-8", "output_dir": "no"} | settings
        )
        assert code == 2
        assert message in error


def test_rollouts_that_were_cut_off_are_named(tmp_path: Path) -> None:
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "completions_00001.parquet").write_bytes(b"")
    args = SubsetGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=8)
    for read_rollouts in (lambda: read_groups(tmp_path, args, 10), lambda: logged_completion_lengths(tmp_path)):
        with pytest.raises(InputError, match=r"completions_00001\.parquet cannot be read: ArrowInvalid"):
            read_rollouts()


@pytest.mark.slow
def test_a_recipe_for_two_processes(start: Start, recipe: Callable[..., Path], tmp_path: Path) -> None:
    # Each process has 4 rollouts, which is half a group, so the recipe needs two processes.
    half = recipe(per_device_train_batch_size=4, num_generations_update=2)
    settings = {"recipe": half, "prompt_length": 20, "output_dir": "out", **GIVEN}
    code, _, error = start("plan", **settings)
    assert code == 2
    assert "gives 4 rollouts, which is not a multiple of num_generations (G = 8)" in error
    assert start("plan", **settings, num_processes=2)[0] == 0
    assert [row["num_generations_update"] for row in read(tmp_path / "out")] == [8, 1, 2, 4, 8]
    # If rows keep their micro-batch, there is no plan for m = 1, which would give a micro-batch of 4 * 1 / 8 rows.
    settings["recipe"] = recipe(per_device_train_batch_size=4, num_generations_update=2, length_bucketing=False)
    code, _, error = start("plan", **settings | {"output_dir": "in_order"}, num_processes=2)
    assert code == 0, error
    assert [row["num_generations_update"] for row in read(tmp_path / "in_order")] == [8, 2, 4, 8]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "content"),
    [("lengths.json", [5, 10, 1500]), ("lengths.json", [[1]]), ("lengths.json", [0, 1]), ("lengths.json", [])],
)
def test_lengths_from_a_file(
    start: Start, recipe: Callable[..., Path], tmp_path: Path, name: str, content: list
) -> None:
    write_json(tmp_path / name, content)
    seconds = {"seconds_generating": 3.0, "seconds_updating": 2.0}
    code, output, error = start("plan", recipe=recipe(), prompt_length=20, lengths=name, output_dir="out", **seconds)
    if content == [5, 10, 1500]:
        assert code == 0
        assert "from 3 lengths (mean 18, longest 40)" in output
        # The completions are cut at 40 tokens, after a prompt of 20 tokens.
        assert read(tmp_path / "out")[0]["cells"] == pytest.approx(16 * 60, rel=0.01)
    else:
        assert code == 2
        assert "lengths lengths.json must be a non-empty list of whole numbers" in error


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations_update": 9}, "(m = 9) must lie between 1 and num_generations (G = 8)"),
        ({"seconds_updating": 0.0}, "seconds_updating must be a number above 0 and up to 1,000,000,000, got 0.0"),
        ({"dead_groups": 1.5}, "dead_groups must be a number from 0 to 1, got 1.5"),
        ({"run": "somewhere"}, "set either run, or seconds_generating and seconds_updating"),
        ({"lengths": "a.json"}, "set either lengths, or length_median and length_sigma"),
        ({"recipe": "missing.yaml"}, "config file missing.yaml cannot be read: No such file or directory"),
        ({"sharding": "some"}, "--sharding: invalid choice: 'some'"),
        ({"model_config": "Qwen/Qwen2.5-7B"}, "the config of model Qwen/Qwen2.5-7B cannot be read"),
        ({"prompt_length": 0}, "prompt_length must be a whole number from 1 to 10,000,000, got 0"),
    ],
)
def test_invalid_settings(
    start: Start, recipe: Callable[..., Path], tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    everything = {"recipe": recipe(), "prompt_length": 20, "output_dir": "out", **GIVEN} | settings
    code, _, error = start("plan", **everything)
    assert code == 2
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("raml-trl plan: ")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"skip_zero_advantage": True, "beta": 0.1}, {}, "skip_zero_advantage is on, but with beta = 0.1"),
        ({"per_device_train_batch_size": 12}, {}, "gives 12 rollouts, which is not a multiple of num_generations"),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "length_bucketing": False},
            {"num_generations_update": "2 3"},
            "a micro-batch of per_device_train_batch_size x m / G = 4 x 3 / 8 rows is not a whole number",
        ),
        ({"num_generation": 8}, {}, "unknown key 'num_generation'; did you mean num_generations?"),
        (
            {"per_device_train_batch_size": 8, "generation_batch_size": 24},
            {"num_processes": 2},
            "generation_batch_size (24) must be a multiple of per_device_train_batch_size x processes (8 x 2)",
        ),
        ({"load_in_4bit": True}, {}, "memory is predicted for dense"),
    ],
)
def test_a_recipe_that_cannot_work_is_rejected(
    start: Start, recipe: Callable[..., Path], changes: dict[str, object], settings: dict[str, object], message: str
) -> None:
    everything = {"recipe": recipe(**changes), "prompt_length": 20, "output_dir": "out", **GIVEN} | settings
    code, _, error = start("plan", **everything)
    assert code == 2
    assert message in error


@pytest.mark.parametrize("name", ["missing.json", "missing.parquet"])
def test_lengths_that_cannot_be_read(start: Start, recipe: Callable[..., Path], name: str) -> None:
    seconds = {"seconds_generating": 3.0, "seconds_updating": 2.0}
    code, _, error = start("plan", recipe=recipe(), prompt_length=20, lengths=name, output_dir="out", **seconds)
    assert code == 2
    assert f"lengths {name} cannot be read: FileNotFoundError" in error


@pytest.mark.slow
def test_with_kl_a_reference_model_is_counted_and_no_row_is_skipped(
    start: Start, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"prompt_length": 20, "dead_groups": 0.5, **GIVEN}
    assert start("plan", recipe=recipe(), output_dir="without", **settings)[0] == 0
    assert start("plan", recipe=recipe(beta=0.1), output_dir="with", **settings)[0] == 0
    without, with_kl = (read(tmp_path / name)[-1] for name in ("without", "with"))
    assert with_kl["bytes"]["weights"] == 2 * without["bytes"]["weights"]
    assert with_kl["rows"] == 16
    assert without["rows"] == pytest.approx(8, rel=0.1)


@pytest.mark.long
def test_an_adapter_has_small_gradients(start: Start, recipe: Callable[..., Path], tmp_path: Path) -> None:
    lora = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj", "v_proj"]}
    assert start("plan", recipe=recipe(**lora), prompt_length=20, output_dir="out", **GIVEN)[0] == 0
    # 4 bytes, 2 layers, 2 adapted matrices per layer, rank 2
    assert read(tmp_path / "out")[0]["bytes"]["gradients"] == 4 * 2 * 2 * 2 * (64 + 64)


@pytest.mark.long
def test_the_7b_recipe_can_be_planned_from_any_directory(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(forecast, "draw_work", lambda *_, **__: Work(1.0, 1.0, 1.0))  # the real draw takes seconds
    code, _, error = start("plan", config="recipes/qwen2.5-7b/plan.yaml", output_dir=tmp_path / "out")
    assert code == 0, error
    sizes = read(tmp_path / "out")[-1]["bytes"]
    assert sizes["weights"] == 2 * 7_615_616_512 // 8  # the number of parameters on the model's card
    # A micro-batch has four rows of 1,024 + 16,384 token positions. With gradient checkpointing, its memory consists of
    # the residuals of 28 layers, the tensors of one complete layer, and the working memory of this layer.
    layer = 16 * 3584 + 2 * (2 * 3584 + 2 * 512 + 4 * 18944) + 4 * 28
    working = layer + 2 * (3 * 18944 + 2 * 3584)
    assert sizes["activations"] == 4 * 17408 * (28 * 2 * 3584 + working)
