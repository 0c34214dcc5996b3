"""The trainer carries whatever a subclass adds to a batch, and trains on batches that it has not made, as TRL does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.grpo.micro_batches import IDLE
from raml_trl.grpo.padding import join_batches, trim_padding
from raml_trl.grpo.rows import take_rows
from raml_trl.runtime.errors import InputError
from tests.grpo.test_batching import make_batch
from tests.helpers.image_runs import Gradients, difference
from tests.helpers.trainers import digit_reward, fixed_rollouts, questions


class RichBatches(GRPOTrainer):
    """Adds columns of many kinds to the batch, and a loss in which all of them take part."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        rows, width = batch["completion_ids"].shape
        number = batch["completion_ids"].sum(dim=1)
        batch["texts"] = [str(int(value)) for value in number]
        batch["nothing"] = None
        batch["scale"] = torch.tensor(2.0)
        batch["of_row"] = number / 100
        batch["three"] = (number / 100)[:, None].expand(rows, 3)
        batch["matrix"] = (number / 100)[:, None, None].expand(rows, 2, 3)
        # As wide as the completions, but not an entry per token.
        batch["by_chance"] = torch.arange(width).expand(rows, width) * (number / 1000)[:, None]
        batch["teacher"] = torch.log(batch["completion_ids"] + 1.0)[:, :, None].expand(rows, width, 2)
        if self.args.gradient_accumulation_steps == 1:
            batch["advantages"] = batch["advantages"][:, None] * torch.linspace(0.5, 1.5, width)
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        assert inputs["nothing"] is None
        texts = torch.tensor([float(text) for text in inputs["texts"]])
        factor = texts / 100 + inputs["of_row"] + inputs["three"].sum(dim=1) + inputs["matrix"].sum(dim=(1, 2))
        factor = factor + inputs["by_chance"].sum(dim=1)
        tokens = inputs["teacher"].mean(dim=2) * inputs["scale"]
        advantages = inputs["advantages"] if inputs["advantages"].ndim == 2 else inputs["advantages"][:, None]
        return super()._compute_loss(model, inputs | {"advantages": advantages * factor[:, None] * tokens})


class OursWithRichBatches(RichBatches, SubsetGRPOTrainer):
    """The same subclass, of our trainer."""

    loss_normalizer = "tokens"


def train(model_dir: str, tmp_path: Path, *, stock: bool = False, **settings: Any) -> dict[str, Any]:
    config, trainer_class = (GRPOConfig, RichBatches) if stock else (SubsetGRPOConfig, OursWithRichBatches)
    defaults: dict[str, Any] = {"per_device_train_batch_size": 16, "num_generations": 8, "max_steps": 1, "seed": 3}
    defaults |= {"gradient_checkpointing": False, "logging_steps": 1, "max_grad_norm": 1e9}
    defaults |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    args = config(str(tmp_path), **(defaults | settings))
    gradients = Gradients()
    trainer = trainer_class(
        model_dir, digit_reward, args, questions(), callbacks=[gradients], rollout_func=fixed_rollouts
    )
    trainer.train()
    return {"gradients": gradients.steps}


@pytest.mark.long
@pytest.mark.parametrize("accumulation", [1, 2], ids=["advantages per token", "advantages per row"])
def test_columns_of_a_subclass_are_carried(model_dir: str, tmp_path: Path, accumulation: int) -> None:
    settings = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 16 // accumulation}
    stock = train(model_dir, tmp_path, stock=True, **settings)
    assert stock["gradients"][0].norm() > 0
    plain = {
        "num_generations_update": 8,
        "length_bucketing": False,
        "skip_zero_advantage": False,
        "shared_prompts": "off",
    }
    assert difference(stock, train(model_dir, tmp_path, **settings, **plain)) == 0
    assert difference(stock, train(model_dir, tmp_path, **settings)) < 1e-5
    drop, mask = (
        train(model_dir, tmp_path, num_generations_update=2, subset_mode=mode, **settings) for mode in ("drop", "mask")
    )
    assert drop["gradients"][0].norm() > 0
    assert difference(mask, drop) < 1e-5


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_the_loss_of_a_foreign_batch_is_trls(model_dir: str, tmp_path: Path, loss_type: str) -> None:
    losses = []
    for config, trainer_class in ((GRPOConfig, GRPOTrainer), (SubsetGRPOConfig, SubsetGRPOTrainer)):
        args = config(
            str(tmp_path), use_cpu=True, bf16=False, report_to="none", loss_type=loss_type, gradient_checkpointing=False
        )
        trainer = trainer_class(model_dir, digit_reward, args, train_dataset=questions())
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        batch = make_batch([1, 3], [2, 5])
        batch = {name: batch[name] for name in batch if name != "importance_sampling_ratio"}
        losses.append(trainer.compute_loss(trainer.model, batch))
    assert losses[0].item() != 0
    assert torch.equal(*losses)


