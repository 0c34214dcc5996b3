"""Checkpoints that are damaged after a kill: the damage is printed, and the run ends as if there had been none."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disturbed.conftest import Undisturbed
from tests.disturbed.documented import assert_documented
from tests.disturbed.test_training import age, flip_bit, truncate
from tests.helpers.disturbed import Launch, assert_same_run, killed_while_writing, start, training

pytestmark = [pytest.mark.children, pytest.mark.slow, pytest.mark.disturbance("damaged checkpoints")]

DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated weights": ("model.safetensors", truncate, "is truncated"),
    "a flipped bit in the optimizer": ("optimizer.pt", flip_bit, "has changed"),
    "no random state of a rank": ("rng_state_1.pth", Path.unlink, "is missing"),
}


def killed_after_step_six(arguments: list[str], log: Path) -> None:
    """Start a launch that is killed when it has saved its third checkpoint, and begins the fourth."""
    launch = start(killed_while_writing(arguments, "/checkpoint-8", 1), log, 2)
    assert launch.wait()[0] == -signal.SIGKILL, launch.output
    output_dir = Path(arguments[arguments.index("--output_dir") + 1])
    shutil.rmtree(output_dir / "checkpoint-8", ignore_errors=True)  # the other process may have made it
    log.unlink()


def resumed_lines(launch: Launch) -> str:
    """Return the lines about checkpoints of a launch that resumes."""
    lines = launch.output.splitlines()
    return "\n".join(line for line in lines if " is incomplete (" in line or line.startswith("resuming from "))


@pytest.fixture
def stage_and_run(tmp_path: Path) -> tuple[str, Path]:
    return "grpo", tmp_path / "runs" / "demo" / "grpo"


@pytest.mark.parametrize("name", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, stage_and_run: tuple[str, Path], name: str
) -> None:
    stage, run = stage_and_run
    file, damage, fault = DAMAGES[name]
    arguments = training(stage, student, run)
    killed_after_step_six(arguments, tmp_path / "log")
    damage(run / "checkpoint-6" / file)
    launch = start(arguments, tmp_path / "log", 2)
    assert launch.wait() == [0, 0], launch.output
    assert resumed_lines(launch) == (
        f"{run}/checkpoint-6 is incomplete ({file} {fault}): trying the checkpoint before it\n"
        f"resuming from {run}/checkpoint-4"
    )
    assert_documented(resumed_lines(launch), tmp_path)
    assert "missing keys" not in launch.output  # those of tied weights are not missing
    assert_same_run(undisturbed(stage, 2), run)


def test_an_old_checkpoint_without_a_manifest_is_used(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, stage_and_run: tuple[str, Path]
) -> None:
    stage, run = stage_and_run
    arguments = training(stage, student, run)
    killed_after_step_six(arguments, tmp_path / "log")
    age(run / "checkpoint-6", num_processes=2)
    launch = start(arguments, tmp_path / "log", 2)
    assert launch.wait() == [0, 0], launch.output
    assert resumed_lines(launch) == f"resuming from {run}/checkpoint-6"
    assert_documented(resumed_lines(launch), tmp_path)
    assert_same_run(undisturbed(stage, 2), run)


def test_a_run_with_damaged_checkpoints_only_is_refused(
    student: Path, tmp_path: Path, stage_and_run: tuple[str, Path]
) -> None:
    stage, run = stage_and_run
    arguments = training(stage, student, run)
    killed_after_step_six(arguments, tmp_path / "log")
    for step in (2, 4, 6):
        (run / f"checkpoint-{step}" / "optimizer.pt").unlink()
    launch = start(arguments, tmp_path / "log", 2)
    assert launch.wait() == [2, 2], launch.output
    [line] = launch.lines
    assert_documented(line, tmp_path)
