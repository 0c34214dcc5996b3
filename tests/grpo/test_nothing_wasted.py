"""Rows that add nothing to the gradient are not computed, and the optimizer step stays the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from raml_trl.grpo.overrides import is_around
from raml_trl.grpo.user_selection import STRATEGIES
from tests.helpers.trainers import (
    digit_reward,
    fixed_rollouts,
    half_dead_reward,
    make_trainer,
    no_reward,
    rollouts_with_logprobs,
    weights,
)

SEVERAL = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}


def run(model_dir: str, tmp_path: Path, **settings: Any) -> tuple[Any, Any]:
    trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
    trainer.train()
    return trainer, recorder


def close(first: Any, second: Any) -> bool:
    """Return whether two trainers ended with the same weights up to rounding."""
    ours, theirs = weights(first), weights(second)
    return all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-5) for name in ours)


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss_type", "selected"),
    [
        *((loss_type, 2) for loss_type in ("dapo", "grpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")),
        *((loss_type, 8) for loss_type in ("dapo", "grpo")),
        # Skipping rows does not depend on m in another way for the other loss types.
        *(pytest.param(name, 8, marks=pytest.mark.slow) for name in ("dr_grpo", "cispo", "sapo", "luspo", "vespo")),
    ],
)
def test_rows_without_advantage_change_nothing(model_dir: str, tmp_path: Path, loss_type: str, selected: int) -> None:
    settings = SEVERAL | {"loss_type": loss_type, "num_generations_update": selected, "reward": half_dead_reward}
    kept, kept_logs = run(model_dir, tmp_path, skip_zero_advantage=False, **settings)
    skipped, logs = run(model_dir, tmp_path, skip_zero_advantage=True, **settings)
    assert min(kept_logs.of("grad_norm")) > 0
    assert logs.of("grad_norm") == pytest.approx(kept_logs.of("grad_norm"), rel=1e-4)
    assert logs.of("reward") == kept_logs.of("reward")
    assert close(kept, skipped)
    for row in logs.logs[:-1]:
        assert row["rows/trained"] <= row["rows/selected"] / 2 + 1e-9
    assert skipped.ledger.counts["cells_updating"] < 0.7 * kept.ledger.counts["cells_updating"]


@pytest.mark.long
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_all_of_g_with_all_savings_equals_trl_up_to_rounding(model_dir: str, tmp_path: Path, loss_type: str) -> None:
    settings = SEVERAL | {"loss_type": loss_type, "reward": half_dead_reward}
    stock, stock_logs = run(model_dir, tmp_path, stock=True, **settings)
    ours, logs = run(model_dir, tmp_path, **settings)
    assert ours.row_rules.skip_zero_advantage
    assert ours.row_rules.length_bucketing
    assert logs.of("grad_norm") == pytest.approx(stock_logs.of("grad_norm"), rel=1e-4)
    assert logs.of("entropy") == pytest.approx(stock_logs.of("entropy"), rel=1e-4)
    assert close(stock, ours)


def test_a_step_without_live_rows(model_dir: str, tmp_path: Path) -> None:
    """Every micro-batch still runs, with a masked row. The weights stay the same, and nothing becomes NaN."""
    settings = SEVERAL | {"reward": no_reward, "num_generations_update": 4}
    trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
    before = weights(trainer)
    trainer.train()
    assert recorder.of("grad_norm") == [0.0, 0.0, 0.0]
    assert recorder.of("rows/trained") == [0, 0, 0]
    assert recorder.of("entropy") == [None] * 3  # there is no token to average over
    assert all(torch.equal(before[name], weight) for name, weight in weights(trainer).items())


@pytest.mark.long
def test_fewer_live_rows_than_micro_batches(model_dir: str, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_generations_update": 2}
    settings |= {"reward": half_dead_reward, "rollout_func": fixed_rollouts, "loss_type": "grpo"}
    kept, kept_logs = run(model_dir, tmp_path, skip_zero_advantage=False, **settings)
    skipped, logs = run(model_dir, tmp_path, **settings)
    assert max(logs.of("rows/trained")) < 4
    assert logs.of("grad_norm") == pytest.approx(kept_logs.of("grad_norm"), rel=1e-4)
    assert close(kept, skipped)


def scored(trainer: GRPOTrainer, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return a dict that counts the rows and cells for which TRL computes log-probs before training, from now on."""
    counts = {"rows": 0, "cells": 0}
    stock = GRPOTrainer._get_per_token_logps_and_entropies

    def counting(self: Any, model: Any, input_ids: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if is_around(self, "_get_per_token_logps_and_entropies"):  # not when the model's traits are read
            counts["rows"] += len(input_ids)
            counts["cells"] += input_ids.numel()
        return stock(self, model, input_ids, *rest, **named)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counting)
    trainer.loss_normalizer = "tokens"  # the patched method computes each row by itself, as before
    return counts


