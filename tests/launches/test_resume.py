"""A run that is resumed from a checkpoint ends like an uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from raml_trl.training.completeness import find_resume_fault
from tests.helpers.trainers import Selections, make_trainer, questions, read_tables, untimed, weights

pytestmark = pytest.mark.long


PLACES = {
    "between generations": {},
    "in mid-buffer": {"steps_per_generation": 4},
    "in mid-buffer, second pass": {"steps_per_generation": 2, "num_iterations": 2},
    "in mid-buffer, between log lines": {"steps_per_generation": 4, "logging_steps": 2},
    "in mid-buffer, with old and reference log-probs": {"steps_per_generation": 4, "beta": 0.1},
    "in a later epoch": {"train_dataset": questions(4)},  # two steps per epoch
    "chosen questions and cut completions": {
        **{"question_selection": "mixed", "train_dataset": questions(4), "token_selection": "prefix"},
        **{"prefix_minimum": 2, "gradient_accumulation_steps": 2, "question_weights": True},
    },
    "accumulation that does not divide": {"steps_per_generation": 3, "gradient_accumulation_steps": 2},
}


QUICK = (
    *("in mid-buffer, with old and reference log-probs", "in a later epoch"),
    "chosen questions and cut completions",
)
"""These cover every kind of state; make test-all runs the other places too."""


@pytest.mark.parametrize(
    "settings",
    [pytest.param(of, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, of in PLACES.items()],
)
def test_a_resumed_run_equals_an_uninterrupted_one(model_dir: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = settings | {"num_generations_update": 2, "max_steps": 6, "log_completions": True}
    settings |= {"save_strategy": "steps", "save_steps": 3}
    if settings.get("gradient_accumulation_steps") is None:
        settings["gradient_accumulation_steps"] = 1
    whole, whole_logs = make_trainer(model_dir, tmp_path / "whole", **settings)
    whole_selections = Selections(whole)
    whole.add_callback(whole_selections)
    whole.train()

    resumed, logs = make_trainer(model_dir, tmp_path / "resumed", **settings)
    selections = Selections(resumed)
    resumed.add_callback(selections)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))

    assert selections.masks == whole_selections.masks[3:]
    lines = untimed(logs)
    assert logs.of("train_loss") == whole_logs.of("train_loss")
    assert lines == untimed(whole_logs)[-len(lines) :]
    assert len(lines) >= 2
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    assert resumed.ledger.counts == whole.ledger.counts
    for name, table in read_tables(tmp_path / "resumed").items():
        assert table == read_tables(tmp_path / "whole")[name]


STATES = {
    "a reference model that is synchronised": {"beta": 0.5, "sync_ref_model": True, "ref_model_sync_steps": 2},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_coef": 0.01, "entropy_target": 10.0},
    "an adapter as reference": {"beta": 0.5},
}


def adapted(model_dir: str) -> PeftModel:
    """Return a model with an adapter that differs from the base model, of which TRL keeps a copy named `ref`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def assert_complete(trainer: Any, checkpoint: Path) -> None:
    """Assert that a checkpoint has every file that its kind of run needs, each of which is missed."""
    assert find_resume_fault(checkpoint, trainer._required) is None
    required = trainer._required(3, 1)
    assert {"reference_model.pt"} & {name for names in required for name in names} == (
        {"reference_model.pt"} if trainer.args.sync_ref_model else set()
    )
    for names in required:
        [path] = {path for name in names for path in checkpoint.glob(name)}
        path.rename(checkpoint.parent / "aside")
        fault = find_resume_fault(checkpoint, trainer._required)
        assert fault is not None
        assert fault.text == f"{path.relative_to(checkpoint)} is missing"
        (checkpoint.parent / "aside").rename(path)


@pytest.mark.parametrize("name", STATES)
def test_what_trl_keeps_in_memory_is_restored(model_dir: str, tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = STATES[name] | {"max_steps": 5, "save_strategy": "steps", "save_steps": 1}
    trainers = []
    for checkpoint in (None, tmp_path / "0" / "checkpoint-3"):
        model: Any = adapted(model_dir) if "adapter" in name else model_dir
        trainer, _ = make_trainer(model, tmp_path / str(len(trainers)), **settings)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        trainers.append(trainer)
        if checkpoint is None:
            assert_complete(trainer, tmp_path / "0" / "checkpoint-3")
        # The run may be killed before TRL writes this file, which it does last.
        (tmp_path / "0" / "checkpoint-3" / "entropy_ctrl_state.json").unlink(missing_ok=True)
    whole, resumed = map(weights, trainers)
    assert all(torch.equal(weight, resumed[parameter]) for parameter, weight in whole.items())
    # The reference takes no space while it is the initial model.
    saved = {path.parent.name for path in (tmp_path / "0").glob("checkpoint-*/reference_model.pt")}
    assert saved == ({f"checkpoint-{step}" for step in (2, 3, 4, 5)} if "sync_ref_model" in settings else set())


@pytest.mark.parametrize("length", [{"max_steps": -1, "num_train_epochs": 1}, {"max_steps": 4}])
@pytest.mark.parametrize("checkpoint", [3, 4])
def test_the_summary_describes_all_sessions(
    model_dir: str, tmp_path: Path, checkpoint: int, length: dict[str, Any]
) -> None:
    """It does so also if the run had ended and only its record was missing, so that no step is left.

    An epoch has four steps, or, with `max_steps`, eight.
    """
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 2, **length}
    settings["train_dataset"] = questions(8 if "num_train_epochs" in length else 16)
    whole, _ = make_trainer(model_dir, tmp_path / "whole", **settings)
    loss = whole.train().training_loss
    resumed, logs = make_trainer(model_dir, tmp_path / "resumed", **settings)
    output = resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
    assert resumed.state.global_step == 4
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(whole).items())
    assert output.training_loss == pytest.approx(loss, rel=1e-9)
    assert logs.of("train_loss") == [output.training_loss]
    seconds, steps_per_second = logs.of("train_runtime")[0], logs.of("train_steps_per_second")[0]
    assert steps_per_second == pytest.approx(4 / seconds, rel=1e-2, abs=1e-3)
