"""Training with m = G equals training with TRL's trainer bit for bit, and `drop` has the same gradients as `mask`."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from raml_trl.grpo.advantages import group_advantages
from raml_trl.grpo.rows import SELECTED, WEIGHTS
from raml_trl.grpo.user_selection import STRATEGIES
from tests.helpers.trainers import (
    digit_reward,
    fixed_rollouts,
    generation_of,
    length_reward,
    loss_of,
    make_trainer,
    questions,
    rollouts_with_tools,
    weights,
)

GEOMETRIES = {
    "one step per generation": {},
    "two micro-batches": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "four steps per generation": {"per_device_train_batch_size": 8, "steps_per_generation": 4},
    "two passes": {"num_iterations": 2},
}


PLAIN = {
    "num_generations_update": 8,
    "length_bucketing": False,
    "skip_zero_advantage": False,
    "shared_prompts": "off",
}


@pytest.mark.long
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_all_of_g_is_trl_bit_for_bit(model_dir: str, tmp_path: Path, geometry: dict[str, int]) -> None:
    results = []
    for stock in (True, False):
        settings = {} if stock else PLAIN
        trainer, recorder = make_trainer(model_dir, tmp_path, stock=stock, max_steps=4, **geometry, **settings)
        trainer.train()
        results.append((weights(trainer), recorder.of("grad_norm"), recorder.of("reward"), torch.get_rng_state()))
    (stock_weights, *stock_logs, stock_rng), (our_weights, *our_logs, our_rng) = results
    assert stock_logs == our_logs
    assert len(stock_logs[0]) == 4
    assert min(stock_logs[0]) > 0
    assert torch.equal(stock_rng, our_rng)
    for name, weight in stock_weights.items():
        assert torch.equal(weight, our_weights[name]), name


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss_type", "selected"),
    [
        *((loss_type, 2) for loss_type in ("dapo", "grpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")),
        *((loss_type, m) for loss_type in ("dapo", "grpo") for m in (1, 4)),
        # m enters only the normalisation: by tokens, as for dapo, or by rows, as for grpo.
        *(
            pytest.param(loss_type, m, marks=pytest.mark.slow)
            for loss_type in ("dr_grpo", "cispo", "sapo", "luspo", "vespo")
            for m in (1, 4)
        ),
    ],
)
def test_drop_equals_mask(model_dir: str, tmp_path: Path, loss_type: str, selected: int) -> None:
    norms, rewards = {}, {}
    for mode in ("drop", "mask"):
        trainer, recorder = make_trainer(
            model_dir,
            tmp_path,
            loss_type=loss_type,
            num_generations_update=selected,
            subset_mode=mode,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
        )
        trainer.train()
        norms[mode], rewards[mode] = recorder.of("grad_norm"), recorder.of("reward")
    assert len(norms["drop"]) == 3
    assert min(norms["drop"]) > 0
    assert norms["drop"] == pytest.approx(norms["mask"], rel=1e-4)
    assert rewards["drop"] == rewards["mask"]  # both sampled the same rollouts


VARIANTS = {
    "several steps per generation": {"steps_per_generation": 2},
    "two passes": {"num_iterations": 2},
    "a reference model": {"beta": 0.1},
    "a reference model, row mean": {"beta": 0.1, "loss_type": "grpo"},
    "advantages over the subset": {"advantage_scope": "subset"},
    "ratios of sequences": {"importance_sampling_level": "sequence", "steps_per_generation": 2, "loss_type": "grpo"},
    "masked truncated completions": {"mask_truncated_completions": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "accumulation that does not divide": {"steps_per_generation": 2, "gradient_accumulation_steps": 3},
    "a dataset without length": {"train_dataset": questions().to_iterable_dataset()},
    "text prompts": {"train_dataset": questions().map(lambda row: {"prompt": row["prompt"][0]["content"]})},
    "an adapter": {"peft_config": LoraConfig(r=4, target_modules="all-linear"), "learning_rate": 1e-2},
    "an adapter with its base model as reference": {
        "peft_config": LoraConfig(r=4, target_modules="all-linear"),
        "beta": 0.1,
    },
    "tokens not written by the model": {"rollout_func": rollouts_with_tools},
    "two reward functions": {"reward": [digit_reward, length_reward], "reward_weights": [1.0, 0.5]},
    "two reward functions, normalised separately": {
        "reward": [digit_reward, length_reward],
        "multi_objective_aggregation": "normalize_then_sum",
        "selection": "importance",
        "beta": 0.1,
    },
    "advantages scaled over the batch": {"scale_rewards": "batch", "selection": "abs_advantage"},
    "selected over the batch": {"selection": "abs_advantage", "selection_scope": "batch"},
    "weighted over the batch": {"selection": "importance", "selection_scope": "batch", "steps_per_generation": 2},
    "weighted, with a reference model": {"selection": "importance", "beta": 0.1},
    "weighted, with a reference model, row mean": {"selection": "importance", "beta": 0.1, "loss_type": "grpo"},
} | {strategy: {"selection": strategy} for strategy in STRATEGIES}
QUICK = {
    *("several steps per generation", "two passes", "a reference model, row mean", "advantages over the subset"),
    *("ratios of sequences", "an adapter with its base model as reference", "tokens not written by the model"),
    *("weighted over the batch", "weighted, with a reference model", "max_variance", "balanced"),
}
"""These cover every mechanism; the others combine them, and make test-all runs them."""


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [pytest.param(of, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, of in VARIANTS.items()],
)
def test_drop_equals_mask_in_every_variant(model_dir: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    norms = {}
    for mode in ("drop", "mask"):
        trainer, recorder = make_trainer(model_dir, tmp_path, num_generations_update=2, subset_mode=mode, **settings)
        trainer.train()
        norms[mode] = recorder.of("grad_norm")
    assert min(norms["drop"]) > 0
    assert norms["drop"] == pytest.approx(norms["mask"], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "sapo"])
def test_bucketing_does_not_change_the_step(model_dir: str, tmp_path: Path, loss_type: str) -> None:
    norms = {}
    for bucketing in (False, True):
        trainer, recorder = make_trainer(
            model_dir,
            tmp_path,
            loss_type=loss_type,
            num_generations_update=4,
            length_bucketing=bucketing,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
        )
        trainer.train()
        norms[bucketing] = recorder.of("grad_norm")
    assert norms[False] == pytest.approx(norms[True], rel=1e-4)


@pytest.mark.long
def test_bnpo_depends_on_the_micro_batches(model_dir: str, tmp_path: Path) -> None:
    """`drop` and `mask` use the same micro-batches and agree; one micro-batch with all rows gives another gradient."""
    norms = {}
    for name, settings in {
        "drop": {"subset_mode": "drop"},
        "mask": {"subset_mode": "mask"},
        "one micro-batch": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
    }.items():
        cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4} | settings
        trainer, recorder = make_trainer(
            model_dir, tmp_path, loss_type="bnpo", num_generations_update=2, max_steps=1, **cut
        )
        trainer.train()
        norms[name] = recorder.of("grad_norm")
    assert norms["drop"] == pytest.approx(norms["mask"], rel=1e-4)
    assert norms["drop"] != pytest.approx(norms["one micro-batch"], rel=1e-3)


def test_the_gradient_equals_grpo_on_the_subset(model_dir: str, tmp_path: Path) -> None:
    """The reference is the loss written out for the selected rows, without our batching."""
    trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=2, length_bucketing=False)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
    batch = generation_of(trainer, rows)
    selected = batch.pop(SELECTED)
    kept = {name: value[selected] if value.ndim else value for name, value in batch.items()}
    tokens = kept["completion_mask"].sum()

    # dapo, written out: every ratio is 1, so the gradient is that of -sum A log p over the selected tokens.
    input_ids = torch.cat([kept["prompt_ids"], kept["completion_ids"]], dim=1)
    attention_mask = torch.cat([kept["prompt_mask"], kept["completion_mask"]], dim=1)
    logits = trainer.model(input_ids, attention_mask=attention_mask).logits[:, :-1]
    log_probs = logits.log_softmax(-1).gather(2, input_ids[:, 1:, None]).squeeze(2)
    log_probs = log_probs[:, -kept["completion_ids"].size(1) :]
    loss = -(kept["advantages"][:, None] * log_probs * kept["completion_mask"]).sum() / tokens
    reference = torch.autograd.grad(loss, list(trainer.model.parameters()))

    [micro_batch] = trainer._deal({**batch, SELECTED: selected})
    ours = torch.autograd.grad(loss_of(trainer, micro_batch), list(trainer.model.parameters()))
    assert micro_batch["num_items_in_batch"] == tokens
    assert sum(gradient.norm() for gradient in reference) > 0
    for expected, gradient in zip(reference, ours, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_selection_does_not_use_global_generators(model_dir: str, tmp_path: Path) -> None:
    """A step on 2 of 8 and a step on 8 of 8 leave every generator in the same state."""
    states = []
    for selected in (8, 2):
        trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=selected, max_steps=1)
        trainer.train()
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))
    assert states[0] == states[1]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("scope", ["group", "batch"])
def test_weights_make_the_loss_an_estimate_over_all_rollouts(
    model_dir: str, tmp_path: Path, loss_type: str, beta: float, scope: str
) -> None:
    """The gradient is sum_S w_i g_i, divided by m/G times the denominator of the loss over all G rollouts.

    Here w_i is the weight of row i, and g_i the gradient of TRL's loss on row i alone.
    """
    trainer, _ = make_trainer(
        model_dir,
        tmp_path,
        num_generations_update=2,
        selection="importance",
        selection_scope=scope,
        loss_type=loss_type,
        beta=beta,
        learning_rate=1.0,
        rollout_func=fixed_rollouts,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    with torch.no_grad():  # a model that differs from its reference
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
    batch = generation_of(trainer, rows)
    parameters = list(trainer.model.parameters())
    chosen, weights_ = batch[SELECTED], batch[WEIGHTS]
    assert chosen.sum() == 4
    assert len(weights_[chosen].unique()) > 1
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for row in chosen.nonzero().flatten().tolist():
        single = {name: value[row : row + 1] if value.ndim else value for name, value in batch.items()}
        single |= {"num_items_in_batch": torch.tensor(1.0)}
        loss = GRPOTrainer._compute_loss(trainer, trainer.model, single)
        for gradient, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            gradient += weights_[row] * part
    rollouts_on_m_rows = batch["completion_mask"].sum() * 2 / 8 if loss_type == "dapo" else 4
    [micro_batch] = trainer._deal(batch)
    ours = torch.autograd.grad(loss_of(trainer, micro_batch), parameters)
    assert sum(gradient.norm() for gradient in total) > 0
    for expected, gradient in zip(total, ours, strict=True):
        torch.testing.assert_close(gradient, expected / rollouts_on_m_rows, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_advantages_equal_trl_bit_for_bit(model_dir: str, tmp_path: Path, scale: str, aggregation: str) -> None:
    """They are equal also if rewards are missing. Selection uses our advantages, before TRL computes its own."""

    def with_gaps(completions: list[Any], **columns: Any) -> list[float | None]:
        return [None if row % 5 == 0 else reward for row, reward in enumerate(digit_reward(completions))]

    def rarely(completions: list[Any], **columns: Any) -> list[float | None]:
        return [reward if row % 5 in (1, 2) else None for row, reward in enumerate(length_reward(completions))]

    trainer, _ = make_trainer(
        model_dir,
        tmp_path,
        stock=True,
        reward=[with_gaps, rarely],
        reward_weights=[1.0, 0.3],
        scale_rewards=scale,
        multi_objective_aggregation=aggregation,
    )
    captured = []
    calculate = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *args: captured.append(calculate(*args)) or captured[0]
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
    batch = trainer._generate_and_score_completions(rows)
    ours = group_advantages(captured[0].view(2, 8, 2), trainer.reward_weights, scale=scale, aggregation=aggregation)
    assert captured[0].isnan().all(dim=1).any()
    assert torch.equal(ours.flatten(), batch["advantages"])
