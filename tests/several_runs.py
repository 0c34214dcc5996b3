"""What the tests of evaluation in training run under `accelerate launch`: training runs, one after the other.

accelerate launch --config_file accelerate_configs/zero3.yaml --num_processes 2 --mixed_precision no \
    tests/several_runs.py RUNS.json

RUNS.json holds the command, the recipe and the settings of each, by name. What the first evaluation of each finds is
written beside it: into 0.json by the first process, and so on.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    # accelerate shards by FSDP on accelerators only; on a CPU it takes DDP instead and says nothing.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda *_args, **_named: ("gloo", DistributedType.MULTI_GPU)
if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
    import deepspeed.ops

    # Else it is compiled at the first run, which takes a compiler and a minute; gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

import pytest
import torch
import without_triton
from accelerate import Accelerator
from test_commands import COMMANDS, TINY
from torch.distributed.tensor import DTensor

from raml_trl import in_training
from raml_trl.command_line import run
from raml_trl.in_training import Evaluation
from raml_trl.sampling import Completion
from raml_trl.transformers_engine import TransformersEngine

without_triton.patch()
# The end of a run would cut the connection between the processes, which the next one needs.
Accelerator.end_training = lambda _self: None

notes: dict[str, Any] = {}
measure = Evaluation.measure


def num_held(parameters: Iterable[torch.Tensor]) -> int:
    """Elements that are on this process at the moment."""
    return sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in parameters)


def noted_measure(evaluation: Evaluation, trainer: Any) -> dict[str, float]:
    if not notes:
        sharding, wrapped = trainer.accelerator.distributed_type.value, trainer.model_wrapped
        notes.update(
            processes=trainer.accelerator.num_processes,
            distributed=sharding,
            wrapper=type(wrapped).__name__,
            stage=wrapped.zero_optimization_stage() if sharding == "DEEPSPEED" else None,
            parameters=num_held(wrapped.parameters()),
            optimized=num_held(one for group in trainer.optimizer.param_groups for one in group["params"]),
            lengths=[],
        )
    return measure(evaluation, trainer)


class NotingEngine(TransformersEngine):
    def sample(self, *args: Any, **named: Any) -> Iterator[Completion]:
        notes.setdefault("sampling", num_held(self.model.parameters()))
        completions = list(super().sample(*args, **named))
        notes["lengths"].append(max(one.num_tokens for one in completions))
        return iter(completions)


def main(path: Path) -> None:
    Evaluation.measure = noted_measure
    in_training.TransformersEngine = NotingEngine
    found = {}
    for name, (command, recipe, settings) in json.loads(path.read_text()).items():
        words = [word for key, value in settings.items() for word in (f"--{key}", *str(value).split())]
        sys.argv = [command, "--config", str(TINY / f"{recipe}.yaml"), *words]
        notes.clear()
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS[command], distributed=True)
        assert not stop.value.code, f"{name} ended with {stop.value.code}"
        found[name] = dict(notes)
    (path.parent / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
