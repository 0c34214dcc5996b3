"""Makes trainers for short GRPO runs on arithmetic questions, and collects the results that the tests compare."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.data.arithmetic import NUM_OPERANDS, ArithmeticQuestion, generate_trajectories
from raml_trl.grpo.overrides import around
from raml_trl.prompts import prompt_messages
from tests.helpers import without_triton

without_triton.patch()
NUM_GENERATIONS = 8


def digit_reward(completions: list[Any], **_columns: object) -> list[float]:
    """A reward that takes many values on random text, so that rewards differ within every group."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [sum(character in "0123456" for character in text) / 8 for text in texts]


def length_reward(completions: list[list[dict[str, str]]], **_columns: object) -> list[float]:
    """A second reward function, on another scale."""
    return [len(completion[-1]["content"]) / 3 for completion in completions]


def half_dead_reward(completions: list[list[dict[str, str]]], **_columns: object) -> list[float]:
    """`digit_reward`, but 0 in every second group of eight, so that the rollouts of this group have advantage 0."""
    rewards = digit_reward(completions)
    return [reward if row // NUM_GENERATIONS % 2 == 0 else 0.0 for row, reward in enumerate(rewards)]


def odd_prompts_reward(completions: list[Any], prompts: list[Any], **_columns: object) -> list[float]:
    """`digit_reward`, but 0 for half of the questions, no matter which process holds their rollouts."""
    rewards = digit_reward(completions)
    live = [int(prompt[-1]["content"].rpartition("+")[2]) % 2 == 0 for prompt in prompts]
    return [reward if alive else 0.0 for reward, alive in zip(rewards, live, strict=True)]


def rare_reward(completions: list[Any], prompts: list[Any], **_columns: object) -> list[float | None]:
    """Reward only the first and the sixth rollout of every second question, so that few rows have an advantage."""
    live = [int(prompt[-1]["content"].rpartition("+")[2]) % 2 == 1 for prompt in prompts]
    return [
        float(row % NUM_GENERATIONS) if alive and row % NUM_GENERATIONS in (0, 5) else None
        for row, alive in enumerate(live)
    ]


def no_reward(completions: list[list[dict[str, str]]], **_columns: object) -> list[float]:
    """Reward nothing, so that every advantage is 0."""
    return [0.0] * len(completions)


@cache
def questions(number: int = 64) -> Dataset:
    """Return questions of different lengths, so that batches need padding."""
    texts = [f"a={'+'.join(str((i * j) % 10) for j in range(1, 3 + i % 4))},b={i % 10}+{i % 7}" for i in range(number)]
    return Dataset.from_list([{"prompt": prompt_messages(text, "bare"), "answer": "0"} for text in texts])


def fixed_rollouts(prompts: list[list[dict[str, str]]], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return rollouts that depend only on the prompt and the index in the group, not on the number of processes."""
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


def solved_rollouts(prompts: list[list[dict[str, str]]], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return rollouts like `fixed_rollouts`, whose texts are correct, wrong or unformatted trajectories."""
    tokenizer = trainer.processing_class
    first = trainer.accelerator.process_index * len(prompts)
    completions = []
    for row, prompt in enumerate(prompts, start=first):
        digits = [int(digit) for digit in re.findall(r"\d", prompt[-1]["content"])]
        question = ArithmeticQuestion(tuple(digits[:NUM_OPERANDS]), tuple(digits[NUM_OPERANDS:]))
        rng = np.random.default_rng([row % NUM_GENERATIONS, *digits])
        [right] = generate_trajectories(question, 1, rng, exit_probability=0.3)
        wrong = right.replace(f"{{{question.answer}}}", f"{{{9 - int(question.answer[0])}0}}")
        text = (right, wrong, right.removesuffix("}"))[rng.integers(3)]
        completions.append([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    return {
        "prompt_ids": tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"],
        "completion_ids": completions,
        "logprobs": [[0.0] * len(ids) for ids in completions],
    }


class TrainerOnGivenRollouts(SubsetGRPOTrainer):
    """A trainer on `solved_rollouts` instead of rollouts that the model samples."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named, rollout_func=solved_rollouts)


def rollouts_with_tools(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return `fixed_rollouts`, with every third token marked as not written by the model."""
    rollouts = fixed_rollouts(prompts, trainer)
    return rollouts | {"env_mask": [[int(i % 3 != 1) for i in range(len(ids))] for ids in rollouts["completion_ids"]]}


def rollouts_with_logprobs(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return `fixed_rollouts`, with log-probabilities that differ between rollouts and from those of the model."""
    rollouts = fixed_rollouts(prompts, trainer)
    return rollouts | {"logprobs": [[-3.0 - 0.1 * (i % 7) for i in ids] for ids in rollouts["completion_ids"]]}


class Recorder(TrainerCallback):
    """Keeps the log entries of every step."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.logs.append(dict(logs))

    def of(self, name: str) -> list[float]:
        return [logs[name] for logs in self.logs if name in logs]


def untimed(recorder: Recorder) -> list[dict[str, Any]]:
    """Return the log entries of the steps, without timings."""
    timed = ("seconds/", "speedup/", "step_time", "train_")
    logs = [{name: value for name, value in row.items() if not name.startswith(timed)} for row in recorder.logs]
    return [row for row in logs if "loss" in row]


def read_tables(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of rollouts that a run saved, by file name."""
    paths = sorted((directory / "completions").glob("*.parquet"))
    return {path.name: pd.read_parquet(path).to_dict("records") for path in paths}


def make_trainer(
    model_dir: str, output_dir: Path, *, stock: bool = False, max_steps: int = 3, **settings: Any
) -> tuple[GRPOTrainer, Recorder]:
    """Make a GRPO trainer with two groups of eight rollouts per step: ours, or TRL's own if `stock` is true.

    `trainer_class` replaces the class of the trainer.
    """
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
    names = ("rollout_func", "eval_dataset", "peft_config", "sampled_evaluation", "processing_class")
    parts = {name: settings.pop(name) for name in names if name in settings}
    reward = settings.pop("reward", digit_reward)
    dataset = settings.pop("train_dataset", None)
    config_class, default = (GRPOConfig, GRPOTrainer) if stock else (SubsetGRPOConfig, SubsetGRPOTrainer)
    trainer_class = settings.pop("trainer_class", default)
    arguments = config_class(output_dir=str(output_dir), max_steps=max_steps, **(defaults | settings))
    set_seed(arguments.seed)  # TRL 1.14.2 makes an adapter before it sets the seed
    trainer = trainer_class(
        model_dir,
        reward,
        arguments,
        train_dataset=questions() if dataset is None else dataset,
        callbacks=[recorder],
        **parts,
    )
    return trainer, recorder


def generation_of(trainer: SubsetGRPOTrainer, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make one generation, and return it with the selected rows marked, as TRL gets it to shuffle."""
    with around(trainer, _generate_and_score_completions=trainer._around_generation):
        return trainer._generate_and_score_completions(rows)


def loss_of(trainer: SubsetGRPOTrainer, micro_batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss that a training step computes for a micro-batch."""
    trainer._prepared = True
    return trainer._around_loss(trainer.compute_loss, trainer.model, micro_batch)


def weights(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter, by name."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Selections(TrainerCallback):
    """Keeps, for every step, the mask of the selected rollouts in the batch of all processes."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer
        self.masks: list[list[bool]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.masks.append(list(self.trainer._logs["extra"].get("raml/selected", [])))
