"""Completions that are cut give the loss of whole completions on average, and cost less."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.grpo.feature_cases import pretend_vllm
from raml_trl import SubsetGRPOConfig
from raml_trl.grpo.prefix_cuts import cut_completions, draw_cuts, survival
from raml_trl.grpo.rows import CUT_DRAWS
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import fixed_rollouts, make_trainer, rollouts_with_tools

PREFIX = {"token_selection": "prefix", "prefix_minimum": 2, "prefix_keep": 0.4}


def make_batch(lengths: list[int], width: int, *, tools: bool) -> dict[str, torch.Tensor]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    batch = {"completion_mask": mask, "advantages": torch.linspace(-1.0, 2.0, len(lengths), dtype=torch.float64)}
    return batch | ({"tool_mask": (torch.arange(width) % 3 != 1).long().expand_as(mask)} if tools else {})


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("row_mean", [False, True])
@pytest.mark.parametrize("mask_only", [False, True])
@pytest.mark.parametrize(("minimum", "keep"), [(1, 0.5), (3, 0.2), (4, 1.0), (20, 0.5)])
def test_the_expected_loss_is_that_of_whole_completions(
    minimum: int, keep: float, mask_only: bool, row_mean: bool, tools: bool
) -> None:
    """Enumerate all cuts, each with its probability: the mean weight of every token in the loss is that of no cut."""
    lengths, width = [1, 2, 3, 5, 9], 10
    batch = make_batch(lengths, width, tools=tools)

    def terms(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the factor of every token's term in the loss."""
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        advantages = batch["advantages"]
        factors = (advantages if advantages.ndim == 2 else advantages[:, None]) * mask
        return factors / mask.sum(dim=1, keepdim=True).clamp(min=1) if row_mean else factors

    chances = survival(torch.tensor(lengths), width, minimum=minimum, keep=keep)
    edges = torch.cat([torch.zeros(1), chances.flatten(), torch.ones(1)]).unique().double()
    expected, shares = torch.zeros(len(lengths), width, dtype=torch.float64), set()
    for low, high in pairwise(edges):
        draws = torch.full((len(lengths),), float((low + high) / 2), dtype=torch.float64)
        cut = cut_completions(
            batch | {CUT_DRAWS: draws}, minimum=minimum, keep=keep, row_mean=row_mean, mask_only=mask_only
        )
        expected += (high - low) * terms(cut)
        kept = (cut["completion_mask"] * cut.get("tool_mask", 1)).sum()
        shares.add(int(kept))
        assert (cut["completion_mask"] == batch["completion_mask"]).all() or not mask_only
    torch.testing.assert_close(expected, terms(batch), rtol=1e-6, atol=1e-6)
    assert len(shares) > 1 or keep == 1.0 or minimum == 20


def test_the_draws_depend_on_seed_and_step_only() -> None:
    draws = draw_cuts(50, 8, seed=1, step=2)
    assert (draws == draw_cuts(50, 8, seed=1, step=2)).all()
    assert (draws != draw_cuts(50, 8, seed=1, step=3)).any()
    assert 0.4 < draws.mean() < 0.6


@pytest.mark.long
@pytest.mark.parametrize("vllm", [False, True])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_drop_equals_mask(model_dir: str, tmp_path: Path, loss_type: str, vllm: bool) -> None:
    results = {}
    for mode in ("drop", "mask"):
        trainer, recorder = make_trainer(
            model_dir,
            tmp_path,
            loss_type=loss_type,
            num_generations_update=4,
            subset_mode=mode,
            rollout_func=rollouts_with_tools if loss_type == "grpo" else fixed_rollouts,
            gradient_accumulation_steps=2,
            **PREFIX,
        )
        if vllm:
            pretend_vllm(trainer)
        trainer.train()
        results[mode] = recorder.of("grad_norm"), trainer.summary()["counts"]["tokens_updating"]
    assert min(results["drop"][0]) > 0
    assert results["drop"][0] == pytest.approx(results["mask"][0], rel=1e-4)
    assert results["drop"][1] < 0.9 * results["mask"][1] / 2


@pytest.mark.long
def test_nothing_changes_if_every_token_survives(model_dir: str, tmp_path: Path) -> None:
    norms = []
    for more in ({}, PREFIX | {"prefix_keep": 1.0}):
        trainer, recorder = make_trainer(model_dir, tmp_path, rollout_func=fixed_rollouts, loss_type="grpo", **more)
        trainer.train()
        norms.append(recorder.of("grad_norm"))
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_keep": 0.0}, "prefix_keep"),
        ({"prefix_minimum": 0}, "prefix_minimum"),
        ({"beta": 0.1}, "with beta = 0.1 the loss is not such a sum"),
        ({"loss_type": "luspo", "importance_sampling_level": "sequence"}, "loss_type 'luspo', importance_sampling"),
        ({"loss_type": "bnpo"}, "with loss_type: bnpo"),
        ({"num_iterations": 2, "use_vllm": True}, "with a generation that lasts for several optimizer steps"),
    ],
)
def test_losses_that_are_no_sum_are_rejected(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SubsetGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **(PREFIX | settings))
