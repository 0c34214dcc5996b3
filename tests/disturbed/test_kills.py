"""Trainings on one and two processes that are killed, stopped and started twice end like an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raml_trl.runtime.silence import UNRESPONSIVE
from raml_trl.training.completeness import find_fault
from tests.disturbed.test_training import KINDS
from tests.helpers import REPOSITORY
from tests.helpers.disturbed import (
    GRPO,
    SFT,
    Launch,
    assert_same_run,
    fresh_random,
    number_of,
    start,
    wait_for,
    words,
)
from tests.helpers.preloaded import python

pytestmark = [pytest.mark.children, pytest.mark.slow]

STAGES = {"sft": SFT, "grpo": GRPO}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    for stage in STAGES:
        settings = {"num_questions": 40, "output_dir": home / stage}
        subprocess.run([*python(), *words("prepare_data", f"data_{stage}", **settings)], cwd=REPOSITORY, check=True)
    return home


@pytest.fixture
def launches() -> Iterator[list[Launch]]:
    """Launches that are killed at the end of the test."""
    started: list[Launch] = []
    yield started
    for launch in started:
        launch.kill()


def training(stage: str, model_dir: str, data: Path, directory: Path, **settings: Any) -> list[str]:
    inputs = {"model_name_or_path": model_dir, "dataset_name": data / stage, "output_dir": directory}
    return words(f"train_{stage}", stage, **STAGES[stage] | inputs | settings)


def killed_until_complete(arguments: list[str], log: Path, num_processes: int, span: float, rng: random.Random) -> int:
    """Start a command again and again, and kill it after a random time of up to `span` seconds. Return the kills."""
    for kills in range(4):
        launch = start(arguments, log, num_processes)
        deadline = time.monotonic() + rng.uniform(0.1, 1) * span
        while time.monotonic() < deadline and any(process.poll() is None for process in launch.processes):
            time.sleep(0.01)
        if all(process.poll() == 0 for process in launch.processes):
            return kills
        rng.choice(launch.processes).kill()
        codes = launch.wait()
        assert set(codes) <= {0, 1, -signal.SIGKILL}, launch.output
    assert start(arguments, log, num_processes).wait() == [0] * num_processes, log.read_text()
    return 4


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_kills_at_random_moments(model_dir: str, data: Path, tmp_path: Path, stage: str, num_processes: int) -> None:
    rng = fresh_random()
    whole, killed = (training(stage, model_dir, data, tmp_path / name) for name in ("whole", "killed"))
    began = time.monotonic()
    assert start(whole, tmp_path / "whole.log", num_processes).wait() == [0] * num_processes
    span = time.monotonic() - began
    kills = killed_until_complete(killed, tmp_path / "killed.log", num_processes, span, rng)
    sys.stdout.write(f"train_{stage} on {num_processes}: {kills} kills within {span:.0f} s each\n")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert "is being written" not in (tmp_path / "killed.log").read_text()  # the locks of killed processes expire


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_one_of_two_processes_is_told_to_stop(
    model_dir: str, data: Path, tmp_path: Path, launches: list[Launch], number: signal.Signals
) -> None:
    """Only one process gets the signal; both stop after the same step."""
    rng = fresh_random()
    whole, stopped = (training("grpo", model_dir, data, tmp_path / name) for name in ("whole", "stopped"))
    assert start(whole, tmp_path / "whole.log", 2).wait() == [0, 0]
    launches.append(launch := start(stopped, tmp_path / "log", 2))
    wait_for(tmp_path / "stopped" / "checkpoint-2" / "manifest.json", launch)
    os.kill(number_of(tmp_path / "stopped", rng.randrange(2)), number)
    code = {signal.SIGTERM: 143, signal.SIGUSR1: 75}[number]
    assert launch.wait() == [code] * 2, launch.output
    [line] = launch.lines
    sys.stdout.write(line + "\n")
    newest = max((tmp_path / "stopped").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert f"ended by {number.name} after saving {newest};" in line
    assert find_fault(newest) is None
    progress = [newest / f"progress_{rank}.pt" for rank in range(2)]
    assert all(path.is_file() for path in progress)
    assert start(stopped, tmp_path / "log", 2).wait() == [0, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_second_start(model_dir: str, data: Path, tmp_path: Path, launches: list[Launch]) -> None:
    """It is refused while the first runs, and then waits for it if it is told to."""
    arguments = training("sft", model_dir, data, tmp_path / "run", max_steps=40, save_steps=1)
    launches.append(first := start(arguments, tmp_path / "first.log"))
    wait_for(tmp_path / "run" / "checkpoint-3" / "manifest.json", first)
    pid = number_of(tmp_path / "run")
    second = start(arguments, tmp_path / "second.log")
    assert second.wait() == [2]
    [line] = second.lines
    sys.stdout.write(line + "\n")
    assert f"output_dir {tmp_path / 'run'} is being written by process {pid}" in line
    assert "Traceback" not in second.output
    third = start([*arguments, "--when_locked", "wait"], tmp_path / "third.log")
    assert first.wait() == [0]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert third.wait() == [0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert f"waiting for process {pid}" in third.output
    assert "is complete, nothing to do" in third.output


DAMAGES = [("optimizer.pt", "missing"), ("optimizer.pt", "changed"), ("model.safetensors", "changed")]
DAMAGES += [("model.safetensors", "missing"), ("scheduler.pt", "missing"), ("progress_0.pt", "changed")]


@pytest.mark.parametrize(("name", "kind"), DAMAGES)
def test_damaged_checkpoints(model_dir: str, data: Path, tmp_path: Path, name: str, kind: str) -> None:
    whole, damaged = (training("sft", model_dir, data, tmp_path / run) for run in ("whole", "damaged"))
    assert start(whole, tmp_path / "whole.log").wait() == [0]
    launch = start(damaged, tmp_path / "log")
    wait_for(tmp_path / "damaged" / "checkpoint-6" / "manifest.json", launch)
    launch.kill()
    for checkpoint in sorted((tmp_path / "damaged").glob("checkpoint-*"))[1:]:
        shutil.rmtree(checkpoint) if find_fault(checkpoint) else KINDS[kind](checkpoint / name)
    launch = start(damaged, tmp_path / "log")
    assert launch.wait() == [0]
    lines = [line for line in launch.output.splitlines() if line.startswith(str(tmp_path)) or "resuming" in line]
    sys.stdout.write("\n".join(lines) + "\n")
    assert f"is incomplete ({name} {'is missing' if kind == 'missing' else 'has changed'})" in lines[0]
    assert_same_run(tmp_path / "whole", tmp_path / "damaged")


def test_a_stopped_rank_ends_the_launch_by_name(
    model_dir: str, data: Path, tmp_path: Path, launches: list[Launch]
) -> None:
    """A real launcher kills the stopped process, which it gives 30 seconds to end by itself."""
    arguments = training("grpo", model_dir, data, tmp_path / "run", max_steps=400, rank_timeout=15)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    launches.append(launch := start([*launcher, *arguments], tmp_path / "log"))
    wait_for(tmp_path / "run" / "checkpoint-2" / "manifest.json", launch)
    pid = number_of(tmp_path / "run", 1)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    [code] = launch.wait()
    assert code != 0
    [line] = launch.lines
    sys.stdout.write(f"{line}\nafter {time.monotonic() - began:.0f} s\n")
    assert f"rank 1 (process {pid} on {os.uname().nodename}) has not responded for 15 seconds" in line
    assert f"exitcode  : {UNRESPONSIVE}" in launch.output
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Fill a disk with a file named `filler`."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
        while filler.write(os.urandom(2**12)):
            pass
    assert os.statvfs(place).f_bavail == 0


def remount(place: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(place)], check=True)


DISKS = [("sft", "is on a full disk: free space"), ("grpo", "is on a full disk: free space")]
DISKS += [("sft", "is on a read-only file system: make it writable")]


@pytest.mark.parametrize(("stage", "fault"), DISKS)
def test_a_disk_that_takes_nothing_more(
    model_dir: str, data: Path, tmp_path: Path, small_disk: Path, stage: str, fault: str
) -> None:
    """It is filled by something else after a checkpoint, or becomes read-only; later the run continues."""
    settings = {"save_total_limit": 2}
    whole = training(stage, model_dir, data, tmp_path / "whole", **settings)
    filled = training(stage, model_dir, data, small_disk / "run", **settings)
    assert start(whole, tmp_path / "whole.log").wait() == [0]
    launch = start(filled, tmp_path / "log")
    wait_for(small_disk / "run" / "checkpoint-2" / "manifest.json", launch)
    fill(small_disk) if "full" in fault else remount(small_disk, "ro")
    assert launch.wait() == [2], launch.output
    [line] = launch.lines
    sys.stdout.write(line + "\n")
    assert f"raml-trl train_{stage}: {small_disk / 'run'}" in line
    assert f" {fault}, and run the same command again to resume" in line
    (small_disk / "filler").unlink() if "full" in fault else remount(small_disk, "rw")
    assert start(filled, tmp_path / "log").wait() == [0]
    assert_same_run(tmp_path / "whole", small_disk / "run")


def test_evaluate_whose_directory_is_deleted_fails(model_dir: str, data: Path, tmp_path: Path) -> None:
    settings = {"model_name_or_path": model_dir, "dataset_name": data / "sft", "output_dir": tmp_path / "run"}
    settings |= {"dataset_split": "train", "questions_per_shard": 2, "num_samples": 16}
    launch = start(words("evaluate", "eval", **settings), tmp_path / "log")
    wait_for(tmp_path / "run" / "samples-00001.parquet", launch)
    shutil.rmtree(tmp_path / "run")
    assert launch.wait() == [2], launch.output
    [line] = launch.lines
    sys.stdout.write(line + "\n")
    assert str(tmp_path / "run") in line
    assert "was deleted" in line
    assert not (tmp_path / "run").exists()
    assert start(words("evaluate", "eval", **settings), tmp_path / "log").wait() == [0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "complete"
