"""With m = G, every metric that TRL logs equals that of TRL's trainer, also if rows move or are skipped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from raml_trl.grpo.loss_metrics import find_places
from raml_trl.grpo.micro_batches import IDLE
from tests.helpers.trainers import (
    NUM_GENERATIONS,
    digit_reward,
    fixed_rollouts,
    half_dead_reward,
    length_reward,
    make_trainer,
    no_reward,
    untimed,
)

MAX_LENGTH = 12
OURS = ("rows/", "tokens/", "selection/")


@pytest.fixture(scope="module")
def varied_model(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose entropy differs between tokens; with small weights it is the same everywhere."""
    directory = str(tmp_path_factory.mktemp("varied"))
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(directory)
    return directory


def truncated_rollouts(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return `fixed_rollouts`, of which some have the maximum length and no end."""
    rollouts = fixed_rollouts(prompts, trainer)
    first = trainer.accelerator.process_index * len(prompts)
    for row, prompt in enumerate(prompts, start=first):
        rng = np.random.default_rng([row % NUM_GENERATIONS, *prompt[-1]["content"].encode(), 7])
        if rng.random() < 0.4:
            rollouts["completion_ids"][row - first] = rng.integers(8, 18, size=MAX_LENGTH).tolist()
    return rollouts | {"logprobs": [[0.0] * len(ids) for ids in rollouts["completion_ids"]]}


# The ratios of an off-policy step lie outside the clip range, so that the clip ratios are not 0.
BASE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_steps": 2}
OFF_POLICY = {"per_device_train_batch_size": 4, "steps_per_generation": 8, "gradient_accumulation_steps": 2}
OFF_POLICY |= {"learning_rate": 1e-3, "epsilon": 0.01, "max_steps": 3}
DEAD = {"reward": half_dead_reward}
SETTINGS: dict[str, dict[str, Any]] = {
    "truncated completions are masked": BASE | {"mask_truncated_completions": True, "beta": 0.1},
    "skipped rows": OFF_POLICY | DEAD,
    "no rows": BASE | {"reward": no_reward, "max_steps": 1},
    "reference model": OFF_POLICY | {"beta": 0.1},
    "ratios of sequences": OFF_POLICY | {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 1e-4},
    "two passes": BASE | DEAD | {"num_iterations": 2, "logging_steps": 2},
    "cispo": OFF_POLICY | DEAD | {"loss_type": "cispo", "epsilon_high": 1.01},
    "vespo": OFF_POLICY | DEAD | {"loss_type": "vespo"},
}
MORE_SETTINGS: dict[str, dict[str, Any]] = {
    **{loss: OFF_POLICY | {"loss_type": loss} for loss in ("grpo", "dr_grpo", "bnpo", "sapo", "luspo", "vespo")},
    "masked and skipped": OFF_POLICY | DEAD | {"mask_truncated_completions": True},
    "skipped rows, ratios of sequences": SETTINGS["ratios of sequences"] | DEAD,
    "entropy bonus": BASE | {"entropy_coef": 0.01},
    "adaptive entropy": BASE | {"use_adaptive_entropy": True, "entropy_coef": 0.01},
    "tokens of high entropy": BASE | {"top_entropy_quantile": 0.5},
    "off-policy mask": OFF_POLICY | DEAD | {"off_policy_mask_threshold": 1e-3},
    "two-sided clipping": OFF_POLICY | DEAD | {"delta": 1.05},
    "corrected KL": OFF_POLICY | {"beta": 0.1, "use_bias_correction_kl": True},
    "rewards not scaled": BASE | DEAD | {"scale_rewards": "none"},
    "rewards scaled over the batch": BASE | DEAD | {"scale_rewards": "batch"},
    "two rewards": BASE
    | {"reward": [digit_reward, length_reward], "multi_objective_aggregation": "normalize_then_sum"},
    "accumulation that does not divide": BASE | DEAD | {"steps_per_generation": 2, "gradient_accumulation_steps": 3},
}


def train(model: str, directory: Path, **settings: Any) -> list[dict[str, Any]]:
    settings = {"rollout_func": truncated_rollouts, "max_completion_length": MAX_LENGTH} | settings
    trainer, recorder = make_trainer(model, directory, **settings)
    trainer.train()
    return untimed(recorder)


def check(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Check that our log has the metrics of TRL with the same values, and no others but ours."""
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        assert {name for name in our if not name.startswith(OURS)} == set(their)
        for name, value in their.items():
            assert our[name] == pytest.approx(value, rel=1e-3, abs=2e-6), name


@pytest.mark.long
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_all_metrics_equal_trl(varied_model: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    check(train(varied_model, tmp_path, **settings), train(varied_model, tmp_path, stock=True, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("settings", MORE_SETTINGS.values(), ids=MORE_SETTINGS)
def test_all_metrics_equal_trl_with_more_settings(varied_model: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    check(train(varied_model, tmp_path, **settings), train(varied_model, tmp_path, stock=True, **settings))


@pytest.mark.long
def test_drop_logs_the_same_as_mask(varied_model: str, tmp_path: Path) -> None:
    """Clip ratios of sequences are means over rows, also over masked rows; they are those of the selected rows only."""
    settings = SETTINGS["ratios of sequences"] | {"num_generations_update": 4, "skip_zero_advantage": False}
    drop, mask = (train(varied_model, tmp_path, subset_mode=mode, **settings) for mode in ("drop", "mask"))
    assert max(row["clip_ratio/region_mean"] for row in drop) > 0
    for dropped, masked in zip(drop, mask, strict=True):
        for row in (dropped, masked):
            row.pop("tokens/scored", None)
        assert dropped == pytest.approx(masked, rel=1e-4, abs=1e-6)


@pytest.mark.long
def test_without_trained_rows_there_is_nothing_to_average(varied_model: str, tmp_path: Path) -> None:
    """Of m < G rows, metrics of the loss cover those that are trained on."""
    for row in train(varied_model, tmp_path, num_generations_update=4, **SETTINGS["no rows"]):
        assert row["entropy"] is None


def test_places_of_rows() -> None:
    ran = np.array([[3, IDLE, 0], [1, 5, IDLE]])
    places = find_places(np.array([[0, 1, IDLE], [3, 4, 5]]), ran)
    assert places.tolist() == [[2, 3, IDLE], [0, IDLE, 4]]
