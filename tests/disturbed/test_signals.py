"""Trainings that get a signal, or are started twice. Two processes stop after the same step."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from raml_trl.runtime.silence import UNRESPONSIVE
from raml_trl.training.completeness import find_fault
from tests.disturbed.conftest import Undisturbed
from tests.disturbed.documented import assert_documented
from tests.helpers.disturbed import (
    STAGES,
    Launch,
    assert_same_run,
    fresh_random,
    number_of,
    start,
    training,
    wait_for,
)

pytestmark = [pytest.mark.children, pytest.mark.slow]

LAUNCHER = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]


@pytest.mark.disturbance("kills")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("stage", STAGES)
def test_one_of_two_processes_is_told_to_stop(
    student: Path,
    undisturbed: Undisturbed,
    tmp_path: Path,
    launches: list[Launch],
    stage: str,
    number: signal.Signals,
) -> None:
    """Only one process gets the signal, at any moment of a step; both stop after the same step."""
    rng, run = fresh_random(), tmp_path / "run"
    arguments = training(stage, student, run)
    launches.append(launch := start(arguments, tmp_path / "log", 2))
    wait_for(run / "checkpoint-2" / "manifest.json", launch)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(number_of(run, rng.randrange(2)), number)
    code = {signal.SIGTERM: 143, signal.SIGUSR1: 75}[number]
    assert launch.wait() == [code] * 2, launch.output
    [line] = launch.lines
    newest = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert line == (
        f"raml-trl train_{stage}: ended by {number.name} after saving {newest}; run the same command again to resume"
    )
    assert find_fault(newest) is None
    assert all((newest / f"progress_{rank}.pt").is_file() for rank in range(2))
    assert not list(run.glob("_run.lock*"))
    assert start(arguments, tmp_path / "log", 2).wait() == [0, 0]
    assert_same_run(undisturbed(stage, 2), run)


@pytest.mark.disturbance("locks")
def test_a_second_start(student: Path, tmp_path: Path, launches: list[Launch]) -> None:
    """It is refused while the first runs, and then waits for it if it is told to."""
    directory = tmp_path / "runs" / "demo" / "sft"
    arguments = training("sft", student, directory, max_steps=40, save_steps=1)
    launches.append(first := start(arguments, tmp_path / "first.log"))
    wait_for(directory / "checkpoint-3" / "manifest.json", first)
    pid = number_of(directory)
    second = start(arguments, tmp_path / "second.log")
    assert second.wait() == [2]
    assert second.output == (
        f"raml-trl train_sft: output_dir {directory} is being written by process {pid} on {os.uname().nodename}: "
        "wait for its end, set when_locked: wait, or choose another directory\n"
    )
    assert_documented(second.output, tmp_path)
    third = start([*arguments, "--when_locked", "wait"], tmp_path / "third.log")
    assert first.wait() == [0]
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert third.wait() == [0]
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    assert f"waiting for process {pid}" in third.output
    assert "is complete, nothing to do" in third.output


@pytest.mark.disturbance("kills")
def test_a_stopped_rank_ends_the_launch_by_name(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, launches: list[Launch]
) -> None:
    """A real launcher kills the stopped process, which it gives 30 seconds to end by itself."""
    arguments = training("grpo", student, tmp_path / "run", rank_timeout=10)
    launches.append(launch := start([*LAUNCHER, *arguments], tmp_path / "log"))
    wait_for(tmp_path / "run" / "checkpoint-2" / "manifest.json", launch)
    pid = number_of(tmp_path / "run", 1)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    [code] = launch.wait()
    assert code != 0
    [line] = launch.lines
    sys.stdout.write(f"{line}\nafter {time.monotonic() - began:.0f} s\n")
    assert line == (
        f"raml-trl train_grpo: rank 1 (process {pid} on {os.uname().nodename}) has not responded for 10 seconds: "
        "ending the launch; run the same command again to resume"
    )
    assert_documented(line.replace("for 10 seconds", "for 300 seconds"))
    assert f"exitcode  : {UNRESPONSIVE}" in launch.output
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert start(arguments, tmp_path / "log", 2).wait() == [0, 0], launch.output
    assert_same_run(undisturbed("grpo", 2), tmp_path / "run")


@pytest.mark.disturbance("kills")
def test_a_killed_rank_ends_the_launch(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, launches: list[Launch]
) -> None:
    arguments = training("sft", student, tmp_path / "run")
    launches.append(launch := start([*LAUNCHER, *arguments], tmp_path / "log"))
    wait_for(tmp_path / "run" / "checkpoint-2" / "manifest.json", launch)
    os.kill(number_of(tmp_path / "run", fresh_random().randrange(2)), signal.SIGKILL)
    assert launch.wait() == [1], launch.output
    assert start(arguments, tmp_path / "log", 2).wait() == [0, 0], launch.output
    assert_same_run(undisturbed("sft", 2), tmp_path / "run")
