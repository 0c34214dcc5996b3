"""Evaluation during training on two processes, however the model is spread over them; one launch for each way.

DeepSpeed is not among what `make test` installs: without it, its three ways are skipped.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from conftest import REPOSITORY
from safetensors.torch import load_file
from test_in_training import EVALUATED, SEED, by_hand, log_of, start

pytestmark = pytest.mark.slow

# Of the parameters: what a process holds, what its optimizer steps, and what it holds when it begins to sample.
WAYS: dict[str, dict[str, Any]] = {
    "cpu": {"distributed": "MULTI_CPU", "wrapper": "DistributedDataParallel", "held": (1, 1, 1)},
    "zero1": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 1, "held": (1, 1 / 2, 1)},
    "zero2": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 2, "held": (1, 1 / 2, 1)},
    "zero3": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 3, "held": (0, 0, 1)},
    "fsdp2": {"distributed": "FSDP", "wrapper": "FSDPQwen2ForCausalLM", "held": (1 / 2, 1 / 2, 1 / 2)},
}
STEPS = (2, 4)
SHORT = {"seed": SEED, "max_steps": 4, "save_steps": 2, "save_total_limit": 9, "logging_steps": 1, "warmup_steps": 0}
SHORT |= {"learning_rate": 3e-4, "disable_tqdm": "true"}
# Seven chunks: in the last round, one of two processes has none left.
OFTEN = EVALUATED | {"eval_steps": 2, "eval_on_start": "true"}


@dataclass(frozen=True)
class Launched:
    """What one launch left: a directory for each run, and what its processes noted."""

    way: str
    directory: Path
    notes: list[dict[str, Any]]


@pytest.fixture(scope="module")
def home(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt to end now and then, in `student`, and one process that goes on from it, in `one`."""
    home = tmp_path_factory.mktemp("sharded")
    data = {"dataset_name": home / "data"}
    assert start("prepare_data", "data_sft", output_dir=home / "data", num_questions=24) == 0
    taught = {"max_steps": 120, "per_device_train_batch_size": 32, "save_steps": 120, "disable_tqdm": "true"}
    assert start("train_sft", "sft", model_name_or_path=model_dir, **data, **taught, output_dir=home / "student") == 0
    whole = SHORT | {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    student = {"model_name_or_path": home / "student"}
    assert start("train_sft", "sft", **student, **data, **whole, output_dir=home / "one") == 0
    return home


@pytest.fixture(scope="module", params=WAYS)
def launched(request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Each run evaluated and not; with ZeRO-3, GRPO also with parameters that stay sharded while it samples."""
    way = request.param
    if way.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: pip install -c constraints.txt -e .[deepspeed]")
    if way == "fsdp2" and "_prepare_backend" not in vars(PartialState):
        pytest.skip("this accelerate has no PartialState._prepare_backend, by which FSDP is brought to a CPU")
    directory = tmp_path_factory.mktemp(way)
    inputs = SHORT | {"model_name_or_path": home / "student", "dataset_name": home / "data"}
    inputs |= {"use_cpu": str(way != "fsdp2").lower()}  # FSDP is for accelerators: see `several_runs.py`
    evaluated = OFTEN | {"eval_data": home / "data"}
    runs = {}
    for stage, size in (("sft", 8), ("grpo", 16)):
        settings = inputs | {"per_device_train_batch_size": size}
        kinds = {"plain": {}, "evaluated": evaluated}
        if (stage, way) == ("grpo", "zero3"):
            kinds["not_gathered"] = evaluated | {"ds3_gather_for_generation": "false"}
        for kind, more in kinds.items():
            output = {"output_dir": directory / f"{stage}_{kind}"}
            runs[f"{stage}_{kind}"] = [f"train_{stage}", stage, settings | more | output]
    (directory / "runs.json").write_text(json.dumps(runs, default=str))
    words = ["--config_file", f"accelerate_configs/{way}.yaml", "--num_processes", "2", "--mixed_precision", "no"]
    words += ["--main_process_port", "0", "tests/several_runs.py", str(directory / "runs.json")]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *words]
    with subprocess.Popen(launch, cwd=REPOSITORY) as process:
        try:
            assert process.wait(timeout=300) == 0
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed: it is to end its own processes, which wait for each other
            raise
    return Launched(way, directory, [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)])


def evaluations(directory: Path) -> dict[int, dict[str, float]]:
    """By step, without what a clock said."""
    timed = ("eval_runtime", "epoch", "step")
    return {
        line["step"]: {name: value for name, value in line.items() if name not in timed}
        for line in log_of(directory)
        if "eval_pass@1" in line
    }


def trained(directory: Path) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in log_of(directory) if "loss" in line]


def test_the_model_is_spread_as_the_launch_says(launched: Launched, home: Path) -> None:
    total = sum(weight.numel() for weight in load_file(home / "student" / "model.safetensors").values())
    for notes in launched.notes:
        evaluated = [name for name in notes if not name.endswith("plain")]
        assert len(evaluated) == 2 + (launched.way == "zero3")
        for name in evaluated:
            expected = {"processes": 2, "stage": None} | WAYS[launched.way]
            names, shares = ("parameters", "optimized", "sampling"), expected.pop("held")
            held = {name: share * total for name, share in zip(names, shares, strict=True)}
            if name == "grpo_not_gathered":
                held["sampling"] = 0
            assert {name: value for name, value in notes[name].items() if name != "lengths"} == expected | held
    for name in ("sft_evaluated", "grpo_evaluated"):
        one, other = (notes[name]["lengths"] for notes in launched.notes)
        assert len(one) == len(other) == 4 * 3  # rounds of all evaluations
        assert one != other  # so one is done before the other, and has to wait for it


def test_the_numbers_are_those_of_one_process(launched: Launched, home: Path) -> None:
    """At the start, where all have the same weights, and then of the weights that were saved."""
    for run in launched.directory.glob("*_*"):
        measured = evaluations(run)
        assert list(measured) == ([] if run.name.endswith("plain") else [0, *STEPS])
        for step, numbers in measured.items():
            expected = by_hand(run / f"checkpoint-{step}" if step else home / "student", home / "data")
            assert {name: numbers[name] for name in expected} == pytest.approx(expected), (run.name, step)
            assert numbers["eval_pass@4"] > 0
        assert len({numbers["eval_mean_tokens"] for numbers in measured.values()}) == len(measured)


def test_training_is_the_same_without_it(launched: Launched) -> None:
    for run in launched.directory.glob("*_*"):
        plain = run.with_name(run.name.partition("_")[0] + "_plain")
        assert trained(run) == trained(plain), run.name
        assert len(set(trained(run))) == 4
        for step in STEPS:
            one, other = (path / f"checkpoint-{step}" / "model.safetensors" for path in (run, plain))
            assert one.read_bytes() == other.read_bytes(), (run.name, step)


def test_sft_is_that_of_one_process(launched: Launched, home: Path) -> None:
    losses = [loss for loss, _ in trained(launched.directory / "sft_evaluated")]
    assert losses == pytest.approx([loss for loss, _ in trained(home / "one")], rel=1e-5)


def test_what_is_kept_is_the_best(launched: Launched) -> None:
    for run in launched.directory.glob("*_evaluated"):
        scores = {step: numbers["eval_pass@1"] for step, numbers in evaluations(run).items() if step}
        best = max(scores, key=scores.__getitem__)
        kept, saved = (path / "model.safetensors" for path in (run, run / f"checkpoint-{best}"))
        assert kept.read_bytes() == saved.read_bytes()
