"""Starts tiny trainings that are killed, stopped and resumed."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

SHORT = {"max_steps": 12, "save_steps": 2, "save_total_limit": 3, "logging_steps": 2, "disable_tqdm": "true"}
SFT = SHORT | {"per_device_train_batch_size": 16, "warmup_steps": 0}
# A generation lasts for two steps, so that every second checkpoint lies within a generation.
GRPO = SHORT | {"per_device_train_batch_size": 16, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
GRPO |= {"warmup_steps": 0}
PATIENCE_SECONDS = 10.0
STAGES = {"sft": SFT, "grpo": GRPO}

KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
_, place, left, rank, module, *arguments = sys.argv
left = int(left)

def audit(event, values):
    global left
    if event in ("open", "os.mkdir", "os.scandir", "os.rename", "os.remove") and place in str(values[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK", "0") == rank:
    sys.addaudithook(audit)
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a command that kills itself at its n-th operation on files of a place: opening, listing, renaming and so on."""


def fresh_random() -> random.Random:
    """Return a generator with a seed that is new each time, and printed so that a failure can be repeated.

    The environment variable DISTURBED_SEED sets the seed.
    """
    seed = int(os.environ.get("DISTURBED_SEED") or random.SystemRandom().randrange(2**32))
    sys.stdout.write(f"DISTURBED_SEED={seed}\n")
    return random.Random(seed)


def words(name: str, recipe: str, **settings: object) -> list[str]:
    """Return the arguments of Python that run a command."""
    overrides = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split())]
    return [
        "-m", f"raml_trl.{name}", "--config", f"recipes/tiny/demo/{recipe}.yaml", *overrides
    ]  # fmt: skip


@dataclass
class Launch:
    """A started command: one process, or several that form a launch, with their common output."""

    processes: list[subprocess.Popen[bytes]]
    log: Path

    def wait(self, timeout: float = 900) -> list[int]:
        """Wait for the end of all processes. If one fails, kill the others after a while, as a launcher does."""
        began = time.monotonic()
        failed: float | None = None
        while None in (codes := [process.poll() for process in self.processes]):
            now = time.monotonic()
            assert now < began + timeout, self.output
            if any(codes):
                failed = failed or now
                if now > failed + PATIENCE_SECONDS:
                    self.kill()
            time.sleep(0.02)
        return [process.returncode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def lines(self) -> list[str]:
        """The lines that the command itself has written, not its libraries."""
        return [line for line in self.output.splitlines() if line.startswith("raml-trl ")]


def training(stage: str, student: Path, directory: Path, **settings: Any) -> list[str]:
    """Return the arguments of Python that train the student a little further, so that losses and gradients are not 0.

    Args:
        stage: a key of `STAGES`.
        student: directory of a model and its data.
        directory: the output directory.
        settings: further settings.
    """
    inputs = {"model_name_or_path": student / "model", "dataset_name": student / "data", "output_dir": directory}
    return words(f"train_{stage}", stage, **STAGES[stage] | inputs | settings)


def killed_while_writing(arguments: Sequence[str], place: str, number: int, rank: int = 0) -> list[str]:
    """Return the arguments of Python that run the same command, which kills itself while it writes.

    Args:
        arguments: the arguments of the command, which start with `-m`.
        place: part of the paths of the files.
        number: the number of the event at which the process ends, from 1.
        rank: the process of the launch that ends.
    """
    return ["-c", KILLED_WHILE_WRITING, place, str(number), str(rank), *arguments[1:]]


def start(
    arguments: Sequence[str], log: Path, num_processes: int = 1, environment: Mapping[str, str] | None = None
) -> Launch:
    """Start a command, whose processes find each other as under `accelerate launch` with `cpu.yaml`."""
    launcher: dict[str, str] = {}
    if num_processes > 1:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
        launcher |= {"WORLD_SIZE": str(num_processes), "ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    processes = []
    with log.open("ab") as file:
        for rank in range(num_processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num_processes > 1 else {}
            variables = (os.environ if environment is None else environment) | launcher | ranks
            command = [*python(), *arguments]
            processes.append(subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdout=file, stderr=file))
    return Launch(processes, log)


def wait_for(path: Path, launch: Launch, timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert all(process.poll() is None for process in launch.processes), launch.output
        assert time.monotonic() < deadline, launch.output
        time.sleep(0.01)


def number_of(directory: Path, rank: int = 0) -> int:
    """Return the process number of a rank, which its lock file states."""
    name = "_run.lock" if rank == 0 else f"_run.lock-{rank}"
    return json.loads((directory / name).read_text())["process"]["pid"]


def logged(directory: Path) -> list[dict[str, Any]]:
    """Return the log of a run without its timings."""
    timed = ("seconds/", "speedup/", "step_time", "train_")
    history = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    lines = [{name: value for name, value in line.items() if not name.startswith(timed)} for line in history]
    return [line for line in lines if "loss" in line]


def assert_same_run(first: Path, second: Path) -> None:
    """Assert that two runs are complete and have the same weights, byte for byte, and the same log.

    Their steps must have changed the weights, or equality would show nothing.
    """
    for directory in (first, second):
        assert json.loads((directory / "run.json").read_text())["status"] == "complete"
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert logged(first) == logged(second)
    assert all(line["loss"] != 0 for line in logged(first)), logged(first)
    assert all(line["grad_norm"] > 0 for line in logged(first)), logged(first)
