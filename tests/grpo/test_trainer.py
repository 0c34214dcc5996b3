"""The trainer trains on the selected rows, logs its metrics, and rejects models that it does not support."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import GRPOConfig

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.grpo import resuming
from raml_trl.grpo.step_metrics import _warn_unreadable
from raml_trl.grpo.trainer import SubsetGRPOTrainer as Trainer
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import digit_reward, fixed_rollouts, make_trainer, questions


def buffered(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Make one generation, and return its buffered micro-batches."""
    torch.manual_seed(0)  # for TRL's shuffle
    trainer.model.train()
    groups = trainer.args.generation_batch_size // trainer.num_generations
    trainer._prepare_inputs([row for row in trainer.train_dataset.select(range(groups)) for _ in range(8)])
    return trainer._buffered_inputs


def test_only_the_selected_rows_are_forwarded(model_dir: str, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 8, "steps_per_generation": 4, "rollout_func": fixed_rollouts}
    drop, mask = (
        buffered(make_trainer(model_dir, tmp_path, num_generations_update=2, subset_mode=mode, **settings)[0])
        for mode in ("drop", "mask")
    )
    assert [len(batch["advantages"]) for batch in drop] == [2] * 4
    assert [len(batch["advantages"]) for batch in mask] == [8] * 4
    for dropped, masked in zip(drop, mask, strict=True):
        selected = masked["tool_mask"].bool().any(dim=1)
        assert torch.equal(masked["advantages"][selected], dropped["advantages"])
        assert torch.equal(masked["num_items_in_batch"], dropped["num_items_in_batch"])


