"""Disks that become full or read-only, files that may not grow, and directories that are deleted: one line each."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.disturbed.conftest import Undisturbed
from tests.disturbed.documented import assert_documented
from tests.helpers.disturbed import STAGES, Launch, assert_same_run, start, training, wait_for, words

pytestmark = [pytest.mark.children, pytest.mark.slow, pytest.mark.disturbance("disks")]

WITH_A_LIMIT = """
import resource, runpy, sys
_, limit, module, *arguments = sys.argv
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        as_root("mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", str(place))
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("only root, or sudo without a password, can mount a small disk")
    yield place
    as_root("umount", "-l", str(place))


def as_root(*command: str) -> None:
    prefix = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*prefix, *command], check=True, capture_output=True)


def fill(place: Path) -> None:
    """Fill a disk with a file named `filler`."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
        while filler.write(os.urandom(2**12)):
            pass
    assert os.statvfs(place).f_bavail == 0


def remount(place: Path, mode: str) -> None:
    as_root("mount", "-o", f"remount,{mode}", str(place))


def refusal(launch: Launch) -> str:
    """Return the line with which a command has ended; all that follows it is the end of the output."""
    assert set(launch.wait()) == {2}, launch.output
    [line] = launch.lines
    assert launch.output.endswith(f"{line}\n")
    assert "Traceback" not in launch.output
    sys.stdout.write(line + "\n")
    return line


FAULTS = {"full": "is on a full disk: free space", "read-only": "is on a read-only file system: make it writable"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_takes_nothing_more(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, small_disk: Path, stage: str, fault: str
) -> None:
    """It is filled by something else after a checkpoint, or becomes read-only; later the run continues."""
    settings = {"save_total_limit": 2}
    arguments = training(stage, student, small_disk / "run", **settings)
    launch = start(arguments, tmp_path / "log")
    wait_for(small_disk / "run" / "checkpoint-2" / "manifest.json", launch)
    fill(small_disk) if fault == "full" else remount(small_disk, "ro")
    line = refusal(launch)
    assert line.startswith(f"raml-trl train_{stage}: {small_disk / 'run'}")
    assert line.endswith(f" {FAULTS[fault]}, and run the same command again to resume")
    if (stage, fault) == ("sft", "full"):
        assert_documented(re.sub(rf"{small_disk}/run\S*", "/disk/run", line))
    (small_disk / "filler").unlink() if fault == "full" else remount(small_disk, "rw")
    assert start(arguments, tmp_path / "log").wait() == [0]
    assert_same_run(undisturbed(stage, **settings), small_disk / "run")


@pytest.mark.parametrize("stage", STAGES)
def test_files_that_may_not_grow(student: Path, undisturbed: Undisturbed, tmp_path: Path, stage: str) -> None:
    """The optimizer is larger than the limit on the size of a file, as for the file system of some disks."""
    arguments = training(stage, student, tmp_path / "run")
    limited = ["-c", WITH_A_LIMIT, str(2**16), *arguments[1:]]
    line = refusal(start(limited, tmp_path / "log"))
    assert line.startswith(f"raml-trl train_{stage}: {tmp_path / 'run'}")
    assert line.endswith(
        " is on a file system that takes no larger file: choose another one, and run the same command again to resume"
    )
    assert start(arguments, tmp_path / "log").wait() == [0]
    assert_same_run(undisturbed(stage), tmp_path / "run")


@pytest.mark.parametrize(("stage", "num_processes"), [("sft", 1), ("grpo", 2)])
def test_a_directory_that_is_deleted_during_training(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, stage: str, num_processes: int
) -> None:
    run = tmp_path / "run"
    arguments = training(stage, student, run)
    launch = start(arguments, tmp_path / "log", num_processes)
    wait_for(run / "checkpoint-2" / "manifest.json", launch)
    run.rename(tmp_path / "taken")  # at once; a file that is written meanwhile does not stay
    assert 2 in launch.wait(), launch.output
    assert launch.lines
    for line in launch.lines:
        assert line.startswith(f"raml-trl train_{stage}: "), line
        assert "was deleted" in line or "another process of the launch has ended" in line, line
    assert any("was deleted" in line for line in launch.lines)
    assert "Traceback" not in launch.output
    assert not run.exists()
    assert start(arguments, tmp_path / "log", num_processes).wait() == [0] * num_processes
    assert_same_run(undisturbed(stage, num_processes), run)


def evaluation(student: Path, directory: Path) -> list[str]:
    settings = {"model_name_or_path": student / "model", "dataset_name": student / "data", "output_dir": directory}
    settings |= {"dataset_split": "train", "questions_per_shard": 2, "num_samples": 16}
    return words("evaluate", "eval", **settings)


def test_evaluate_whose_directory_is_deleted_fails(student: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo" / "eval"
    launch = start(evaluation(student, run), tmp_path / "log")
    wait_for(run / "samples-00001.parquet", launch)
    shutil.rmtree(run)
    assert_documented(refusal(launch), tmp_path)
    assert not run.exists()
    assert start(evaluation(student, run), tmp_path / "log").wait() == [0]
    assert json.loads((run / "run.json").read_text())["status"] == "complete"


@pytest.mark.parametrize("fault", FAULTS)
def test_evaluate_on_a_disk_that_takes_nothing_more(
    student: Path, tmp_path: Path, small_disk: Path, fault: str
) -> None:
    """The same command continues with the next shard, and gives the metrics of an undisturbed evaluation."""
    run = small_disk / "run"
    launch = start(evaluation(student, run), tmp_path / "log")
    wait_for(run / "samples-00001.parquet", launch)
    fill(small_disk) if fault == "full" else remount(small_disk, "ro")
    assert FAULTS[fault] in refusal(launch)
    (small_disk / "filler").unlink() if fault == "full" else remount(small_disk, "rw")
    for directory in (run, tmp_path / "whole"):
        assert start(evaluation(student, directory), tmp_path / "log").wait() == [0]
    first, second = (json.loads((path / "run.json").read_text())["results"] for path in (run, tmp_path / "whole"))
    assert first == second


@pytest.mark.parametrize("command", ["train_sft", "evaluate"])
def test_a_start_on_a_read_only_disk(student: Path, tmp_path: Path, small_disk: Path, command: str) -> None:
    remount(small_disk, "ro")
    run = small_disk / "run"
    arguments = evaluation(student, run) if command == "evaluate" else training("sft", student, run)
    line = refusal(start(arguments, tmp_path / "log"))
    assert f"output_dir {run} cannot be written: Read-only file system" in line
