"""Training that is told to stop, and training that resumes from damaged checkpoints. In this process, so it is fast."""

import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.training import run as lifecycle
from raml_trl.training.completeness import choose_checkpoint, find_resume_fault, progress_path, required_files
from raml_trl.training.manifest import MANIFEST
from tests.commands.test_commands import COMMANDS, TINY
from tests.disturbed.documented import assert_documented
from tests.helpers.disturbed import SFT, assert_same_run, fresh_random

pytestmark = [pytest.mark.long, pytest.mark.disturbance("damaged checkpoints")]

Settings = dict[str, Any]
STEPS = {"max_steps": 5, "save_steps": 2}


def train(settings: Settings, *, signalled: dict[int, signal.Signals] | None = None) -> int:
    """Run `train_sft` in this process, which gets signals during some of its steps. Return the exit code."""
    words = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split())]

    def on_step_begin(_callback: Any, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if signalled and state.global_step + 1 in signalled:
            os.kill(os.getpid(), signalled[state.global_step + 1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_sft", "--config", str(TINY / "sft.yaml"), *words])
        patch.setattr(lifecycle.Clock, "on_step_begin", on_step_begin)
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS["train_sft"], distributed=True)
    return stop.value.code


@dataclass
class Runs:
    """A run that was not disturbed, and the same run after SIGTERM in its third step."""

    settings: Settings
    home: Path
    code: int
    error: str

    @property
    def whole(self) -> Path:
        return self.home / "whole"

    @property
    def stopped(self) -> Path:
        return self.home / "stopped"

    def copy(self, directory: Path) -> Settings:
        """Copy the stopped run, and return the settings that resume the copy."""
        shutil.copytree(self.stopped, directory)
        return self.settings | {"output_dir": directory}


@pytest.fixture(scope="module")
def runs(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = tmp_path_factory.mktemp("disturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare_data", "--config", str(TINY / "data_sft.yaml")])
        sys.argv += ["--num_questions", "20", "--output_dir", str(home / "data")]
        with pytest.raises(SystemExit) as stop:
            run(*COMMANDS["prepare_data"])
    assert not stop.value.code
    settings = SFT | STEPS | {"model_name_or_path": model_dir, "dataset_name": home / "data"}
    assert train(settings | {"output_dir": home / "whole"}) == 0
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(sys.stderr, "write", lines.append)
        code = train(settings | {"output_dir": home / "stopped"}, signalled={3: signal.SIGTERM})
    return Runs(settings, home, code, "".join(line for line in lines if line.startswith("raml-trl")))


def test_sigterm_finishes_the_step_saves_and_ends_with_its_own_code(runs: Runs) -> None:
    assert runs.code == 128 + signal.SIGTERM
    checkpoint = runs.stopped / "checkpoint-3"
    assert runs.error == (
        f"raml-trl train_sft: ended by SIGTERM after saving {checkpoint}; run the same command again to resume\n"
    )
    assert_documented(runs.error.replace(str(runs.stopped), "runs/demo/sft"))
    assert find_resume_fault(checkpoint, None) is None
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 3
    assert sorted(path.name for path in runs.stopped.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert json.loads((runs.stopped / "run.json").read_text())["status"] == "running"
    assert not list(runs.stopped.glob("_run.lock*"))


def test_a_stopped_run_ends_like_an_undisturbed_one(runs: Runs, tmp_path: Path) -> None:
    """It is stopped again by the warning of SLURM, which asks for a requeue."""
    run = tmp_path / "run](x)<b>"
    settings = runs.copy(run)
    assert train(settings, signalled={4: signal.SIGUSR1}) == os.EX_TEMPFAIL
    assert (run / "checkpoint-4" / MANIFEST).is_file()
    assert train(settings) == 0
    assert_same_run(runs.whole, run)
    card = (run / "README.md").read_text()
    assert "# Model Card for run__x__b_\n" in card
    assert "run](x)" not in card.partition("\n## ")[0]


def flip_bit(path: Path) -> None:
    """Flip one random bit, which leaves size and format as they are."""
    content, rng = bytearray(path.read_bytes()), fresh_random()
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


KINDS = {"missing": Path.unlink, "changed": flip_bit, "truncated": truncate, "has changed": lengthen}
FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "progress_0.pt", "model.safetensors", "trainer_state.json")
DAMAGES = [(name, kind) for name in FILES for kind in ("missing", "changed")]
DAMAGES += [("optimizer.pt", "truncated"), ("model.safetensors", "has changed")]


@pytest.mark.parametrize(("name", "kind"), DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_is_used(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, kind: str
) -> None:
    runs.copy(tmp_path / "run")
    newest, before = (tmp_path / "run" / f"checkpoint-{step}" for step in (3, 2))
    KINDS[kind](newest / name)
    assert choose_checkpoint(tmp_path / "run") == str(before)
    [line] = caplog.messages
    assert line.startswith(f"{newest} is incomplete ({name} ")
    assert kind in line
    KINDS[kind](before / name)
    with pytest.raises(InputError, match=rf"no complete checkpoint \(checkpoint-3: {name} .*; checkpoint-2: {name} "):
        choose_checkpoint(tmp_path / "run")
    with pytest.raises(InputError, match=f"resume_from_checkpoint .* cannot be used: {name}"):
        choose_checkpoint(tmp_path / "run", requested=str(before))


def age(checkpoint: Path, num_processes: int = 1) -> None:
    """Make a checkpoint like one of an older version, which wrote no manifest."""
    (checkpoint / MANIFEST).unlink()
    for rank in range(num_processes):
        path = progress_path(checkpoint, rank)
        progress = torch.load(path, weights_only=True)
        del progress["manifest"]
        torch.save(progress, path)


@pytest.mark.parametrize("name", FILES)
def test_an_older_checkpoint_needs_every_file_to_its_end(runs: Runs, tmp_path: Path, name: str) -> None:
    runs.copy(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint-3"

    def required(_step: int, num_processes: int) -> Any:
        return required_files(Accelerator(cpu=True), object(), num_processes)

    age(checkpoint)
    assert find_resume_fault(checkpoint, required) is None
    for damage, text in ((truncate, "is truncated"), (Path.unlink, "is missing")):
        damage(checkpoint / name)
        fault = find_resume_fault(checkpoint, required)
        assert fault is not None
        assert fault.text == f"{name} {text}"


def test_a_run_killed_while_it_saved_its_first_checkpoint_starts_again(runs: Runs, tmp_path: Path) -> None:
    runs.copy(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    checkpoint = tmp_path / "run" / "checkpoint-3"
    for name in (MANIFEST, "trainer_state.json"):  # written last
        (checkpoint / name).unlink()
        assert choose_checkpoint(tmp_path / "run") is None


def test_a_resumed_run_replaces_a_damaged_checkpoint(runs: Runs, tmp_path: Path) -> None:
    settings = runs.copy(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-3" / "optimizer.pt").unlink()
    (tmp_path / "run" / "checkpoint-4").mkdir()
    (tmp_path / "run" / "checkpoint-4" / "progress_1.pt").write_text("of an earlier launch")
    assert train(settings) == 0
    assert_same_run(runs.whole, tmp_path / "run")
    assert find_resume_fault(tmp_path / "run" / "checkpoint-4", None) is None
    assert not (tmp_path / "run" / "checkpoint-4" / "progress_1.pt").exists()
    assert (tmp_path / "run" / "checkpoint-3").is_dir()


def test_a_run_without_its_directory_ends_and_does_not_make_it_again(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_step_begin(_callback: Any, args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == 1:
            shutil.rmtree(args.output_dir)

    monkeypatch.setattr(lifecycle.StopAfterStep, "on_step_begin", on_step_begin)
    assert train(runs.settings | {"output_dir": tmp_path / "run"}) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("raml-trl")]
    assert line.startswith(f"raml-trl train_sft: output_dir {tmp_path / 'run'} was deleted or emptied")
    assert not (tmp_path / "run").exists()
