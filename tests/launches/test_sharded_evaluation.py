"""Evaluation during training works on two processes, however the model is sharded. Each way to shard is one launch.

`make test-all` installs DeepSpeed; without it, its three modes are skipped.
"""

from pathlib import Path

import pytest

from tests.helpers.launches import WAYS, Launched, launch, skip_where_impossible, spread, trained
from tests.training.test_evaluation import EVALUATED, SEED, by_hand, log_of, start

pytestmark = pytest.mark.slow

STEPS = (2, 4)
SHORT = {"seed": SEED, "max_steps": 4, "save_steps": 2, "save_total_limit": 9, "logging_steps": 1, "warmup_steps": 0}
SHORT |= {"learning_rate": 3e-4, "disable_tqdm": "true"}
# The questions form seven chunks, so that one of the two processes has no chunk left in the last round.
OFTEN = EVALUATED | {"eval_steps": 2, "eval_on_start": "true"}


@pytest.fixture(scope="module")
def single_process(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT run on one process, which starts from the model of the fixture `student`."""
    directory = tmp_path_factory.mktemp("one") / "sft"
    inputs = {"model_name_or_path": student / "model", "dataset_name": student / "data", "output_dir": directory}
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    assert start("train_sft", "sft", **SHORT, **inputs, **batch) == 0
    return directory


@pytest.fixture(scope="module", params=WAYS)
def launched(request: pytest.FixtureRequest, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """SFT and GRPO, each with and without evaluation.

    With ZeRO-3, a further GRPO run keeps the parameters sharded while it samples.
    """
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
    """Return the evaluations by step, without timings."""
    timed = ("eval_runtime", "epoch", "step")
    return {
        line["step"]: {name: value for name, value in line.items() if name not in timed}
        for line in log_of(directory)
        if "eval_pass@1" in line
    }


def test_the_model_is_sharded_as_configured(launched: Launched, student: Path) -> None:
    evaluated = ["sft_evaluated", "grpo_evaluated", *["grpo_not_gathered"] * (launched.way == "zero3")]
    for name in evaluated:
        expected = spread(launched.way, student / "model")
        if name == "grpo_not_gathered":
            expected["sampling"] = 0
        for notes in launched.notes:
            assert notes[name] == expected | {"lengths": notes[name]["lengths"]}
    for name in ("sft_evaluated", "grpo_evaluated"):
        first, second = (notes[name]["lengths"] for notes in launched.notes)
        assert len(first) == len(second) == 4 * 3  # rounds of all evaluations
        assert first != second  # so one process must wait for the other


def test_metrics_equal_those_of_one_process(launched: Launched, student: Path) -> None:
    """Metrics equal those of the initial weights at the start, and those of the saved weights afterwards."""
    for run in launched.directory.glob("*_*"):
        measured = evaluations(run)
        assert list(measured) == ([] if run.name.endswith("plain") else [0, *STEPS])
        for step, numbers in measured.items():
            expected = by_hand(run / f"checkpoint-{step}" if step else student / "model", student / "data")
            assert {name: numbers[name] for name in expected} == pytest.approx(expected), (run.name, step)
            assert numbers["eval_pass@4"] > 0
        assert len({numbers["eval_mean_tokens"] for numbers in measured.values()}) == len(measured)


def test_evaluation_does_not_change_training(launched: Launched) -> None:
    for run in launched.directory.glob("*_*"):
        plain = run.with_name(run.name.partition("_")[0] + "_plain")
        assert trained(run) == trained(plain), run.name
        assert len(set(trained(run))) == 4
        for step in STEPS:
            weights = [(path / f"checkpoint-{step}" / "model.safetensors").read_bytes() for path in (run, plain)]
            assert weights[0] == weights[1], (run.name, step)


def test_sft_equals_that_of_one_process(launched: Launched, single_process: Path) -> None:
    losses = [loss for loss, _ in trained(launched.directory / "sft_evaluated")]
    assert losses == pytest.approx([loss for loss, _ in trained(single_process)], rel=1e-5)


def test_the_best_checkpoint_is_kept(launched: Launched) -> None:
    for run in launched.directory.glob("*_evaluated"):
        scores = {step: numbers["eval_pass@1"] for step, numbers in evaluations(run).items() if step}
        best = max(scores, key=scores.__getitem__)
        kept, saved = (path / "model.safetensors" for path in (run, run / f"checkpoint-{best}"))
        assert kept.read_bytes() == saved.read_bytes()
