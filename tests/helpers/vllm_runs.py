"""The script of `test_vllm_training`, run alone or under `accelerate launch`: short trainings with rollouts from vLLM.

python -m tests.helpers.vllm_runs MODEL_DIR RESULTS.pt
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}

import torch
from trl.generation.vllm_generation import VLLMGeneration
from vllm.model_executor.layers import utils

from raml_trl.runtime.runs import process_share
from tests.helpers.trainers import Selections, make_trainer

VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.1, "vllm_max_model_length": 64}
# 24 rollouts. On two processes, each has 12 of them, so the second of three groups of eight is on both.
BATCH = {"per_device_train_batch_size": 8 // process_share()[1], "gradient_accumulation_steps": 3}
TWO = VLLM | BATCH | {"num_generations_update": 2}
FAST = TWO | {"learning_rate": 0.01, "max_steps": 6, "max_grad_norm": 1.0}
RUNS: dict[str, dict[str, Any]] = {
    "drop": TWO | {"learning_rate": 0.0},
    "mask": TWO | {"learning_rate": 0.0, "subset_mode": "mask"},
    "synchronised": FAST,
    "not synchronised": FAST,
}
LOGGED = ("grad_norm", "rows/selected", "rows/trained", "tokens/scored", "reward")
LOGGED += ("sampling/sampling_logp_difference/mean",)


def keep_weight(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Keep the weights of a layer. On a CPU, vLLM would pack and drop them, and could then load no new weights."""
    layer.cpu_linear = torch.nn.functional.linear


def main(model_dir: str, results: str) -> None:
    utils.dispatch_cpu_unquantized_gemm = keep_weight
    collected = {}
    for name, settings in RUNS.items():
        trainer, recorder = make_trainer(model_dir, Path(results).parent / "out", **settings)
        selections = Selections(trainer)
        trainer.add_callback(selections)
        if name == "not synchronised":
            VLLMGeneration.sync_weights = lambda _self: None
        trainer.train()
        collected[name] = {
            "logged": {metric: recorder.of(metric) for metric in LOGGED},
            "selected": selections.masks,
            "num_processes": trainer.accelerator.num_processes,
            "distributed_type": trainer.accelerator.distributed_type.value,
            "wrapper": type(trainer.model_wrapped).__name__,
            "engine": type(trainer.vllm_generation.llm).__module__,
        }
    if trainer.accelerator.is_main_process:
        torch.save(collected, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