SCORING = {
    "a reference model": {"beta": 0.1},
    "old log-probs": {"steps_per_generation": 2},
    "both": {"beta": 0.1, "num_iterations": 2},
    "vLLM's importance sampling correction": {"rollout_func": rollouts_with_logprobs},
}
# TRL scores in one place, whatever the setting, and all strategies but the first two know the rewards before. So the
# other pairs of a strategy and a setting run the same code again: make test-all runs them.
PAIRS = [
    pytest.param(
        strategy,
        settings,
        id=f"{strategy}-{name}",
        marks=() if name == "both" or strategy in ("random", "importance") else pytest.mark.slow,
    )
    for strategy in STRATEGIES
    for name, settings in SCORING.items()
]


def sampled_by_vllm(trainer: Any) -> None:
    """Pretend that vLLM sampled the rollouts, so that TRL corrects for the difference of log-probs."""
    trainer.use_vllm = trainer.args.use_vllm = True
    trainer._last_loaded_step = -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "settings"), PAIRS)
def test_only_selected_rows_are_scored(
    model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, settings: dict[str, Any]
) -> None:
    """The training is compared with one in which TRL scores every row."""
    settings = settings | {"num_generations_update": 2, "selection": strategy, "skip_zero_advantage": False}
    logs, counts = {}, {}
    for name in ("all", "selected"):
        with monkeypatch.context() as patch:
            trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
            counts[name] = scored(trainer, patch)
            if "rollout_func" in settings:
                sampled_by_vllm(trainer)
            if name == "all":
                patch.setattr(type(trainer), "_scores_selected_rows", False)
            trainer.train()
        logs[name] = recorder
    assert logs["selected"].of("grad_norm") == pytest.approx(logs["all"].of("grad_norm"), rel=1e-4)
    assert logs["selected"].of("reward") == logs["all"].of("reward")
    assert counts["all"]["rows"] > 0
    assert counts["selected"]["rows"] == counts["all"]["rows"] / 4  # m of G
    assert counts["selected"]["cells"] < counts["all"]["cells"] / 4 + 1


