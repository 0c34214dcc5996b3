"""Evaluation during training equals evaluating the saved checkpoints, finds the best step, and changes no training."""

import json
import random
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raml_trl.data.reading import load_questions
from raml_trl.evaluation.metrics import mg_pass_at_k, pass_at_k
from raml_trl.grading.grader import grade
from raml_trl.grpo.dataset import GRPOArguments, evaluation_rows
from raml_trl.prompts import prompt_messages, with_opening
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sampling.loading import load_model
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.training import evaluation as in_training
from raml_trl.training.evaluation import Evaluation
from tests.commands.test_commands import start_command as start
from tests.helpers.trainers import Recorder, make_trainer, untimed, weights

NUM_QUESTIONS, NUM_SAMPLES, PER_CHUNK, SEED = 20, 4, 3, 5
SETTINGS = SamplingSettings(NUM_SAMPLES, 40, temperature=1.0, top_p=1.0, top_k=0)
# The settings of the student, which is trained once in a test session.
TAUGHT = {
    "seed": SEED,
    "max_steps": 120,
    "per_device_train_batch_size": 32,
    "save_steps": 40,
    "save_total_limit": 9,
    "logging_steps": 25,
    "disable_tqdm": "true",
}
EVALUATED = {
    "eval_strategy": "steps",
    "eval_steps": 40,
    "eval_num_questions": NUM_QUESTIONS,
    "eval_num_samples": NUM_SAMPLES,
    "eval_k": "1 4",
    "eval_max_completion_length": SETTINGS.max_completion_length,
    "per_device_eval_batch_size": 12,  # three questions per chunk: six chunks of three, and one of two
    "metric_for_best_model": "eval_pass@1",
    "load_best_model_at_end": "true",
}


def log_of(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "trainer_state.json").read_text())["log_history"]