def test_known_columns_are_trimmed_and_others_are_not_cut() -> None:
    batch = make_batch([1, 3], [2, 5])  # widths 6 and 9
    both = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    batch |= {"token_type_ids": both, "advantages": batch["completion_mask"].float(), "texts": ["a", "b"], "none": None}
    batch |= {"five": torch.ones(2, 5), "deep": torch.ones(2, 4, 6)}
    trimmed = trim_padding(batch)
    assert trimmed["token_type_ids"].tolist() == torch.cat([both[:, 3:6], both[:, 6:11]], dim=1).tolist()
    assert trimmed["advantages"].shape == trimmed["completion_mask"].shape == (2, 5)
    assert {name: trimmed[name].shape for name in ("five", "deep")} == {"five": (2, 5), "deep": (2, 4, 6)}
    assert (trimmed["texts"], trimmed["none"]) == (["a", "b"], None)


@pytest.mark.parametrize(("width", "kept"), [(9, (3, 9)), (6, (6, 5)), (15, (6, 9)), (8, (3, 5))])
def test_a_column_that_may_be_padded_keeps_the_batch_as_wide(width: int, kept: tuple[int, int]) -> None:
    batch = make_batch([1, 3], [2, 5]) | {"unknown": torch.arange(2.0 * width).view(2, width)}
    trimmed = trim_padding(batch)
    assert torch.equal(trimmed["unknown"], batch["unknown"])
    assert (trimmed["prompt_ids"].size(1), trimmed["completion_mask"].size(1)) == kept


def test_idle_rows_copy_every_kind_of_column() -> None:
    batch = make_batch([3, 1], [4, 5]) | {"texts": ["a", "b"], "none": None, "deep": torch.ones(2, 3, 2)}
    taken = take_rows(batch, np.array([0, IDLE]))
    assert taken["texts"] == ["a", "b"]
    assert taken["none"] is None
    assert taken["deep"].sum(dim=(1, 2)).tolist() == [6, 0]


def test_columns_are_padded_alike_when_rows_of_two_processes_meet() -> None:
    here = make_batch([1, 3], [2, 5], (4, 5)) | {"per_token": torch.ones(2, 5), "four": torch.ones(2, 4)}
    there = make_batch([2, 2], [1, 3], (6, 7)) | {"per_token": torch.ones(2, 7), "four": torch.ones(2, 4)}
    joined = join_batches([here, there])
    assert joined["prompt_mask"].sum(dim=1).tolist() == [1, 3, 2, 2]
    assert joined["prompt_mask"][:, -1].tolist() == [1, 1, 1, 1]
    assert joined["per_token"].sum(dim=1).tolist() == [5, 5, 7, 7]
    assert joined["four"].shape == (4, 4)


def test_columns_that_cannot_be_joined_are_named() -> None:
    here, there = make_batch([1], [2], (4, 5)), make_batch([1], [2], (4, 5))
    with pytest.raises(InputError, match=r"'odd' has shapes \(1, 2\), \(1, 3\) on different processes"):
        join_batches([here | {"odd": torch.ones(1, 2)}, there | {"odd": torch.ones(1, 3)}])
    with pytest.raises(InputError, match="'odd' on some processes only"):
        join_batches([here | {"odd": torch.ones(1, 2)}, there])
