"""Runs several trainings under one `accelerate launch` on two CPU processes, with a given way to shard the model."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from safetensors.torch import load_file

from tests.helpers import REPOSITORY
from tests.training.test_evaluation import log_of

# The ways to shard. `held` has the shares of the parameters that a process holds, updates, and holds while sampling.
WAYS: dict[str, dict[str, Any]] = {
    "cpu": {"distributed": "MULTI_CPU", "wrapper": "DistributedDataParallel", "held": (1, 1, 1)},
    "zero1": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 1, "held": (1, 1 / 2, 1)},
    "zero2": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 2, "held": (1, 1 / 2, 1)},
    "zero3": {"distributed": "DEEPSPEED", "wrapper": "DeepSpeedEngine", "stage": 3, "held": (0, 0, 1)},
    "fsdp2": {"distributed": "FSDP", "wrapper": "FSDPQwen2ForCausalLM", "held": (1 / 2, 1 / 2, 1 / 2)},
}


@dataclass(frozen=True)
class Host:
    """A machine of a launch: a prefix for its command, arguments for its launcher, and environment variables."""

    prefix: Sequence[str] = ()
    words: Sequence[str] = ("--main_process_port", "0")
    environment: Mapping[str, str] = field(default_factory=dict)


ALONE = Host()


@dataclass(frozen=True)
class Launched:
    """The results of a launch: a directory for each run, and the notes (measurements) of each process by run."""

    way: str
    directory: Path
    notes: list[dict[str, Any]]


def skip_where_impossible(way: str) -> None:
    """Skip the test if this way to shard needs a package that is not installed."""
    if way.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: make test-all, or pip install -c constraints.txt -e .[deepspeed]")
    if way == "fsdp2" and "_prepare_backend" not in vars(PartialState):
        pytest.skip("this accelerate has no PartialState._prepare_backend, which is needed for FSDP on a CPU")


def launch(way: str, runs: dict[str, dict[str, Any]], directory: Path, hosts: Sequence[Host] = (ALONE,)) -> Launched:
    """Train all runs in one launch.

    Args:
        way: a key of `WAYS`.
        runs: the input of `several_runs.py`, except for `output_dir`: each run gets a directory with its name.
        directory: the directory to hold the directories of all runs.
        hosts: the machines of the launch, of which the first runs the main process.
    """
    use_cpu = str(way != "fsdp2").lower()  # with `use_cpu`, no FSDP: see `several_runs.py`
    placed = {
        name: run | {"settings": run["settings"] | {"use_cpu": use_cpu, "output_dir": directory / name}}
        for name, run in runs.items()
    }
    (directory / "runs.json").write_text(json.dumps(placed, default=str))
    words = ["--config_file", f"accelerate_configs/{way}.yaml", "--num_processes", "2", "--mixed_precision", "no"]
    script = ["-m", "tests.helpers.several_runs", str(directory / "runs.json")]
    with ExitStack() as stack:
        started = []
        for host in hosts:
            launcher = [*host.prefix, sys.executable, "-m", "accelerate.commands.launch", *words, *host.words, *script]
            process = stack.enter_context(subprocess.Popen(launcher, cwd=REPOSITORY, env=os.environ | host.environment))
            # Terminate the launcher instead of killing it, so that it ends its processes, which wait for each other.
            stack.callback(process.terminate)
            started.append(process)
        assert [process.wait(timeout=600) for process in started] == [0] * len(hosts)
    return Launched(way, directory, [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)])


def spread(way: str, model_dir: Path) -> dict[str, Any]:
    """Return the notes expected from each process, except for the lengths of its samples."""
    total = sum(weight.numel() for weight in load_file(model_dir / "model.safetensors").values())
    expected = {"processes": 2, "stage": None} | WAYS[way]
    names, shares = ("parameters", "optimized", "sampling"), expected.pop("held")
    return expected | {name: share * total for name, share in zip(names, shares, strict=True)}


def trained(directory: Path) -> list[tuple[float, float]]:
    """Return the loss and the gradient norm of every step."""
    return [(line["loss"], line["grad_norm"]) for line in log_of(directory) if "loss" in line]
