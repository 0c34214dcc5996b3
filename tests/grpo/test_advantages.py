"""Advantages over the subset match calculations by hand, and the trainer uses them with `advantage_scope: subset`."""

from pathlib import Path

import pytest
import torch

from raml_trl.grpo.advantages import recentre_on_subset
from raml_trl.grpo.rows import SELECTED
from tests.helpers.trainers import generation_of, make_trainer

REWARDS = torch.tensor([[1.0, 0.0, 3.0, 9.0], [2.0, 2.0, 2.0, 5.0]])
MASK = torch.tensor([[True, True, False, True], [True, False, True, True]])
# The selected rewards are (1, 0, 9) with mean 10/3, and (2, 2, 5) with mean 3.
CENTRED = torch.tensor([[-7 / 3, -10 / 3, 0, 17 / 3], [-1, 0, -1, 2]])


def test_without_scaling() -> None:
    torch.testing.assert_close(recentre_on_subset(REWARDS, MASK, scale="none"), CENTRED)


def test_scaled_by_group() -> None:
    # variances: (49 + 100 + 289) / 9 / 2 = 24.333, and (1 + 1 + 4) / 2 = 3
    deviations = torch.tensor([[(438 / 9 / 2) ** 0.5], [3**0.5]])
    torch.testing.assert_close(recentre_on_subset(REWARDS, MASK, scale="group"), CENTRED / (deviations + 1e-4))


def test_scaled_by_batch() -> None:
    deviation = torch.tensor([1.0, 0, 9, 2, 2, 5]).std()
    torch.testing.assert_close(recentre_on_subset(REWARDS, MASK, scale="batch"), CENTRED / (deviation + 1e-4))


def test_missing_rewards_are_left_out() -> None:
    rewards = torch.tensor([[1.0, torch.nan, 3.0, 100.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert recentre_on_subset(rewards, mask, scale="none").tolist() == [[-1, 0, 1, 0]]


@pytest.mark.parametrize("scope", ["group", "subset"])
def test_trainer_uses_the_scope(model_dir: str, tmp_path: Path, scope: str) -> None:
    trainer, _ = make_trainer(
        model_dir, tmp_path, num_generations_update=3, advantage_scope=scope, per_device_train_batch_size=16
    )
    trainer.model.train()
    rows = [row for row in trainer.train_dataset.select(range(2)) for _ in range(8)]
    batch = generation_of(trainer, rows)
    selected = batch["advantages"].view(2, 8)[batch[SELECTED].view(2, 8)].view(2, 3)
    centred = selected.mean(dim=1).abs().max() < 1e-5
    assert bool(centred) is (scope == "subset")
