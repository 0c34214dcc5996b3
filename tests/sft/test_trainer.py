"""In SFT, packing isolates trajectories, batching by length changes no step, and a resumed run logs the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from raml_trl.runtime.errors import InputError
from raml_trl.sft.trainer import TrajectorySFTTrainer, check_sft, take_prepared

LENGTHS = [5, 30, 9, 17, 8, 26, 6, 12, 31, 7, 11, 20, 9, 14, 6, 28]


@pytest.fixture(scope="module")
def examples(model_dir: str) -> Dataset:
    """Sixteen sequences of different lengths. The loss ignores the first three tokens of each."""
    size = len(AutoTokenizer.from_pretrained(model_dir))
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, size, (length,), generator=generator).tolist() for length in LENGTHS]
    labels = [[-100] * 3 + row[3:] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": LENGTHS})


class Log(TrainerCallback):
    """Keeps the log entries that have a loss."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and "loss" in logs:
            self.lines.append(dict(logs))


def fit(
    model_dir: str,
    output_dir: Path,
    examples: Dataset,
    *,
    checkpoint: str | None = None,
    stock: bool = False,
    **settings: Any,
) -> tuple[SFTTrainer, list[dict[str, Any]]]:
    defaults: dict[str, Any] = {
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True},
        **{"save_strategy": "no", "logging_steps": 1, "max_steps": 1, "per_device_train_batch_size": 16},
        **{"max_length": 64, "max_grad_norm": 1e9, "seed": 0},
    }
    config = SFTConfig(output_dir=str(output_dir), **(defaults | settings))
    check_sft(config)
    take_prepared(config)
    log = Log()
    trainer = (SFTTrainer if stock else TrajectorySFTTrainer)(
        model_dir, args=config, train_dataset=examples, callbacks=[log]
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, log.lines


def weights(trainer: SFTTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_isolates_trajectories(model_dir: str, tmp_path: Path, examples: Dataset, attention: str) -> None:
    kwargs = {"attn_implementation": attention}
    _, [padded] = fit(model_dir, tmp_path, examples, model_init_kwargs=kwargs)
    trainer, [packed] = fit(model_dir, tmp_path, examples, model_init_kwargs=kwargs, packing=True)
    assert len(trainer.train_dataset) == 4  # 239 tokens in packs of 64
    assert packed["grad_norm"] == pytest.approx(padded["grad_norm"], rel=1e-5)
    assert packed["loss"] == pytest.approx(padded["loss"], rel=1e-5)
    assert packed["entropy"] == pytest.approx(padded["entropy"], rel=1e-5)

    _, [free] = fit(model_dir, tmp_path, examples, model_init_kwargs=kwargs, padding_free=True)
    assert free["grad_norm"] == pytest.approx(padded["grad_norm"], rel=1e-5)


def test_the_check_detects_leaks(model_dir: str, tmp_path: Path, examples: Dataset) -> None:
    """If sequences attend to each other, the gradient differs, so the test above would detect it."""
    _, [padded] = fit(model_dir, tmp_path, examples)
    rows = [examples[start : start + 4] for start in range(0, 16, 4)]
    names = ("input_ids", "labels")
    joined = {name: [[token for sequence in row[name] for token in sequence] for row in rows] for name in names}
    _, [seen] = fit(model_dir, tmp_path, Dataset.from_dict(joined))
    assert seen["grad_norm"] != pytest.approx(padded["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("strategy", ["batch_rebalance", "group_by_length"])
def test_batches_by_length_do_not_change_a_step(
    model_dir: str, tmp_path: Path, examples: Dataset, strategy: str
) -> None:
    _, [whole] = fit(model_dir, tmp_path, examples)
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "train_sampling_strategy": strategy}
    _, [sorted_by_length] = fit(model_dir, tmp_path, examples, **settings)
    assert sorted_by_length["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert sorted_by_length["loss"] == pytest.approx(whole["loss"], rel=1e-5)


@pytest.mark.long
def test_rebalanced_batches_do_not_change_a_run(model_dir: str, tmp_path: Path, examples: Dataset) -> None:
    """With and without rebalancing, each step has the same examples, so the runs differ only by rounding."""
    settings = {"max_steps": 7, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "seed": 3}
    _, random = fit(model_dir, tmp_path, examples, **settings)
    _, balanced = fit(model_dir, tmp_path, examples, train_sampling_strategy="batch_rebalance", **settings)
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in balanced] == pytest.approx([line[name] for line in random], rel=1e-4)


def test_the_sampler_reads_the_length_column(model_dir: str, tmp_path: Path, examples: Dataset) -> None:
    trainer, _ = fit(model_dir, tmp_path, examples, train_sampling_strategy="batch_rebalance")
    sampler: Any = trainer.get_train_dataloader().batch_sampler
    while "BatchRebalance" not in type(sampler).__name__:
        sampler = sampler.batch_sampler
    assert sampler.lengths == LENGTHS
    changed = examples.remove_columns("length").add_column("length", [7] * 16)
    trainer, _ = fit(model_dir, tmp_path, changed, train_sampling_strategy="batch_rebalance")
    sampler = trainer.get_train_dataloader().batch_sampler
    while "BatchRebalance" not in type(sampler).__name__:
        sampler = sampler.batch_sampler
    assert sampler.lengths == [7] * 16


def test_the_order_depends_on_the_seed(model_dir: str, tmp_path: Path, examples: Dataset) -> None:
    orders = []
    for seed in (0, 1):
        trainer, _ = fit(model_dir, tmp_path, examples, train_sampling_strategy="batch_rebalance", seed=seed)
        sampler: Any = trainer._get_train_sampler(examples)
        orders.append([row for batch in sampler for row in batch])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(16))


def test_with_default_settings_the_run_equals_trl(model_dir: str, tmp_path: Path, examples: Dataset) -> None:
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    ours, _ = fit(model_dir, tmp_path, examples, **settings)
    stock, _ = fit(model_dir, tmp_path, examples, stock=True, **settings)
    assert torch.equal(weights(ours), weights(stock))


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{}, {"train_sampling_strategy": "batch_rebalance", "gradient_accumulation_steps": 2}, {"packing": True}],
)
def test_a_resumed_run_logs_the_same_as_an_uninterrupted_one(
    model_dir: str, tmp_path: Path, examples: Dataset, settings: dict[str, Any]
) -> None:
    steps = {"max_steps": 7, "logging_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    saved = steps | {"save_strategy": "steps", "save_steps": 1, **settings}
    whole, log = fit(model_dir, tmp_path / "whole", examples, **saved)
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    resumed, rest = fit(model_dir, tmp_path / "resumed", examples, checkpoint=checkpoint, **saved)
    assert torch.equal(weights(whole), weights(resumed))
    assert [line["loss"] for line in rest] == [line["loss"] for line in log[1:]]
    timed = {name for name in log[0] if name.startswith(("step_time", "train_"))}
    untimed = [[{name: line[name] for name in line.keys() - timed} for line in lines] for lines in (log[1:], rest)]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy wrapped lets a trajectory attend"),
        ({"packing": True, "max_length": None}, "packing needs max_length"),
        ({"assistant_only_loss": True}, "assistant_only_loss is on"),
        ({"chat_template_path": "someone/model"}, "chat_template_path someone/model must be an existing .jinja file"),
    ],
)
def test_settings_that_would_train_on_other_examples_are_rejected(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **settings)
    with pytest.raises(InputError, match=message):
        check_sft(config)
