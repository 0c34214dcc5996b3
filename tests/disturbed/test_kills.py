"""Trainings on one and two processes that are killed and started again end like one that nothing disturbs."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raml_trl.training.completeness import find_fault
from tests.disturbed.conftest import Undisturbed
from tests.helpers.disturbed import (
    STAGES,
    Launch,
    assert_same_run,
    fresh_random,
    killed_while_writing,
    start,
    training,
)
from tests.helpers.hub_server import USER, HubServer

pytestmark = [pytest.mark.children, pytest.mark.slow, pytest.mark.disturbance("kills")]

KILLS = 4
PROCESSES = pytest.mark.parametrize("num_processes", [1, 2])
BOTH = pytest.mark.parametrize("stage", STAGES)
Record = Callable[[str, object], None]


@PROCESSES
@BOTH
def test_kills_at_random_moments(
    student: Path,
    undisturbed: Undisturbed,
    tmp_path: Path,
    stage: str,
    num_processes: int,
    launches: list[Launch],
    record_property: Record,
) -> None:
    """Each start is killed at a moment within the time that a whole run takes, often before it has resumed."""
    rng, log = fresh_random(), tmp_path / "log"
    whole, arguments = undisturbed(stage, num_processes), training(stage, student, tmp_path / "run")
    span, kills = float((whole.parent / "seconds").read_text()), 0
    while kills < KILLS:
        launches.append(launch := start(arguments, log, num_processes))
        deadline = time.monotonic() + rng.uniform(0.05, 1) * span
        while time.monotonic() < deadline and any(process.poll() is None for process in launch.processes):
            time.sleep(0.01)
        if all(process.poll() == 0 for process in launch.processes):
            break
        rng.choice(launch.processes).kill()
        assert set(launch.wait()) <= {0, 1, -signal.SIGKILL}, launch.output
        kills += 1
    launches.append(launch := start(arguments, log, num_processes))
    assert launch.wait() == [0] * num_processes, launch.output
    sys.stdout.write(f"train_{stage} on {num_processes}: {kills} kills within {span:.1f} s each\n")
    assert "is being written" not in launch.output  # the locks of killed processes expire
    assert_same_run(whole, tmp_path / "run")
    record_property("cases", kills)


@PROCESSES
@BOTH
def test_kills_while_a_checkpoint_is_saved(
    student: Path,
    undisturbed: Undisturbed,
    tmp_path: Path,
    stage: str,
    num_processes: int,
    record_property: Record,
) -> None:
    """A process ends at a random file operation within each of three checkpoints. The last has no manifest yet."""
    rng, log, kills = fresh_random(), tmp_path / "log", 0
    arguments = training(stage, student, tmp_path / "run")
    for step in (2, 6, 10):
        place, rank = f"run/checkpoint-{step}", rng.randrange(num_processes)
        number = rng.randint(1, 8 if rank == 0 else 2)  # others write less
        launch = start(killed_while_writing(arguments, place, number, rank), log, num_processes)
        assert launch.wait()[rank] == -signal.SIGKILL, launch.output
        sys.stdout.write(f"rank {rank} killed in checkpoint-{step} at operation {number}\n")
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        assert not checkpoint.exists() or find_fault(checkpoint) is not None
        kills += 1
    assert start(arguments, log, num_processes).wait() == [0] * num_processes, log.read_text()
    assert_same_run(undisturbed(stage, num_processes), tmp_path / "run")
    record_property("cases", kills)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def test_kills_while_a_run_is_pushed(
    student: Path, undisturbed: Undisturbed, tmp_path: Path, hub: HubServer, record_property: Record
) -> None:
    """The run is killed at random requests to the Hub: at its start, while it pushes checkpoints, and at its end."""
    rng, kills = fresh_random(), 0
    settings = {"push_to_hub": "true", "hub_revisions": "true", "save_steps": 4}
    environment = hub.environment(tmp_path / "home")
    whole = training("sft", student, tmp_path / "whole", hub_model_id="whole", **settings)
    launch = start(whole, tmp_path / "whole.log", environment=environment)
    assert launch.wait() == [0], launch.output
    total = len(hub.requests)
    arguments = training("sft", student, tmp_path / "run", hub_model_id="killed", **settings)
    for number in sorted(rng.randint(1, total - 2) for _ in range(KILLS)):
        before = len(hub.requests)
        launch = start(arguments, tmp_path / "log", environment=environment)
        [process] = launch.processes
        while process.poll() is None and len(hub.requests) < before + number:
            time.sleep(0.0005)
        if process.poll() is not None:  # what was pushed before is not pushed again, so there are fewer requests
            assert process.poll() == 0, launch.output
            break
        process.kill()
        process.wait()
        kills += 1
        sys.stdout.write(f"killed at request {number} of {total}: {hub.requests[-1]}\n")
    launch = start(arguments, tmp_path / "log", environment=environment)
    assert launch.wait() == [0], launch.output
    assert_same_run(undisturbed("sft", save_steps=4), tmp_path / "run")
    assert kills > 0
    first, second = (hub.repos["model", f"{USER}/{name}"].branches for name in ("whole", "killed"))
    assert first.keys() == second.keys()
    (tmp_path / "whole" / "checkpoint-8" / "README.md").unlink()  # as after a kill right after saving
    assert start(whole, tmp_path / "log", environment=environment).wait() == [0]
    for branch in first:
        pushed = [hub.files("model", f"{USER}/{name}", branch) for name in ("whole", "killed")]
        assert pushed[0].keys() == pushed[1].keys()
        assert pushed[0]["model.safetensors"] == pushed[1]["model.safetensors"]
    record_property("cases", kills)
