"""Makes RLOO trainers for short runs, and is the script of `test_distributed_rloo`, run under `accelerate launch`.

accelerate launch --config_file accelerate_configs/cpu.yaml -m tests.helpers.rloo_runs MODEL_DIR RESULTS.pt
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import RLOOConfig, RLOOTrainer

from raml_trl.grpo.rloo import SubsetRLOOConfig, SubsetRLOOTrainer
from raml_trl.grpo.selection import select_rollouts
from tests.helpers import freeze_imports
from tests.helpers.trainers import Recorder, digit_reward, questions, untimed, weights

G = 4
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_generations": G,
    "max_completion_length": 8,
    "learning_rate": 1e-4,
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
    "max_steps": 2,
}


def make(
    model_dir: str, output_dir: Path, trainer: type[RLOOTrainer] = SubsetRLOOTrainer, **settings: Any
) -> tuple[RLOOTrainer, Recorder]:
    """Make a trainer with four groups of four rollouts per step."""
    recorder = Recorder()
    config = SubsetRLOOConfig if issubclass(trainer, SubsetRLOOTrainer) else RLOOConfig
    arguments = config(output_dir=str(output_dir), **(DEFAULTS | settings))
    return trainer(model_dir, digit_reward, arguments, train_dataset=questions(), callbacks=[recorder]), recorder


class Masking(RLOOTrainer):
    """TRL's trainer with the selection as factors of the row losses: w_i G/m for i in S, otherwise 0."""

    strategy = "random"

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Tensor]:
        batch = super()._generate_and_score_completions(inputs)
        advantages = self.accelerator.gather(batch["advantages"]).view(-1, G).numpy()
        key: dict[str, int] = {"seed": self.args.seed, "step": self.state.global_step}
        selection = select_rollouts(advantages, advantages, 2, strategy=self.strategy, **key)
        factors = torch.from_numpy(selection.row_weights(G) * G / 2).float().flatten()
        first = self.accelerator.process_index * len(inputs)
        batch["advantages"] = batch["advantages"] * factors[first : first + len(inputs)]
        return batch


# Each of two processes has 6 rollouts, so that the second of three groups is on both.
STRADDLING = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 3}
RUNS: dict[str, tuple[type[RLOOTrainer], dict[str, Any]]] = {
    "stock": (RLOOTrainer, {}),
    "all of G": (SubsetRLOOTrainer, {}),
    "mask": (Masking, {}),
    "drop": (SubsetRLOOTrainer, {"num_generations_update": 2}),
    "mask, scored late": (Masking, {"beta": 0.0}),
    "drop, scored late": (SubsetRLOOTrainer, {"num_generations_update": 2, "beta": 0.0}),
}


def main(model_dir: str, results: str) -> None:
    freeze_imports()
    collected: dict[str, Any] = {}
    for name, (trainer_class, settings) in RUNS.items():
        trainer, recorder = make(model_dir, Path(results).parent / "out", trainer_class, **STRADDLING, **settings)
        trainer.train()
        collected[name] = {
            "weights": weights(trainer),
            "log": untimed(recorder),
            "grad_norm": recorder.of("grad_norm"),
            "num_processes": trainer.accelerator.num_processes,
            "wrapper": type(trainer.model_wrapped).__name__,
        }
    if trainer.accelerator.is_main_process:
        torch.save(collected, results)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
