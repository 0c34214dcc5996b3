"""Trainers for tests: short runs on the embedded world, and what they leave to compare."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.data import Question, grpo_rows

NUM_GENERATIONS = 8


def digit_reward(completions: list[list[dict[str, str]]], **_columns: object) -> list[float]:
    """A reward that random text gets in many different sizes, so that no group is without signal."""
    return [sum(character in "0123456" for character in completion[-1]["content"]) / 8 for completion in completions]


def questions(number: int = 64) -> Dataset:
    """Questions of different lengths, so that padding has something to do."""
    texts = [f"a={'+'.join(str((i * j) % 10) for j in range(1, 3 + i % 4))},b={i % 10}+{i % 7}" for i in range(number)]
    return grpo_rows([Question(str(i), text, "0", "test") for i, text in enumerate(texts)], "bare")


def fixed_rollouts(prompts: list[list[dict[str, str]]], trainer: GRPOTrainer) -> dict[str, list[list[float]]]:
    """Rollouts that depend on the prompt and the place in the group alone, so any number of processes gets the same."""
    tokenizer = trainer.processing_class
    first = trainer.accelerator.process_index * len(prompts)
    completions = []
    for row, prompt in enumerate(prompts, start=first):
        rng = np.random.default_rng([row % NUM_GENERATIONS, *prompt[-1]["content"].encode()])
        completions.append([*rng.integers(8, 18, size=rng.integers(2, 10)).tolist(), tokenizer.eos_token_id])
    return {
        "prompt_ids": tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"],
        "completion_ids": completions,
        "logprobs": [[0.0] * len(ids) for ids in completions],
    }


class Recorder(TrainerCallback):
    """Keeps what was logged at every step."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.logs.append(dict(logs))

    def of(self, name: str) -> list[float]:
        return [logs[name] for logs in self.logs if name in logs]


def make_trainer(
    model_dir: str, output_dir: Path, *, stock: bool = False, max_steps: int = 3, **settings: Any
) -> tuple[GRPOTrainer, Recorder]:
    """A trainer for two groups of eight per step; `stock` for TRL's own."""
    recorder = Recorder()
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 16,
        "num_generations": NUM_GENERATIONS,
        "max_completion_length": 12,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.05,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "seed": 3,
    }
    parts = {name: settings.pop(name) for name in ("rollout_func", "eval_dataset") if name in settings}
    config_class, trainer_class = (GRPOConfig, GRPOTrainer) if stock else (SubsetGRPOConfig, SubsetGRPOTrainer)
    arguments = config_class(output_dir=str(output_dir), max_steps=max_steps, **(defaults | settings))
    trainer = trainer_class(
        model_dir, digit_reward, arguments, train_dataset=questions(), callbacks=[recorder], **parts
    )
    return trainer, recorder


def weights(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Selections(TrainerCallback):
    """Keeps which rollouts of the whole batch were selected at every step."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer
        self.masks: list[list[bool]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.masks.append(list(self.trainer._logs["extra"].get("selected", [])))