def test_all_processes_save_their_rollouts_or_none_does(
    model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes generate together. One that resumed without its rollouts would generate alone, and wait."""
    settings = {"per_device_train_batch_size": 8, "steps_per_generation": 2, "rollout_func": fixed_rollouts}
    trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=2, **settings)
    buffered(trainer)
    trainer._step = 1  # in the middle of the generation
    trainer._tr_loss, trainer._globalstep_last_logged, trainer._total_loss_scalar = torch.zeros(()), 0, 0.0
    assert len(trainer._progress()["buffered"]) == 2
    # A user's subclass has put an object into the batch, but only of another process.
    monkeypatch.setattr(resuming, "gather_object", lambda mine: [*mine, False])
    assert trainer._progress()["buffered"] is None


def test_the_trained_rows_are_those_logged_as_selected(model_dir: str, tmp_path: Path) -> None:
    trainer, _ = make_trainer(
        model_dir, tmp_path, num_generations_update=2, log_completions=True, rollout_func=fixed_rollouts
    )
    [batch] = buffered(trainer)
    trained = [
        trainer.processing_class.decode(ids[mask.bool()], skip_special_tokens=True)
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    logged = [text if isinstance(text, str) else text[-1]["content"] for text in trainer._logs["completion"]]
    selected = trainer._logs["extra"]["raml/selected"]
    assert len(set(logged)) > 12  # of 16: the texts identify the rollouts
    assert sorted(trained) == sorted(text for text, chosen in zip(logged, selected, strict=True) if chosen)


def test_bucketing_reduces_padding_and_keeps_all_tokens(model_dir: str, tmp_path: Path) -> None:
    settings = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "num_generations_update": 4,
        "rollout_func": fixed_rollouts,
    }
    cells, tokens = {}, {}
    for bucketing in (False, True):
        trainer, _ = make_trainer(model_dir, tmp_path, length_bucketing=bucketing, **settings)
        batches = buffered(trainer)
        cells[bucketing] = sum(batch["completion_ids"].numel() + batch["prompt_ids"].numel() for batch in batches)
        ids = [
            row[mask.bool()].tolist()
            for batch in batches
            for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        tokens[bucketing] = sorted(ids)
    assert tokens[False] == tokens[True]
    assert cells[True] < 0.95 * cells[False]


def test_reward_metrics_cover_all_rollouts(model_dir: str, tmp_path: Path) -> None:
    rewards = {}
    for selected in (8, 2):
        trainer, recorder = make_trainer(
            model_dir, tmp_path, num_generations_update=selected, max_steps=1, rollout_func=fixed_rollouts
        )
        trainer.train()
        rewards[selected] = recorder.of("reward")
        fraction = recorder.of("tokens/trained")[0] / recorder.of("tokens/generated")[0]
        assert 0.8 < fraction <= 1 if selected == 8 else 0.1 < fraction < 0.5
        assert 0 <= recorder.of("selection/group_same_reward")[0] <= recorder.of("selection/selected_same_reward")[0]
    assert rewards[8] == rewards[2]


def test_groups_are_counted_before_and_after_selection(model_dir: str, tmp_path: Path) -> None:
    """All rollouts of one group are correct. In the other group only the first is, and it is the one selected."""

    def reward(completions: list[Any], log_extra: Any, **_: Any) -> list[float]:
        correct = [row >= 8 or row == 0 for row in range(len(completions))]
        log_extra("correct", correct)
        return [float(value) for value in correct]

    trainer, recorder = make_trainer(
        model_dir, tmp_path, num_generations_update=1, selection="first", max_steps=1, reward=reward
    )
    trainer.train()
    logs = recorder.logs[0]
    assert [logs[f"groups/{name}"] for name in ("all_right", "mixed", "all_wrong")] == [0.5, 0.5, 0.0]
    assert [logs[f"selected/{name}"] for name in ("all_right", "mixed", "all_wrong")] == [1.0, 0.0, 0.0]
    assert (logs["rows/selected"], logs["rows/trained"]) == (2, 1)  # the all-correct group has advantage 0
    assert logs["selection/group_same_reward"] == 0.5


def test_columns_of_the_user_are_kept(model_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text says nothing about correctness, and our column has another name than the user's."""

    def reward(completions: list[Any], log_extra: Any, **_: Any) -> list[float]:
        log_extra("correct", ["no"] * len(completions))
        log_extra("selected", ["by hand"] * len(completions))
        return digit_reward(completions)

    _warn_unreadable.cache_clear()  # it logs once in a process
    trainer, recorder = make_trainer(model_dir, tmp_path, num_generations_update=2, max_steps=2, reward=reward)
    trainer.train()
    columns = trainer._logs["extra"]
    assert set(columns["correct"]) == {"no"}
    assert set(columns["selected"]) == {"by hand"}
    assert sum(columns["raml/selected"]) == 4
    assert not any(name.startswith(("groups/", "selected/")) for name in recorder.logs[0])
    assert caplog.text.count("the column correct that a reward function logs is not read") == 1


def test_evaluation_is_not_charged(model_dir: str, tmp_path: Path) -> None:
    settings = {"eval_dataset": questions(2), "per_device_eval_batch_size": 16, "max_steps": 1}
    trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=2, **settings)
    trainer.train()
    before = trainer.summary()
    assert before["seconds"]["generating"] > 0
    trainer.evaluate()
    assert trainer.summary() == before
    with trainer.ledger.phase("updating", training=True):  # a callback may evaluate in the middle of a step
        start = time.perf_counter()
        trainer.evaluate()
        took = time.perf_counter() - start
    assert trainer.ledger.seconds["updating"] - before["seconds"]["updating"] < took / 2


