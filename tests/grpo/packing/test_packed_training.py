"""Training on packed rows gives TRL's gradient, runs each prompt once, and uses as few micro-batches as it may."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import is_peft_model
from peft import LoraConfig

from raml_trl import SubsetGRPOConfig
from raml_trl.grpo.packing.packed_model import cpu_tile
from raml_trl.runtime.errors import InputError
from tests.helpers.trainers import fixed_rollouts, make_trainer, weights

chunked_logprob = pytest.importorskip("trl.kernels.chunked_logprob")  # of TRL 1.15
SEVERAL = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "rollout_func": fixed_rollouts}
LARGE_STEPS = {"optim": "sgd", "learning_rate": 1.0}  # large enough that rounding of the weights does not matter
ROWS, STEPS = 32, 3


@contextmanager
def recorded_passes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Record the number of tokens of every forward pass with gradient in the `with` block."""
    passes: list[int] = []

    def record(_module: torch.nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            passes.append(kwargs["input_ids"].numel())

    inner = model.get_base_model() if is_peft_model(model) else model
    handle = inner.base_model.register_forward_pre_hook(record, with_kwargs=True)
    yield passes
    handle.remove()


def train(model_dir: str, tmp_path: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], list[float], list[int]]:
    """Train, and return the weights, the norms of the gradients, and the tokens of each forward pass of the update."""
    trainer, recorder = make_trainer(model_dir, tmp_path, **(SEVERAL | settings))
    with recorded_passes(trainer.accelerator.unwrap_model(trainer.model)) as passes:
        trainer.train()
    return weights(trainer), recorder.of("grad_norm"), passes


def distance(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two models, relative to the norm of the second."""
    first, second = (torch.cat([part.flatten() for part in model.values()]).double() for model in (weights, others))
    return float((first - second).norm() / second.norm())


SETTINGS = {
    "token losses": {},
    "row means": {"loss_type": "grpo"},
    "ratios of sequences": {"importance_sampling_level": "sequence", "steps_per_generation": 16},
    "a reference model": {"beta": 0.1},
    "several steps per generation": {"steps_per_generation": 16, "num_iterations": 2},
    "a mean over each micro-batch": {"loss_type": "bnpo"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "an adapter": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)},
}


# Other tests compare these settings with TRL's trainer or with `mask`, also on packed rows: make test-all runs them.
SLOW = ("row means", "a reference model", "several steps per generation")
CASES = [
    pytest.param(settings, id=name, marks=pytest.mark.slow if name in SLOW else ())
    for name, settings in SETTINGS.items()
]


@pytest.mark.long
@pytest.mark.parametrize("settings", CASES)
def test_all_of_g_equals_trl(model_dir: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    start = weights(make_trainer(model_dir, tmp_path, **(SEVERAL | settings))[0])
    stock, stock_norms, stock_passes = train(model_dir, tmp_path, stock=True, **LARGE_STEPS, **settings)
    ours, norms, passes = train(model_dir, tmp_path, **LARGE_STEPS, **settings)
    assert min(stock_norms) > 0
    moved = {name: weight - start[name] for name, weight in stock.items()}
    assert distance({name: weight - start[name] for name, weight in ours.items()}, moved) < 1e-5
    assert norms == pytest.approx(stock_norms, rel=1e-5)
    assert sum(passes[-8:]) < 0.9 * sum(stock_passes[-8:])


@pytest.mark.long
def test_a_step_runs_as_many_micro_batches_as_the_limit_needs(model_dir: str, tmp_path: Path) -> None:
    results = {limit: train(model_dir, tmp_path, max_tokens_per_micro_batch=limit) for limit in (10_000, 200, 60)}
    passes = {limit: tokens for limit, (_, _, tokens) in results.items()}
    probe = 8 + 1  # plain rows, and the packed row
    assert len(passes[10_000]) == probe + ROWS + 1 + STEPS  # the check of the first micro-batch, and one per step
    updates = {limit: tokens[-(len(tokens) // 2) :] for limit, tokens in passes.items() if limit < 10_000}
    assert max(updates[200]) <= 200
    assert max(updates[60]) <= 60
    for limit in (200, 60):
        assert distance(results[limit][0], results[10_000][0]) < 1e-6


@pytest.mark.long
def test_a_micro_batch_may_have_part_of_a_selected_row(model_dir: str, tmp_path: Path) -> None:
    """With m = 1 of 8 and micro-batches of 4 rollouts, TRL's geometry would have half a row in each micro-batch."""
    selected = {"num_generations_update": 1, "selection": "first"}
    for loss_type in ("dapo", "grpo"):
        half, norms, _ = train(model_dir, tmp_path, loss_type=loss_type, **selected)
        whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
        expected, expected_norms, _ = train(model_dir, tmp_path, loss_type=loss_type, **selected, **whole)
        assert norms == pytest.approx(expected_norms, rel=1e-5)
        assert distance(half, expected) < 1e-6


@pytest.mark.long
def test_the_model_is_restored_after_training(model_dir: str, tmp_path: Path) -> None:
    tile = chunked_logprob.TOKEN_CHUNK_SIZE
    trainer, _ = make_trainer(model_dir, tmp_path, **SEVERAL, max_steps=1)
    trainer.train()
    assert trainer.model.config._attn_implementation == "sdpa"
    assert not trainer.model.base_model._forward_hooks
    assert tile == chunked_logprob.TOKEN_CHUNK_SIZE


def test_the_tile_of_the_head_on_a_cpu() -> None:
    assert [cpu_tile(vocabulary) for vocabulary in (512, 8192, 32_000, 151_936)] == [512, 512, 131, 128]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens_per_micro_batch": 0}, "max_tokens_per_micro_batch must be a whole number from 1"),
        ({"max_tokens_per_micro_batch": 9, "shared_prompts": "off"}, "rows are not packed by tokens if shared_prompts"),
        ({"max_tokens_per_micro_batch": 9, "length_bucketing": False}, "or length_bucketing is off"),
        ({"max_tokens_per_micro_batch": 9, "loss_type": "bnpo"}, "because loss_type: bnpo depends on them"),
        ({"shared_prompts": "xformers"}, "shared_prompts"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SubsetGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
