"""RLOO on m of G: m = G is TRL's trainer, dropping rows equals masking them, and the estimate is unbiased."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trl import RLOOConfig, RLOOTrainer

from raml_trl.grpo.rloo import SubsetRLOOConfig, SubsetRLOOTrainer
from raml_trl.runtime.errors import InputError
from tests.helpers.rloo_runs import DEFAULTS, G, Masking, make
from tests.helpers.trainers import digit_reward, questions, untimed, weights

VARIANTS: dict[str, dict[str, Any]] = {
    "no KL penalty": {"beta": 0.0},
    "two steps a generation, two passes": {"steps_per_generation": 4, "num_iterations": 2, "max_steps": 3},
}


@pytest.mark.long
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_all_of_g_is_trl_bit_for_bit(model_dir: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    results = []
    for trainer_class in (RLOOTrainer, SubsetRLOOTrainer):
        trainer, recorder = make(model_dir, tmp_path, trainer_class, **settings)
        trainer.train()
        results.append((untimed(recorder), torch.get_rng_state(), weights(trainer)))
    (stock_logs, stock_rng, stock_weights), (our_logs, our_rng, our_weights) = results
    assert stock_logs == our_logs
    assert min(row["grad_norm"] for row in our_logs) > 0
    assert torch.equal(stock_rng, our_rng)
    for name, weight in stock_weights.items():
        assert torch.equal(weight, our_weights[name]), name


class ImportanceMasking(Masking):
    strategy = "importance"


class LogsScores(RLOOTrainer):
    """A mixin that reads the log-probabilities of all rollouts."""

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Tensor]:
        batch = super()._generate_and_score_completions(inputs)
        self._metrics["train"]["logps"].append(batch["old_logps"].mean().item())
        return batch


class MaskingWithScores(LogsScores, Masking): ...


class SubsetWithScores(LogsScores, SubsetRLOOTrainer): ...


@pytest.mark.long
@pytest.mark.parametrize(
    ("reference", "trainer_class", "settings"),
    [
        (Masking, SubsetRLOOTrainer, {"beta": 0.0}),
        (MaskingWithScores, SubsetWithScores, {"beta": 0.0, "mask_truncated_completions": True}),
        (ImportanceMasking, SubsetRLOOTrainer, {"num_iterations": 2, "normalize_advantages": True, "max_steps": 3}),
    ],
    ids=["scored late", "a subclass that reads the log-probabilities", "weighted, two passes, KL penalty"],
)
def test_dropping_rows_equals_masking_them(
    model_dir: str,
    tmp_path: Path,
    reference: type[Masking],
    trainer_class: type[SubsetRLOOTrainer],
    settings: dict[str, Any],
) -> None:
    masked, expected = make(model_dir, tmp_path, reference, **settings)
    masked.train()
    ours, recorder = make(
        model_dir, tmp_path, trainer_class, num_generations_update=2, selection=reference.strategy, **settings
    )
    ours.train()
    assert min(expected.of("grad_norm")) > 0
    assert recorder.of("grad_norm") == pytest.approx(expected.of("grad_norm"), rel=1e-4)
    assert recorder.of("reward") == expected.of("reward")
    assert recorder.of("logps") == pytest.approx(expected.of("logps"), rel=1e-4)


def test_only_selected_rollouts_are_scored_without_a_kl_penalty(model_dir: str, tmp_path: Path) -> None:
    rows = {}
    for beta in (0.0, 0.1):
        trainer, _ = make(model_dir, tmp_path, num_generations_update=1, beta=beta, max_steps=1)
        passes: list[int] = []

        def count(_: Any, __: Any, inputs: dict[str, Any], passes: list[int] = passes) -> None:
            if "labels" in inputs or inputs.get("use_cache") is False:  # not while generating
                passes.append(len(inputs["input_ids"]))

        for model in filter(None, (trainer.model, trainer.ref_model)):
            model.register_forward_pre_hook(count, with_kwargs=True)
        trainer.train()
        rows[beta] = sum(passes)
    # Of 16 rollouts 4 are selected: scored once and trained on once. With the penalty, both models score all 16.
    assert rows == {0.0: 4 + 4, 0.1: 16 + 16 + 4}


def test_mean_over_all_subsets_is_the_full_gradient(model_dir: str, tmp_path: Path) -> None:
    trainer, _ = make(model_dir, tmp_path, gradient_accumulation_steps=1, per_device_train_batch_size=G)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([questions()[0]] * G)
    shift = torch.tensor([0.3, -0.3, 0.05, -0.5])  # ratios other than 1, of which two are clipped
    batch["old_logps"] = batch["old_logps"] + shift
    batch["advantages"] = torch.tensor([1.0, 0.5, -0.7, -0.8])

    def gradient(rows: list[int]) -> Tensor:
        trainer.model.zero_grad()
        part = {name: value[torch.tensor(rows)] for name, value in batch.items()}
        trainer.compute_loss(trainer.model, part).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    full = gradient(list(range(G)))
    assert full.norm() > 0
    for selected in (1, 2, 3):
        mean = torch.stack([gradient(list(rows)) for rows in combinations(range(G), selected)]).mean(dim=0)
        torch.testing.assert_close(mean, full, rtol=1e-4, atol=1e-6 * float(full.norm()))


def test_baseline_over_the_group_has_less_variance_than_over_the_subset() -> None:
    """Both are unbiased for a uniform selection; the other G - m rollouts make the baseline more exact."""
    rng = np.random.default_rng(0)
    group, kept = 8, 2
    rewards = rng.standard_normal((200_000, group))  # expectation 0
    over_group = (group * rewards - rewards.sum(axis=1, keepdims=True)) / (group - 1)
    subset = rewards[:, :kept]
    over_subset = (kept * subset - subset.sum(axis=1, keepdims=True)) / (kept - 1)
    assert over_group[:, 0].var() == pytest.approx(1 + 1 / (group - 1), rel=0.02)
    assert over_subset[:, 0].var() == pytest.approx(1 + 1 / (kept - 1), rel=0.02)


@pytest.mark.long
def test_resumed_run_ends_with_the_same_weights(model_dir: str, tmp_path: Path) -> None:
    settings = {
        "num_generations_update": 2,
        "num_iterations": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 3,
    }
    whole, expected = make(model_dir, tmp_path, **settings)
    whole.train()
    resumed, recorder = make(model_dir, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert untimed(recorder) == untimed(expected)[1:]
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations_update": 5}, r"num_generations_update \(m = 5\) must lie between 1 and num_generations"),
        ({"num_generations_update": 1, "per_device_train_batch_size": 6}, "use per_device_train_batch_size 4 or 8"),
        ({"num_generations_update": 2.0}, "num_generations_update must be"),
        ({"selection": "best"}, "selection must be"),
    ],
)
def test_settings_that_cannot_work_are_rejected(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SubsetRLOOConfig(output_dir=str(tmp_path), **(DEFAULTS | settings))


def test_plain_config_is_rejected(model_dir: str, tmp_path: Path) -> None:
    config = RLOOConfig(output_dir=str(tmp_path), **DEFAULTS)
    with pytest.raises(InputError, match="args must be a SubsetRLOOConfig, got RLOOConfig"):
        SubsetRLOOTrainer(model_dir, digit_reward, config, train_dataset=questions())
