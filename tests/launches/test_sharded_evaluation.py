"""Evaluation during training on two processes, however the model is spread over them; one launch for each way.

`make test-all` installs DeepSpeed; without it, its three ways are skipped.
"""

from pathlib import Path

import pytest

from tests.helpers.launches import WAYS, Launched, launch, skip_where_impossible, spread, trained
from tests.training.test_evaluation import EVALUATED, SEED, by_hand, log_of, start

pytestmark = pytest.mark.slow

STEPS = (2, 4)
SHORT = {"seed": SEED, "max_steps": 4, "save_steps": 2, "save_total_limit": 9, "logging_steps": 1, "warmup_steps": 0}
SHORT |= {"learning_rate": 3e-4, "disable_tqdm": "true"}
# Seven chunks: in the last round, one of two processes has none left.
OFTEN = EVALUATED | {"eval_steps": 2, "eval_on_start": "true"}


@pytest.fixture(scope="module")
def one(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT that goes on from the student, on one process."""
    directory = tmp_path_factory.mktemp("one") / "sft"
    inputs = {"model_name_or_path": student / "model", "dataset_name": student / "data", "output_dir": directory}
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    assert start("train_sft", "sft", **SHORT, **inputs, **batch) == 0
    return directory


@pytest.fixture(scope="module", params=WAYS)
def launched(request: pytest.FixtureRequest, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Each run evaluated and not; with ZeRO-3, GRPO also with parameters that stay sharded while it samples."""
    way = request.param
    skip_where_impossible(way)
    inputs = SHORT | {"model_name_or_path": student / "model", "dataset_name": student / "data"}
    evaluated = OFTEN | {"eval_data": student / "data"}
    runs = {}
    for stage, size in (("sft", 8), ("grpo", 16)):
        settings = inputs | {"per_device_train_batch_size": size}
        kinds = {"plain": {}, "evaluated": evaluated}
        if (stage, way) == ("grpo", "zero3"):
            kinds["not_gathered"] = evaluated | {"ds3_gather_for_generation": "false"}
        for kind, more in kinds.items():
            runs[f"{stage}_{kind}"] = {"command": f"train_{stage}", "recipe": stage, "settings": settings | more}
    return launch(way, runs, tmp_path_factory.mktemp(way))


def evaluations(directory: Path) -> dict[int, dict[str, float]]:
    """By step, without what a clock said."""
    timed = ("eval_runtime", "epoch", "step")
    return {
        line["step"]: {name: value for name, value in line.items() if name not in timed}
        for line in log_of(directory)
        if "eval_pass@1" in line
    }


def test_the_model_is_spread_as_the_launch_says(launched: Launched, student: Path) -> None:
    evaluated = ["sft_evaluated", "grpo_evaluated", *["grpo_not_gathered"] * (launched.way == "zero3")]
    for name in evaluated:
        expected = spread(launched.way, student / "model")
        if name == "grpo_not_gathered":
            expected["sampling"] = 0
        for notes in launched.notes:
            assert notes[name] == expected | {"lengths": notes[name]["lengths"]}
    for name in ("sft_evaluated", "grpo_evaluated"):
        one, other = (notes[name]["lengths"] for notes in launched.notes)
        assert len(one) == len(other) == 4 * 3  # rounds of all evaluations
        assert one != other  # so one is done before the other, and has to wait for it


def test_the_numbers_are_those_of_one_process(launched: Launched, student: Path) -> None:
    """At the start, where all have the same weights, and then of the weights that were saved."""
    for run in launched.directory.glob("*_*"):
        measured = evaluations(run)
        assert list(measured) == ([] if run.name.endswith("plain") else [0, *STEPS])
        for step, numbers in measured.items():
            expected = by_hand(run / f"checkpoint-{step}" if step else student / "model", student / "data")
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


def test_sft_is_that_of_one_process(launched: Launched, one: Path) -> None:
    losses = [loss for loss, _ in trained(launched.directory / "sft_evaluated")]
    assert losses == pytest.approx([loss for loss, _ in trained(one)], rel=1e-5)


def test_what_is_kept_is_the_best(launched: Launched) -> None:
    for run in launched.directory.glob("*_evaluated"):
        scores = {step: numbers["eval_pass@1"] for step, numbers in evaluations(run).items() if step}
        best = max(scores, key=scores.__getitem__)
        kept, saved = (path / "model.safetensors" for path in (run, run / f"checkpoint-{best}"))
        assert kept.read_bytes() == saved.read_bytes()