def test_a_mismatch_with_the_advantages_of_trl_is_an_error(
    model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(rewards: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return rewards[:, :, 0]

    monkeypatch.setattr("raml_trl.grpo.subset.group_advantages", other)
    trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=2)
    with pytest.raises(RuntimeError, match="computes advantages in a way"):
        trainer.train()


def test_summary_counts_rows_tokens_and_seconds(model_dir: str, tmp_path: Path) -> None:
    settings = {"num_generations_update": 2, "beta": 0.1, "rollout_func": fixed_rollouts, "max_steps": 2}
    trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
    trainer.train()
    spent = trainer.summary()
    counts = spent["counts"]
    assert (counts["rollouts"], counts["selected"], counts["trained"]) == (32, 8, 8)
    assert counts["tokens_scored"] == counts["tokens_trained"] < counts["tokens_generated"] / 2
    assert counts["tokens_trained"] == sum(recorder.of("tokens/trained"))
    assert counts["cells_updating"] < counts["cells_updating_all"] / 4 + 1
    assert 0 <= spent["padding"] < 1
    assert spent["padding"] == pytest.approx(counts["cells_padding"] / counts["cells_updating"], abs=1e-4)
    assert all(spent["seconds"][phase] > 0 for phase in ("generating", "scoring", "updating", "selecting"))
    assert recorder.of("seconds/updating")[0] > 0
    assert spent["speedup"]["ceiling"] > 1
    assert (spent["length_bucketing"], spent["skip_zero_advantage"]) == (True, False)  # KL: no row is skipped


@pytest.mark.long
def test_evaluation_and_the_table_of_completions(model_dir: str, tmp_path: Path) -> None:
    settings = {
        "num_generations_update": 2,
        "max_steps": 2,
        "log_completions": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "do_eval": True,
        "per_device_eval_batch_size": 16,
    }
    trainer, recorder = make_trainer(model_dir, tmp_path, eval_dataset=questions(2), **settings)
    trainer.train()
    assert len(recorder.of("eval_reward")) == 2
    tables = [pd.read_parquet(path) for path in sorted((tmp_path / "completions").iterdir())]
    assert [len(table) for table in tables] == [16, 16]
    assert all("raml/selected" in table for table in tables)


def test_router_losses_are_rejected_if_they_cannot_be_exact(model_dir: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        moe_intermediate_size=16,
        num_experts=2,
        num_experts_per_tok=1,
        router_aux_loss_coef=0.01,
    )
    model = Qwen3MoeForCausalLM(config)

    def build(**settings: Any) -> SubsetGRPOTrainer:
        defaults = {"per_device_train_batch_size": 8, "num_generations_update": 4, "use_cpu": True, "bf16": False}
        args = SubsetGRPOConfig(str(tmp_path), report_to="none", **(defaults | settings))
        return SubsetGRPOTrainer(model, digit_reward, args, train_dataset=questions(), processing_class=tokenizer)

    with pytest.raises(InputError, match="router loss"):
        build(length_bucketing=True)
    with pytest.raises(InputError, match="router loss"):
        build(subset_mode="mask")
    assert build().aux_loss_enabled
    assert not build().row_rules.length_bucketing
    assert build(router_aux_loss_coef=0.0).row_rules.length_bucketing


def test_bucketing_is_on_by_default_if_it_is_exact(model_dir: str, tmp_path: Path) -> None:
    settings = {"dapo": {}, "bnpo": {"loss_type": "bnpo"}, "off": {"length_bucketing": False}}
    trainers = {name: make_trainer(model_dir, tmp_path, **changes)[0] for name, changes in settings.items()}
    on = {name: trainer.row_rules.length_bucketing for name, trainer in trainers.items()}
    assert on == {"dapo": True, "bnpo": False, "off": False}


def test_a_config_of_another_class_is_rejected(model_dir: str, tmp_path: Path) -> None:
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(InputError, match="args must be a SubsetGRPOConfig, got GRPOConfig"):
        SubsetGRPOTrainer(model_dir, digit_reward, args, train_dataset=questions())


@dataclass
class OnCPU(SubsetGRPOConfig):
    """The config with defaults for a CPU."""

    use_cpu: bool = True
    bf16: bool | None = False


def test_args_default_to_our_config(model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raml_trl.grpo.trainer.SubsetGRPOConfig", OnCPU)  # the default needs a GPU, as TRL's does
    trainer = SubsetGRPOTrainer(model_dir, digit_reward, train_dataset=questions())
    assert isinstance(trainer.args, SubsetGRPOConfig)
    assert trainer.args.output_dir == f"{Path(model_dir).name}-GRPO"
    assert trainer.args.num_generations_update == trainer.num_generations