@pytest.mark.long
def test_rows_without_advantage_are_not_scored(model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"steps_per_generation": 2, "reward": half_dead_reward, "gradient_accumulation_steps": 1}
    norms = {}
    for skip in (False, True):
        with monkeypatch.context() as patch:
            trainer, recorder = make_trainer(model_dir, tmp_path, skip_zero_advantage=skip, max_steps=4, **settings)
            counts = scored(trainer, patch)
            trainer.train()
        norms[skip] = recorder.of("grad_norm")
        assert counts["rows"] == 64 if not skip else counts["rows"] < 40  # of 64 rollouts, half of them dead
    assert norms[True] == pytest.approx(norms[False], rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{"loss_type": "vespo"}, {"importance_sampling_level": "sequence", "loss_type": "grpo"}, {"beta": 0.1}],
    ids=["vespo", "ratios of sequences", "a reference model"],
)
def test_a_row_may_be_trained_in_a_wider_micro_batch_than_it_was_scored_in(
    model_dir: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """With several optimizer steps per generation, rows scored together are not trained on together."""
    settings = settings | {"steps_per_generation": 4, "gradient_accumulation_steps": 1, "num_generations_update": 4}
    settings |= {"per_device_train_batch_size": 8, "max_steps": 8, "logging_nan_inf_filter": False}
    logs = {}
    for bucketing in (False, True):
        _, logs[bucketing] = run(model_dir, tmp_path, length_bucketing=bucketing, **settings)
    assert min(logs[False].of("grad_norm")) > 0
    assert logs[True].of("grad_norm") == pytest.approx(logs[False].of("grad_norm"), rel=1e-4)
    assert logs[True].of("loss") == pytest.approx(logs[False].of("loss"), rel=1e-3, abs=1e-5)


def test_rewards_are_computed_once(model_dir: str, tmp_path: Path) -> None:
    calls = []

    def counted(completions: list[Any], log_metric: Any, **columns: Any) -> list[float]:
        calls.append(len(completions))
        log_metric("calls", 1.0)
        return half_dead_reward(completions, **columns)

    _, recorder = run(model_dir, tmp_path, beta=0.1, num_generations_update=2, reward=counted)
    assert calls == [16, 16, 16]
    assert recorder.of("calls") == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("strategy", ["random", "abs_advantage"])
def test_extra_fields_of_the_rollouts_reach_the_reward(model_dir: str, tmp_path: Path, strategy: str) -> None:
    """These are the fields that `rollout_func` returns besides tokens. With `beta`, rewards are computed early."""
    seen = []

    def rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        return fixed_rollouts(prompts, trainer) | {"place": list(range(len(prompts))), "round": "first"}

    def reward(completions: list[Any], place: list[int], round: list[str], **_: Any) -> list[float]:
        seen.append((place, set(round)))
        return [float(value % 3) for value in place]

    for beta in (0.0, 0.1):
        settings = {"num_generations_update": 2, "selection": strategy, "rollout_func": rollouts, "max_steps": 1}
        run(model_dir, tmp_path, beta=beta, reward=reward, **settings)
    assert seen == [(list(range(16)), {"first"})] * 2


@pytest.mark.long
def test_only_micro_batches_that_ran_are_counted(model_dir: str, tmp_path: Path) -> None:
    """A generation lasts for two optimizer steps. After the first one, half of its cells have run."""
    settings = {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "rollout_func": fixed_rollouts}
    counts = []
    for steps in (1, 2):
        trainer, _ = make_trainer(model_dir, tmp_path, reward=digit_reward, max_steps=steps, **settings)
        trainer.train()
        counts.append(trainer.summary()["counts"])
    assert counts[1]["cells_updating_all"] == 2 * counts[0]["cells_updating_all"] > 0
    assert counts[1]["cells_updating"] > counts[0]["cells_updating"] > 0


def cut_rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Return rollouts. Every second one lacks its last token, the token that ends a completion."""
    rollouts = fixed_rollouts(prompts, trainer)
    for name in ("completion_ids", "logprobs"):
        rollouts[name] = [values[: len(values) - row % 2] for row, values in enumerate(rollouts[name])]
    return rollouts


@pytest.mark.long
def test_truncated_rollouts_count_as_generated(model_dir: str, tmp_path: Path) -> None:
    """`mask_truncated_completions` takes them out of the loss."""
    counts = []
    for masks in (False, True):
        settings = {"mask_truncated_completions": masks, "max_steps": 1, "reward": digit_reward}
        trainer, _ = make_trainer(model_dir, tmp_path, rollout_func=cut_rollouts, **settings)
        trainer.train()
        counts.append(trainer.summary()["counts"])
    assert counts[0]["tokens_generated"] == counts[1]["tokens_generated"]
    assert counts[0]["tokens_trained"] > counts[1]["tokens_trained"] > 0
