"""Training on two processes equals training on one, however the model is sharded, even after an interruption.

`make test-all` installs DeepSpeed; without it, its three modes are skipped.
"""

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from raml_trl import train_grpo
from tests.helpers.launches import WAYS, Host, Launched, launch, skip_where_impossible, spread, trained
from tests.helpers.trainers import TrainerOnGivenRollouts
from tests.training.test_evaluation import EVALUATED, SEED, log_of, start

pytestmark = pytest.mark.slow

SHORT = {"seed": SEED, "max_steps": 5, "save_steps": 3, "save_total_limit": 9, "logging_steps": 1, "warmup_steps": 0}
SHORT |= {"learning_rate": 3e-4, "disable_tqdm": "true"}
OFTEN = {name: value for name, value in EVALUATED.items() if name.startswith(("eval", "per_device"))}
OFTEN |= {"eval_steps": 3, "eval_on_start": "true"}
SFT = {"per_device_train_batch_size": 8}
# Each of two processes has 12 rollouts, so the second of three groups of eight is on both. 2 of 8 are selected.
GIVEN = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_generations_update": 2}
# One generation of 24 rollouts lasts for two steps, so the checkpoint after the third step lies within a generation.
SAMPLED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_generations_update": 4}
SAMPLED |= {"steps_per_generation": 6}


def runs(student: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of three runs, each once uninterrupted and once interrupted after the fourth step."""
    inputs = SHORT | OFTEN | {"model_name_or_path": student / "model", "dataset_name": student / "data"}
    inputs |= {"eval_data": student / "data"}
    whole: dict[str, dict[str, Any]] = {
        "sft": {"command": "train_sft", "recipe": "sft", "settings": inputs | SFT},
        "given": {"command": "train_grpo", "recipe": "grpo", "settings": inputs | GIVEN, "given_rollouts": True},
        "sampled": {"command": "train_grpo", "recipe": "grpo", "settings": inputs | SAMPLED},
    }
    return whole | {f"{name}_resumed": asked | {"interrupted_after": 4} for name, asked in whole.items()}


@pytest.fixture(scope="module")
def single_process(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the three runs on one process. Their results must not depend on the number of processes."""
    home = tmp_path_factory.mktemp("one")
    inputs = SHORT | {"model_name_or_path": student / "model", "dataset_name": student / "data"}
    accumulated = {"gradient_accumulation_steps": 2}
    assert start("train_sft", "sft", **inputs | SFT | accumulated, output_dir=home / "sft") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_grpo, "SubsetGRPOTrainer", TrainerOnGivenRollouts)
        whole = GIVEN | {"per_device_train_batch_size": 8}
        assert start("train_grpo", "grpo", **inputs | whole, output_dir=home / "given") == 0
    return home


@pytest.fixture(scope="module", params=WAYS)
def launched(request: pytest.FixtureRequest, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    skip_where_impossible(request.param)
    return launch(request.param, runs(student), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Host]]:
    """Two machines on one network.

    Each machine is a network namespace, joined to the other by a virtual cable. Without permission to create
    namespaces, both machines are this machine.
    """
    places = [f"raml_trl_{os.getpid()}_{number}" for number in range(2)]
    cable = [f"ip link add eth0 netns {places[0]} type veth peer name eth0 netns {places[1]}"]
    for number, place in enumerate(places, start=1):
        cable += [f"ip -n {place} address add 10.0.0.{number}/24 dev eth0"]
        cable += [f"ip -n {place} link set {device} up" for device in ("lo", "eth0")]
    try:
        permitted = all(run(f"ip netns add {place}") for place in places) and all(map(run, cable))
        address, port = ("10.0.0.1", 29500) if permitted else ("127.0.0.1", free_port())
        words = ["--num_machines", "2", "--main_process_ip", address, "--main_process_port", str(port)]
        yield [
            Host(
                prefix=["ip", "netns", "exec", place] if permitted else [],
                words=[*words, "--machine_rank", str(number)],
                environment={"GLOO_SOCKET_IFNAME": "eth0" if permitted else "lo"},
            )
            for number, place in enumerate(places)
        ]
    finally:
        for place in places:
            run(f"ip netns delete {place}")


def run(command: str) -> bool:
    """Run a command and return whether it succeeded. Return False if the program `ip` is not installed."""
    return bool(shutil.which("ip")) and not subprocess.run(shlex.split(command), capture_output=True).returncode


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def reloaded(directory: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a saved model. A tied parameter is returned once, even if it was saved twice."""
    return dict(AutoModelForCausalLM.from_pretrained(directory).named_parameters())


def untimed(directory: Path) -> list[dict[str, Any]]:
    """Return the log entries of the steps, without timings."""
    timed = ("seconds/", "speedup/", "step_time", "train_")
    lines = [line for line in log_of(directory) if "loss" in line]
    return [{name: value for name, value in line.items() if not name.startswith(timed)} for line in lines]


def test_the_model_is_sharded_as_configured(launched: Launched, student: Path) -> None:
    expected = spread(launched.way, student / "model")
    for notes in launched.notes:
        assert len(notes) == 6
        for name, noted in notes.items():
            assert noted == expected | {"lengths": noted["lengths"]}, name


@pytest.mark.parametrize("name", ["sft", "given"])
def test_losses_and_weights_equal_those_of_one_process(launched: Launched, single_process: Path, name: str) -> None:
    for measured, expected in zip(trained(launched.directory / name), trained(single_process / name), strict=True):
        assert measured == pytest.approx(expected, rel=1e-5)
    assert len(set(trained(single_process / name))) == 5
    for saved in (name, f"{name}/checkpoint-3"):
        weights, expected = reloaded(launched.directory / saved), reloaded(single_process / saved)
        assert weights.keys() == expected.keys()
        for part, weight in expected.items():
            torch.testing.assert_close(weights[part], weight, rtol=0, atol=2e-5, msg=part)


@pytest.mark.parametrize("name", ["sft", "given", "sampled"])
def test_an_interrupted_run_equals_an_uninterrupted_one(launched: Launched, name: str) -> None:
    whole, resumed = launched.directory / name, launched.directory / f"{name}_resumed"
    assert untimed(whole) == untimed(resumed)
    assert [line["step"] for line in untimed(whole)] == [1, 2, 3, 4, 5]
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    final, last, earlier = (reloaded(whole / part) for part in ("", "checkpoint-5", "checkpoint-3"))
    assert all(torch.equal(weight, last[part]) for part, weight in final.items())
    assert not any(torch.equal(weight, earlier[part]) for part, weight in final.items())


@pytest.mark.parametrize("launched", ["cpu", "zero3"], indirect=True)
def test_two_machines_train_as_one(
    launched: Launched, machines: list[Host], student: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes with separate launchers and networks, but common files, train like two processes of one launch."""
    whole = {name: asked for name, asked in runs(student).items() if not name.endswith("resumed")}
    apart = launch(launched.way, whole, tmp_path_factory.mktemp("apart"), machines)
    for name in whole:
        assert [notes[name] for notes in apart.notes] == [notes[name] for notes in launched.notes]
        assert untimed(apart.directory / name) == untimed(launched.directory / name)
        weights = [(path / name / "model.safetensors").read_bytes() for path in (apart.directory, launched.directory)]
        assert weights[0] == weights[1]
