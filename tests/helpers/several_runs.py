"""The script that the launcher and evaluation tests run under `accelerate launch`: several trainings in sequence.

accelerate launch --config_file accelerate_configs/zero3.yaml --num_processes 2 --mixed_precision no \
    -m tests.helpers.several_runs RUNS.json

RUNS.json holds the command, the recipe and the settings of each run, by the name of the run. Two further keys are
optional. With `given_rollouts`, GRPO trains on rollouts that are the same on any number of processes. With
`interrupted_after`, the run is interrupted after that step, and the same command is started again.

Each process notes, at the first evaluation of each run, how the model is sharded, and also the lengths of its samples.
It writes its notes to a file next to RUNS.json: process 0 to 0.json, process 1 to 1.json.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    # On a CPU, accelerate silently uses DDP instead of FSDP. So override its choice of the backend.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda *_args, **_named: ("gloo", DistributedType.MULTI_GPU)
if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
    import deepspeed.ops

    # DeepSpeed would compile this extension at the first run, which takes a compiler and a minute. gloo replaces it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from accelerate.utils import DeepSpeedPlugin

    set_up = DeepSpeedPlugin.__post_init__

    def set_up_for_small_models(plugin: DeepSpeedPlugin) -> None:
        """Shard all tensors. By default ZeRO-3 shards no tensor under 100,000 elements, so none of the test model."""
        set_up(plugin)
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    DeepSpeedPlugin.__post_init__ = set_up_for_small_models

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from raml_trl import train_grpo
from raml_trl.runtime.cli import INTERRUPTED, run
from raml_trl.sampling.engine import Completion
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.training import evaluation as in_training
from raml_trl.training import run as lifecycle
from raml_trl.training.evaluation import Evaluation
from tests.commands.test_commands import COMMANDS, TINY
from tests.helpers import freeze_imports, without_triton
from tests.helpers.trainers import TrainerOnGivenRollouts

without_triton.patch()
# Keep the connection between the processes open at the end of a run, because the next run needs it.
Accelerator.end_training = lambda _self: None

notes: dict[str, Any] = {}
measure = Evaluation.measure


def num_held(parameters: Iterable[torch.Tensor]) -> int:
    """Count the elements of the parameters that this process holds at the moment."""
    return sum((item.to_local() if isinstance(item, DTensor) else item).numel() for item in parameters)


def noted_measure(evaluation: Evaluation, trainer: Any) -> dict[str, float]:
    if not notes:
        sharding, wrapped = trainer.accelerator.distributed_type.value, trainer.model_wrapped
        notes.update(
            processes=trainer.accelerator.num_processes,
            distributed=sharding,
            wrapper=type(wrapped).__name__,
            stage=wrapped.zero_optimization_stage() if sharding == "DEEPSPEED" else None,
            parameters=num_held(wrapped.parameters()),
            optimized=num_held(item for group in trainer.optimizer.param_groups for item in group["params"]),
            lengths=[],
        )
    return measure(evaluation, trainer)


class NotingEngine(TransformersEngine):
    def sample(self, *args: Any, **named: Any) -> Iterator[Completion]:
        notes.setdefault("sampling", num_held(self.model.parameters()))
        completions = list(super().sample(*args, **named))
        notes["lengths"].append(max(completion.num_tokens for completion in completions))
        return iter(completions)


def interrupt_after(step: int) -> Callable[..., None]:
    """Return a callback that acts like Ctrl-C on every process after the given step."""

    def on_step_end(_callback: Any, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt

    return on_step_end


def start(command: str, words: list[str], patches: list[tuple[Any, str, Any]]) -> int | None:
    """Run a command and return its exit code."""
    notes.clear()
    with pytest.MonkeyPatch.context() as patch:
        for patched in [(sys, "argv", [command, *words]), *patches]:
            patch.setattr(*patched)
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS[command], distributed=True)
    return stop.value.code


def main(path: Path) -> None:
    freeze_imports()
    Evaluation.measure = noted_measure
    in_training.TransformersEngine = NotingEngine
    all_notes = {}
    for name, asked in json.loads(path.read_text()).items():
        words = [word for key, value in asked["settings"].items() for word in (f"--{key}", *str(value).split())]
        words = ["--config", str(TINY / f"{asked['recipe']}.yaml"), *words]
        given = [(train_grpo, "SubsetGRPOTrainer", TrainerOnGivenRollouts)] if asked.get("given_rollouts") else []
        if "interrupted_after" in asked:
            cut_off = (lifecycle.Clock, "on_step_end", interrupt_after(asked["interrupted_after"]))
            assert start(asked["command"], words, [*given, cut_off]) == INTERRUPTED, name
        code = start(asked["command"], words, given)
        assert not code, f"{name} ended with {code}"
        all_notes[name] = dict(notes)
    (path.parent / f"{os.environ['RANK']}.json").write_text(json.dumps(all_notes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
