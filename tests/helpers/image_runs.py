"""Short trainings on questions about images, in one process or, under `accelerate launch`, in several.

accelerate launch --config_file accelerate_configs/cpu.yaml -m tests.helpers.image_runs DIRECTORY
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ProcessorMixin, TrainerCallback
from trl import GRPOTrainer

from tests.helpers import freeze_imports
from tests.helpers.trainers import digit_reward, make_trainer
from tests.helpers.vision import LAYOUTS, image_questions, save_vision_model

GROUP = 4
PLAIN = {
    "num_generations_update": GROUP,
    "length_bucketing": False,
    "skip_zero_advantage": False,
    "shared_prompts": "off",
}
KINDS: dict[str, dict[str, Any]] = {
    "TRL": {"stock": True},
    "plain": PLAIN,
    "default": {"num_generations_update": GROUP},
    "drop": {"num_generations_update": 2},
    "mask": {"num_generations_update": 2, "subset_mode": "mask"},
}
# Three groups per generation: with two processes, the second is on both.
SETTINGS: dict[str, dict[str, Any]] = {
    "images in all rows": {"counts": (1, 2, 1, 3), "beta": 0.1, "steps_per_generation": 3, "loss_type": "grpo"},
    # In TRL, this needs a `rollout_func`; and `log_multimodal` hangs if one process has no image.
    "images in some rows": {"counts": (1, 0, 2, 0, 0, 1), "log_multimodal": False},
}


class Gradients(TrainerCallback):
    """Keeps the gradient of every step as one vector."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **_: Any) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        self.steps.append(torch.cat([gradient.flatten().double() for gradient in gradients]))


def image_rollouts(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
    """Return rollouts that depend only on the prompt and the index in the group, not on the number of processes."""
    prompt_ids, *_ = trainer._tokenize_prompts(prompts)
    tokenizer = trainer._tokenizer
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    first = trainer.accelerator.process_index * len(prompts)
    completions = []
    for row, ids in enumerate(prompt_ids, start=first):
        rng = np.random.default_rng([row % GROUP, *ids])
        completions.append([*rng.choice(digits, size=rng.integers(2, 10)).tolist(), tokenizer.eos_token_id])
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": completions,
        "logprobs": [[0.0] * len(ids) for ids in completions],
    }


def make_image_trainer(
    directory: Path, layout: str, processor: ProcessorMixin, *, counts: tuple[int, ...], **settings: Any
) -> Any:
    """Make a trainer on questions with `counts` images in turn; return it and the recorder of its log."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 12 // processes // settings.get("steps_per_generation", 1),
        "gradient_accumulation_steps": 1,
        "num_generations": GROUP,
        "max_grad_norm": 1e9,
        "optim": "sgd",
        "learning_rate": 1e-6,  # so that gradients of later steps differ by rounding only
        "max_steps": 2,
        "reward": digit_reward,
        "rollout_func": image_rollouts,
        "train_dataset": image_questions(counts=counts),
        "processing_class": processor,
    }
    settings = defaults | settings
    output = directory / settings.pop("output_dir", "out")
    return make_trainer(str(directory / layout), output, **settings)


def train_all(
    directory: Path, layouts: Iterable[str] = LAYOUTS, settings: Iterable[str] = SETTINGS
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train with all kinds in all settings; return the gradient of every step by layout, setting and kind."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for layout in layouts:
        processor = save_vision_model(layout, directory / layout)
        for name in settings:
            for kind, choice in KINDS.items():
                trainer, recorder = make_image_trainer(directory, layout, processor, **SETTINGS[name], **choice)
                gradients = Gradients()
                trainer.add_callback(gradients)
                trainer.train()
                results.setdefault(layout, {}).setdefault(name, {})[kind] = {
                    "gradients": gradients.steps,
                    "rewards": recorder.of("reward"),
                    "num_processes": trainer.accelerator.num_processes,
                }
    return results


def difference(run: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest relative difference between the gradients of two runs in a step."""
    pairs = zip(run["gradients"], other["gradients"], strict=True)
    return max(float((gradient - changed).norm() / gradient.norm()) for gradient, changed in pairs)


def main(directory: str) -> None:
    freeze_imports()
    results = train_all(Path(directory))
    if os.environ["RANK"] == "0":
        torch.save(results, Path(directory) / "results.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
