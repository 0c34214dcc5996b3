"""What the two-process tests run under `accelerate launch`: several short trainings, their results saved by rank 0.

accelerate launch --config_file accelerate_configs/cpu.yaml tests/two_processes.py MODEL_DIR RESULTS.pt
"""

import sys
from pathlib import Path
from typing import Any

import torch
from trainers import Selections, fixed_rollouts, make_trainer, weights

RUNS: dict[str, dict[str, Any]] = {
    "stock": {"stock": True},
    "all of G": {"num_generations_update": 8, "length_bucketing": False},
    "stock, straddling": {"stock": True, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
    "all of G, straddling": {
        "num_generations_update": 8,
        "length_bucketing": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
    },
    "drop": {"num_generations_update": 2},
    "mask": {"num_generations_update": 2, "subset_mode": "mask"},
    "fixed rollouts": {"num_generations_update": 2, "rollout_func": fixed_rollouts},
    "drop, row mean": {"num_generations_update": 2, "loss_type": "grpo", "gradient_accumulation_steps": 2},
    "mask, row mean": {
        "num_generations_update": 2,
        "loss_type": "grpo",
        "gradient_accumulation_steps": 2,
        "subset_mode": "mask",
    },
}


def main(model_dir: str, results: str) -> None:
    collected: dict[str, Any] = {}
    for name, settings in RUNS.items():
        settings = {"per_device_train_batch_size": 8} | settings
        trainer, recorder = make_trainer(model_dir, Path(results).parent / "out", **settings)
        selections = Selections(trainer)
        trainer.add_callback(selections)
        trainer.train()
        collected[name] = {
            "weights": weights(trainer),
            "grad_norm": recorder.of("grad_norm"),
            "selected": selections.masks,
            "num_processes": trainer.accelerator.num_processes,
            "distributed_type": trainer.accelerator.distributed_type.value,
            "wrapper": type(trainer.model_wrapped).__name__,
        }
    if trainer.accelerator.is_main_process:
        torch.save(collected, results)
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