@pytest.fixture(scope="module")
def home(student: Path, model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two SFT runs: `sft` is evaluated on its training questions, and `plain`, the student, is not evaluated."""
    home = tmp_path_factory.mktemp("in_training")
    (home / "data").symlink_to(student / "data")
    (home / "plain").symlink_to(student / "model")
    inputs = {"model_name_or_path": model_dir, "dataset_name": home / "data", "output_dir": home / "sft"}
    assert start("train_sft", "sft", **inputs, **TAUGHT, **EVALUATED, eval_data=home / "data") == 0
    return home


def by_hand(model_dir: Path, data: Path) -> dict[str, float]:
    """Return the metrics of a saved model, computed without the module `training.evaluation`."""
    questions = load_questions(str(data))[:NUM_QUESTIONS]
    engine = TransformersEngine(*load_model(str(model_dir), dtype="auto"), batch_size=PER_CHUNK * NUM_SAMPLES)
    correct, formatted, finished, tokens = np.zeros(NUM_QUESTIONS, dtype=int), 0, 0, 0
    for number, first in enumerate(range(0, NUM_QUESTIONS, PER_CHUNK)):
        chunk = questions[first : first + PER_CHUNK]
        prompts = [prompt_messages(question.question, "bare") for question in chunk]
        for sample in engine.sample(prompts, SETTINGS, seed=SEED * 1_000_003 + number):
            verdict = grade(with_opening(sample.text), chunk[sample.prompt].answer, style="bare")
            correct[first + sample.prompt] += verdict.correct
            formatted, finished = formatted + verdict.formatted, finished + sample.finished
            tokens += sample.num_tokens
    total = NUM_QUESTIONS * NUM_SAMPLES
    return {
        "eval_pass@1": correct.sum() / total,
        "eval_pass@4": np.mean([pass_at_k(NUM_SAMPLES, c, 4) for c in correct.tolist()]),
        "eval_mg_pass@4": np.mean([mg_pass_at_k(NUM_SAMPLES, c, 4) for c in correct.tolist()]),
        "eval_formatted": formatted / total,
        "eval_finished": finished / total,
        "eval_mean_tokens": tokens / total,
    }


@pytest.mark.children
@pytest.mark.parametrize("step", [40, 120])
def test_the_metrics_are_those_of_the_saved_model(home: Path, step: int) -> None:
    [logged] = [line for line in log_of(home / "sft") if line["step"] == step and "eval_pass@1" in line]
    expected = by_hand(home / "sft" / f"checkpoint-{step}", home / "data")
    assert {name: logged[name] for name in expected} == pytest.approx(expected)
    assert logged["eval_pass@1_low"] <= logged["eval_pass@1"] <= logged["eval_pass@1_high"]
    if step == 120:
        assert 0.1 < logged["eval_pass@1"] < 1  # not at an end, where a wrong value could be equal by chance


@pytest.mark.long
def test_evaluate_draws_the_same_samples(home: Path, tmp_path: Path) -> None:
    settings = {"model_name_or_path": home / "sft" / "checkpoint-120", "dataset_name": home / "data", "seed": SEED}
    settings |= {"num_questions": NUM_QUESTIONS, "num_samples": NUM_SAMPLES, "k": 4, "batch_size": 12}
    assert start("evaluate", "eval", **settings, questions_per_shard=PER_CHUNK, output_dir=tmp_path / "eval") == 0
    samples = read_rows(tmp_path / "eval" / "samples.parquet")
    logged = log_of(home / "sft")[-2]
    assert np.mean([row["correct"] for row in samples]) == pytest.approx(logged["eval_pass@1"])
    assert np.mean([row["num_tokens"] for row in samples]) == pytest.approx(logged["eval_mean_tokens"])


@pytest.mark.children
def test_sft_is_the_same_without_evaluation(home: Path) -> None:
    for step in (40, 80, 120):
        evaluated, plain = (home / name / f"checkpoint-{step}" / "model.safetensors" for name in ("sft", "plain"))
        assert evaluated.read_bytes() == plain.read_bytes()
    timed = ("train_", "step_time")
    logs = [
        [{name: value for name, value in line.items() if not name.startswith(timed)} for line in log_of(home / name)]
        for name in ("sft", "plain")
    ]
    training = [[line for line in log if "loss" in line] for log in logs]
    assert training[0] == training[1]
    assert [line["step"] for line in training[0]] == [25, 50, 75, 100]
    assert [line["step"] for line in logs[0] if "eval_pass@1" in line] == [40, 80, 120]


@pytest.mark.children
def test_the_best_checkpoint_is_recorded(home: Path) -> None:
    scores = {line["step"]: line["eval_pass@1"] for line in log_of(home / "sft") if "eval_pass@1" in line}
    best = max(scores, key=scores.__getitem__)
    state = json.loads((home / "sft" / "trainer_state.json").read_text())
    assert (state["best_metric"], state["best_global_step"]) == (scores[best], best)
    results = json.loads((home / "sft" / "run.json").read_text())["results"]
    assert (results["best_metric"], results["best_step"], results["steps"]) == (scores[best], best, 120)
    assert "best_step" not in json.loads((home / "plain" / "run.json").read_text())["results"]


@dataclass
class Scripted:
    """An evaluation that returns the given scores in turn."""

    scores: list[float] = field(default_factory=lambda: [0.2, 0.7, 0.4])

    def measure(self, _trainer: Any) -> dict[str, float]:
        return {"eval_pass@1": self.scores.pop(0)}


SAVED = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
BEST = {"metric_for_best_model": "eval_pass@1", "load_best_model_at_end": True}


@pytest.fixture(scope="module")
def evaluation(home: Path) -> Evaluation:
    questions = tuple(load_questions(str(home / "data"))[:5])
    settings = replace(SETTINGS, max_completion_length=12)
    return Evaluation(questions, "bare", settings, (1, 4), batch_size=8, seed=SEED)


@pytest.mark.children
def test_the_best_checkpoint_is_kept(model_dir: str, tmp_path: Path, evaluation: Evaluation) -> None:
    rows, script = evaluation_rows(evaluation.questions, "bare"), Scripted()
    settings = SAVED | BEST | {"save_total_limit": 2}
    trainer, recorder = make_trainer(model_dir, tmp_path, sampled_evaluation=script, eval_dataset=rows, **settings)
    trainer.train()
    assert recorder.of("eval_pass@1") == [0.2, 0.7, 0.4]
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.7, 2)
    assert not (tmp_path / "checkpoint-1").exists()
    kept, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (2, 3))
    assert all(torch.equal(weight, kept[name]) for name, weight in weights(trainer).items() if name in kept)
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
def test_grpo_is_the_same_without_evaluation(
    model_dir: str, tmp_path: Path, evaluation: Evaluation, checkpointing: bool
) -> None:
    settings = {"num_generations_update": 2, "gradient_checkpointing": checkpointing, "logging_steps": 2}
    settings |= {"max_steps": 4, "log_completions": True}
    plain, plain_log = make_trainer(model_dir, tmp_path / "plain", **settings)
    plain.train()
    parts = {"sampled_evaluation": evaluation, "eval_dataset": evaluation_rows(evaluation.questions, "bare")}
    evaluated, log = make_trainer(model_dir, tmp_path / "evaluated", **settings, **parts, **SAVED)
    evaluated.train()
    assert len(log.of("eval_mean_tokens")) == 4
    assert all(torch.equal(weight, weights(evaluated)[name]) for name, weight in weights(plain).items())
    assert untimed(log) == untimed(plain_log)
    assert len(untimed(log)) == 2
    tables = [
        sorted(path.name for path in (tmp_path / name / "completions").iterdir()) for name in ("plain", "evaluated")
    ]
    assert tables[0] == tables[1]
    assert evaluated.model.is_gradient_checkpointing == checkpointing


@pytest.mark.children
def test_random_generators_and_training_mode_are_restored(
    model_dir: str, tmp_path: Path, evaluation: Evaluation
) -> None:
    trainer, _ = make_trainer(model_dir, tmp_path, sampled_evaluation=evaluation)
    for training in (True, False):
        trainer.model.train(training)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        first, second = trainer.evaluate(), trainer.evaluate()
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        assert trainer.model.training == training
        assert first.pop("eval_runtime") != second.pop("eval_runtime")
        assert first == second
        assert first["eval_mean_tokens"] > 1


@pytest.mark.children
def test_dropout_is_off(model_dir: str, tmp_path: Path, evaluation: Evaluation) -> None:
    measured = []
    for dropout in (0.0, 0.9):
        settings = {"model_init_kwargs": {"attention_dropout": dropout}}
        trainer, _ = make_trainer(model_dir, tmp_path, sampled_evaluation=evaluation, **settings)
        trainer.model.train()
        measured.append(evaluation.measure(trainer))
    assert measured[0] == measured[1]


@pytest.mark.children
@pytest.mark.parametrize("gathered", [True, False])
def test_zero3_gathers_as_trl_does(
    model_dir: str, tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, gathered: bool
) -> None:
    gathers, unwrap = [], in_training.unwrap_model_for_generation

    @wraps(unwrap)
    def recording(*args: Any, **kwargs: Any) -> Any:
        gathers.append(kwargs["gather_deepspeed3_params"])
        return unwrap(*args, **kwargs)

    monkeypatch.setattr(in_training, "unwrap_model_for_generation", recording)
    trainer, _ = make_trainer(model_dir, tmp_path, sampled_evaluation=evaluation, ds3_gather_for_generation=gathered)
    trainer.evaluate()
    assert gathers == [gathered]


@pytest.mark.children
def test_an_explicit_dataset_is_evaluated_by_trl(model_dir: str, tmp_path: Path, evaluation: Evaluation) -> None:
    rows = evaluation_rows(evaluation.questions, "bare")
    trainer, _ = make_trainer(model_dir, tmp_path, sampled_evaluation=evaluation, per_device_eval_batch_size=8)
    trainer.model.eval()
    assert "eval_loss" in trainer.evaluate(rows)


@pytest.mark.long
def test_a_resumed_run_evaluates_like_an_uninterrupted_one(
    model_dir: str, tmp_path: Path, evaluation: Evaluation
) -> None:
    settings = SAVED | BEST | {"metric_for_best_model": "eval_mean_tokens", "max_steps": 4}
    settings |= {"sampled_evaluation": evaluation, "eval_dataset": evaluation_rows(evaluation.questions, "bare")}
    logs: list[Recorder] = []
    for name, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-2"))):
        trainer, log = make_trainer(model_dir, tmp_path / name, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        logs.append(log)
        assert trainer.state.best_metric == max(logs[0].of("eval_mean_tokens"))
    whole, resumed = (log.of("eval_mean_tokens") for log in logs)
    assert resumed == whole[2:]
    assert len(set(whole)) > 1


@pytest.mark.children
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_strategy": "steps", "eval_steps": 5}, "eval_strategy is steps and eval_data is None: set both"),
        ({"eval_data": "DATA"}, "eval_strategy is no and eval_data is"),
        ({**EVALUATED, "eval_data": "nowhere.jsonl", "eval_steps": 100}, "nowhere.jsonl"),
        (
            {**EVALUATED, "eval_data": "DATA", "eval_steps": 100, "metric_for_best_model": "pass@2"},
            "metric_for_best_model pass@2 is not measured: choose one of eval_pass@1, ",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train_sft", "train_grpo"])
def test_rejected_before_a_model_is_loaded(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, settings: dict[str, Any], message: str
) -> None:
    empty = tmp_path / "model"  # a model without weights, so an error must come before loading
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    settings = {name: str(value).replace("DATA", str(home / "data")) for name, value in settings.items()}
    settings |= {"per_device_eval_batch_size": 16, "save_steps": 100}
    recipe = command.removeprefix("train_")
    inputs = {"model_name_or_path": empty, "dataset_name": home / "data", "output_dir": tmp_path / "out"}
    assert start(command, recipe, **inputs, **settings) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_num_samples": 4}, r"eval_k must be numbers from 1 to eval_num_samples = 4, got \[1, 8\]"),
        ({"eval_k": []}, "eval_k must be numbers"),
        ({"eval_k": [0]}, r"eval_k must be a list .* got \[0\]"),
        ({"eval_temperature": 0.0}, "eval_temperature 0 draws 8 identical samples"),
        ({"eval_temperature": -1.0}, "eval_temperature must be a number from 0 to 1,000, got -1.0"),
        ({"eval_top_p": 0.0}, "eval_top_p must be a number above 0 and up to 1, got 0.0"),
        ({"eval_num_questions": 0}, "eval_num_questions must be a whole number from 1"),
        ({"eval_max_completion_length": 0}, "eval_max_completion_length must be a whole number from 1"),
        ({"eval_data": 3}, "eval_data must be"),
    ],
)
def test_invalid_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GRPOArguments(dataset_name="data", **settings)
