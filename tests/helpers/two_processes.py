"""The script of `test_distributed`, run under `accelerate launch`: short trainings whose results rank 0 saves.

accelerate launch --config_file accelerate_configs/cpu.yaml -m tests.helpers.two_processes MODEL_DIR RESULTS.pt
"""

import sys
import time
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch

from raml_trl.grpo.exchange import exchange_rows
from raml_trl.grpo.images import split_pixels, stack_pixels
from raml_trl.grpo.trainer import SubsetGRPOTrainer
from raml_trl.grpo.user_selection import STRATEGIES
from tests.helpers import freeze_imports
from tests.helpers.choosers import keyed, unkeyed
from tests.helpers.trainers import (
    Selections,
    fixed_rollouts,
    make_trainer,
    no_reward,
    odd_prompts_reward,
    questions,
    rare_reward,
    read_tables,
    untimed,
    weights,
)

ALL = {"num_generations_update": 8, "length_bucketing": False, "skip_zero_advantage": False, "shared_prompts": "off"}
TWO = {"num_generations_update": 2}
# Each of two processes has 12 rollouts, so that the second of three groups is on both.
STRADDLING = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
ROW_MEAN = {"loss_type": "grpo", "gradient_accumulation_steps": 2}
MASK = {"subset_mode": "mask"}
FIRST = {"num_generations_update": 1, "selection": "first"}
FIXED = {"rollout_func": fixed_rollouts}
CHOSEN = {"question_selection": "mixed", "train_dataset": questions(6), "reward": odd_prompts_reward}
CHOSEN |= {"token_selection": "prefix", "prefix_minimum": 2, "question_weights": True}
REFILLED = {"refill": 2, "train_dataset": questions(20), "reward": odd_prompts_reward}
REFILLED |= {"selection": "importance", "selection_cost": "tokens"}
BATCH = {"selection": "abs_advantage", "selection_scope": "batch"}

RUNS: dict[str, dict[str, Any]] = {
    "stock": {"stock": True},
    "all of G": ALL,
    "stock, straddling": {"stock": True, **STRADDLING},
    "all of G, straddling": ALL | STRADDLING,
    "drop": TWO,
    "mask": TWO | MASK,
    "drop, row mean": TWO | ROW_MEAN,
    "mask, row mean": TWO | ROW_MEAN | MASK,
    "fixed": TWO | FIXED,
    "fixed, straddling": TWO | FIXED | STRADDLING,
    "fixed, straddling, row mean": TWO | FIXED | STRADDLING | {"loss_type": "grpo"},
    "fixed, straddling, mask": TWO | FIXED | STRADDLING | MASK | {"loss_type": "grpo"},
    "skipped": TWO | FIXED | STRADDLING | {"reward": odd_prompts_reward, "loss_type": "grpo"},
    "scored": TWO | FIXED | STRADDLING | {"reward": odd_prompts_reward, "beta": 0.1},
    "scored over the batch": TWO | FIXED | STRADDLING | BATCH | {"steps_per_generation": 6},
    "hardly a live row": FIXED | FIRST | {"reward": rare_reward, "loss_type": "grpo", "max_steps": 8},
    "stock, skipped": {"stock": True} | FIXED | STRADDLING | {"reward": odd_prompts_reward},
    "all of G, skipped": FIXED | STRADDLING | {"reward": odd_prompts_reward},
    "no signal": TWO | FIXED | {"reward": no_reward},
    **{strategy: TWO | FIXED | STRADDLING | {"selection": strategy} for strategy in STRATEGIES},
    "a function": TWO | FIXED | STRADDLING | {"selection": keyed},
    "a function that differs between processes": TWO | STRADDLING | {"selection": unkeyed},
    "chosen questions": TWO | FIXED | STRADDLING | CHOSEN | {"max_steps": 6},
    "refilled": TWO | FIXED | STRADDLING | REFILLED,
    "over the batch": TWO | FIXED | STRADDLING | BATCH,
    "weighed over the batch": TWO | FIXED | STRADDLING | BATCH | {"selection": "importance"},
}
# Training resumes between two steps of one generation, and between two log entries.
RESUMED: dict[str, Any] = TWO | {"steps_per_generation": 6, "gradient_accumulation_steps": 2, "logging_steps": 2}
RESUMED |= {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 1, "log_completions": True}


class SlowSaving(SubsetGRPOTrainer):
    """The first process has a temporary file in the checkpoint while the other one is done already."""

    def _save(self, *args: Any, **kwargs: Any) -> None:
        if self.is_world_process_zero():
            temporary = Path(args[0]) / ".tmpA"
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            time.sleep(0.3)
            temporary.unlink()
        super()._save(*args, **kwargs)


RESUMED |= {"max_steps": 7, "trainer_class": SlowSaving}

# The rows that each process requests, out of four on each process: unordered, from both, and in different numbers.
WANTED = [np.array([6, 1, 4, 3, 7]), np.array([0, 5])]


def exchanged(accelerator: Any) -> dict[str, Any]:
    """Return the rows that `exchange_rows` brings to each process, out of batches that hold all kinds of values.

    The widths of prompts and completions differ between processes, and only the second process has images.
    """
    here = accelerator.process_index
    own = torch.arange(4) + 4 * here
    prompts = torch.cat([torch.zeros(4, 1 + here, dtype=torch.long), own[:, None]], dim=1)
    completions = torch.cat([own[:, None], torch.zeros(4, 2 + here, dtype=torch.long)], dim=1)
    batch = {
        "prompt_ids": prompts,
        "prompt_mask": prompts,
        "completion_mask": completions,
        "advantages": own.float() / 3,
        "selected": own % 2 == 1,
        "num_items_in_batch": torch.tensor(7.0),
        "nothing": None,
        "texts": [f"row {row}" for row in own.tolist()],
        "per_token": completions.double()[:, :, None].expand(-1, -1, 2),
        "three": own[:, None].expand(4, 3),
    }
    if here == 1:
        batch |= {"num_images": [1, 0, 2, 1], "mm_token_type_ids": torch.cat([prompts, completions], dim=1)}
        batch |= {"pixel_values": own[[0, 2, 2, 3]][:, None].float()}
    batch = split_pixels(batch)
    brought = stack_pixels(exchange_rows(batch, WANTED, accelerator))
    return dict(zip(("here", "there"), accelerate.utils.gather_object([brought]), strict=True))


def main(model_dir: str, results: str) -> None:
    freeze_imports()
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
            "log": untimed(recorder),
            "selected": selections.masks,
            "num_processes": trainer.accelerator.num_processes,
            "distributed_type": trainer.accelerator.distributed_type.value,
            "wrapper": type(trainer.model_wrapped).__name__,
        }
    collected_exchange = exchanged(trainer.accelerator)
    for name, checkpoint in (("whole", None), ("resumed", f"{Path(results).parent / 'whole'}/checkpoint-3")):
        directory = Path(results).parent / name
        trainer, recorder = make_trainer(model_dir, directory, **RESUMED)
        trainer.train(resume_from_checkpoint=checkpoint)
        collected[name] = {
            "weights": weights(trainer),
            "log": untimed(recorder),
            "tables": read_tables(directory),
            "num_processes": trainer.accelerator.num_processes,
            "distributed_type": trainer.accelerator.distributed_type.value,
            "wrapper": type(trainer.model_wrapped).__name__,
        }
    if trainer.accelerator.is_main_process:
        torch.save({"runs": collected, "exchanged": collected_exchange}, results)
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
