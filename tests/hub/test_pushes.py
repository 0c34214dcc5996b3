"""Models, checkpoints, rollouts and samples are pushed by the commands to a local Hub server, and loaded back."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raml_trl.runtime.files import read_rows
from tests.helpers import REPOSITORY
from tests.helpers.hub_server import HALF, TOKEN, USER, HubServer
from tests.helpers.preloaded import python

# Runs a command as `python -m` does, but without pauses between attempts.
COMMAND = r"""
import runpy, sys
from raml_trl.hub import client as hub
hub.PAUSES_SECONDS = (0, 0, 0)
name, sys.argv = {arguments!r}[0], {arguments!r}
runpy.run_module(f"raml_trl.{{name}}", run_name="__main__", alter_sys=True)
"""
SHORT = ["--max_steps", "4", "--save_steps", "2", "--report_to", "none"]
BASE = {".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors"}
BASE |= {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "trainer_state.json"}


@dataclass(frozen=True)
class Hub:
    """A Hub server, the home directory of its client, and a model and data as inputs of the commands."""

    server: HubServer
    home: Path
    model: str
    data: Path

    def command(self, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        done = self.run(COMMAND.format(arguments=[*arguments]), token)
        assert token not in done.stdout + done.stderr
        return done

    def run(self, code: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python(), "-c", code],
            env=self.server.environment(self.home, token),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def sft(self, output_dir: Path) -> list[str]:
        recipe = ["train_sft", "--config", "recipes/tiny/demo/sft.yaml", *SHORT, "--num_trajectories", "2"]
        inputs = ["--model_name_or_path", self.model, "--dataset_name", str(self.data / "sft")]
        return [*recipe, *inputs, "--output_dir", str(output_dir)]

    def grpo(self, output_dir: Path) -> list[str]:
        recipe = [
            "train_grpo",
            "--config",
            "recipes/tiny/demo/grpo.yaml",
            *SHORT,
            "--per_device_train_batch_size",
            "16",
        ]
        inputs = ["--model_name_or_path", self.model, "--dataset_name", str(self.data / "grpo")]
        return [*recipe, *inputs, "--log_completions", "true", "--output_dir", str(output_dir)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with trajectories for fine-tuning in `sft`, and questions in `grpo`."""
    from raml_trl.data.config import PrepareDataConfig
    from raml_trl.prepare_data import main
    from raml_trl.runtime.cli import call

    directory = tmp_path_factory.mktemp("data")
    for split, number in (("sft", 2), ("grpo", 0)):
        output_dir = str(directory / split)
        settings = {"dataset_split": split, "num_questions": 12, "num_trajectories": number}
        call(main, PrepareDataConfig(dataset_name="arithmetic", output_dir=output_dir, **settings))
    return directory


def make_hub(directory: Path, student: Path, data: Path) -> Iterator[Hub]:
    """Yield a `Hub` whose model answers some questions correctly, so that GRPO changes the model."""
    with HubServer() as server:
        yield Hub(server, directory / "home", str(student / "model"), data)


@pytest.fixture
def hub(tmp_path: Path, student: Path, data: Path) -> Iterator[Hub]:
    yield from make_hub(tmp_path, student, data)


@pytest.fixture(scope="module")
def lasting_hub(tmp_path_factory: pytest.TempPathFactory, student: Path, data: Path) -> Iterator[Hub]:
    yield from make_hub(tmp_path_factory.mktemp("hub"), student, data)


@pytest.fixture(scope="module")
def sft_run(lasting_hub: Hub) -> tuple[Path, str]:
    """The directory and log of an SFT run that was pushed, although its first push during training failed."""
    directory = lasting_hub.home.parent / "sft"
    evaluation = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_data", str(lasting_hub.data / "grpo")]
    evaluation += ["--eval_num_samples", "4", "--eval_k", "1", "--eval_max_completion_length", "8"]
    lasting_hub.server.fail("commit", 403)
    done = lasting_hub.command(*lasting_hub.sft(directory), *evaluation, "--push_to_hub", "true")
    assert done.returncode == 0, done.stderr
    return directory, done.stderr


@pytest.fixture(scope="module")
def grpo_run(lasting_hub: Hub, sft_run: tuple[Path, str]) -> tuple[Path, str]:
    """The directory and log of a GRPO run that pushed its checkpoints as revisions.

    The first push of the first revision fails, one upload is cut off, and the Hub is busy at two requests.
    """
    directory, server = lasting_hub.home.parent / "grpo", lasting_hub.server
    server.fail("whoami", 500)
    server.fail("create", 429, at=2, retry_after=1)
    server.fail("branch", 403)
    server.fail("upload", HALF)
    push = ["--push_to_hub", "true", "--hub_revisions", "true", "--hub_private_repo", "true"]
    push += ["--hub_model_id", "policy", "--log_completions_hub_repo", f"{USER}/rollouts"]
    longer = ["--max_steps", "6", "--save_total_limit", "2"]
    done = lasting_hub.command(*lasting_hub.grpo(directory), *push, *longer)
    assert done.returncode == 0, done.stderr
    assert not server.faults, "every fault occurred"
    return directory, done.stderr


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def without_attributes(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def fingerprints(directory: Path) -> dict[Path, tuple[str, int]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message, the last line of the output."""
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.children
def test_a_failed_push_does_not_end_the_training(lasting_hub: Hub, sft_run: tuple[Path, str]) -> None:
    directory, log = sft_run
    assert "a push during training failed (403" in log
    assert f"pushed {directory} to {lasting_hub.server.url}/{USER}/sft\n" in log
    assert json.loads((directory / "run.json").read_text())["status"] == "complete"
    assert without_attributes(lasting_hub.server.files("model", f"{USER}/sft")) == contents(directory)
    assert not lasting_hub.server.repos["model", f"{USER}/sft"].private


@pytest.mark.children
def test_the_model_card_describes_the_training(sft_run: tuple[Path, str]) -> None:
    directory, _ = sft_run
    card = (directory / "README.md").read_text()
    assert f'model="{USER}/sft"' in card
    assert "max_new_tokens=64," in card  # max_length of the recipe
    for fact in ("| `num_trajectories` | 2 |", "| `trajectory_order` | random |", "| `seed` | 0 |", "| steps | 4 |"):
        assert fact in card
    assert "raml-trl train_sft recipe.yaml" in card
    assert "\nlearning_rate: 0.003\n" in card
    assert str(directory.parent) not in card, "no local path in the card"
    assert "@article{liu2025deciphering," in card
    assert "Graded samples of the model at step 4" in card
    last = json.loads((directory / "checkpoint-4" / "trainer_state.json").read_text())["log_history"][-1]
    low, high = (f"{last[f'eval_pass@1_{end}']:.3f}" for end in ("low", "high"))
    assert f"| `pass@1` | {last['eval_pass@1']:.3f} | {low} to {high} |" in card
    assert f"name: pass@1, 4 samples, 95 % interval {low} to {high}" in card


@pytest.mark.children
def test_model_and_checkpoints_are_loaded_back_bit_for_bit(lasting_hub: Hub, grpo_run: tuple[Path, str]) -> None:
    directory, _ = grpo_run
    server = lasting_hub.server
    assert server.repos["model", f"{USER}/policy"].private
    assert server.repos["dataset", f"{USER}/rollouts"].private
    kept = [path.name for path in sorted(directory.glob("checkpoint-*"))]
    # On a busy machine the push of the first checkpoint, which is tried twice, may last until the last save.
    assert kept in (["checkpoint-4", "checkpoint-6"], ["checkpoint-2", "checkpoint-4", "checkpoint-6"])
    assert server.repos["model", f"{USER}/policy"].branches.keys() == {"main", "step-2", "step-4", "step-6"}
    for step in (2, 4, 6):
        assert server.files("model", f"{USER}/policy", f"step-{step}").keys() == BASE
    code = f"""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
places = {{"main": {str(directory)!r}, "step-4": {str(directory / "checkpoint-4")!r}}}
weights = {{}}
for revision in ("main", "step-2", "step-4", "step-6"):
    weights[revision] = AutoModelForCausalLM.from_pretrained("{USER}/policy", revision=revision).state_dict()
    AutoTokenizer.from_pretrained("{USER}/policy", revision=revision)
for revision, place in places.items():
    for name, value in AutoModelForCausalLM.from_pretrained(place).state_dict().items():
        assert torch.equal(value, weights[revision][name]), (revision, name)
assert all(torch.equal(value, weights["step-6"][name]) for name, value in weights["main"].items())
assert any(not torch.equal(value, weights["step-4"][name]) for name, value in weights["step-2"].items())
"""
    loaded = lasting_hub.run(code)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.children
def test_a_failed_revision_is_pushed_with_the_next(lasting_hub: Hub, grpo_run: tuple[Path, str]) -> None:
    directory, log = grpo_run
    assert f"{directory / 'checkpoint-2'} is not pushed yet: the Hub model {USER}/policy: the Hub answers 403" in log
    assert log.count("is not pushed yet") == 1
    commits = lasting_hub.server.repos["model", f"{USER}/policy"].branches
    assert [commits[f"step-{step}"][-1].summary for step in (2, 4, 6)] == ["Step 2", "Step 4", "Step 6"]
    card = lasting_hub.server.files("model", f"{USER}/policy", "step-4")["README.md"].decode()
    assert "| steps | 4 |" in card
    assert f'from_pretrained("{USER}/policy", revision="step-4")' in card
    assert "| `num_generations_update` | 4 |" in card
    assert "| `selection` | random |" in card


@pytest.mark.children
def test_rollouts_are_pushed_as_a_dataset(lasting_hub: Hub, grpo_run: tuple[Path, str]) -> None:
    directory, log = grpo_run
    assert f" to {lasting_hub.server.url}/datasets/{USER}/rollouts\n" in log
    files = lasting_hub.server.files("dataset", f"{USER}/rollouts")
    assert without_attributes(files) == contents(directory / "completions")
    card = files["README.md"].decode()
    assert "96 rollouts, logged at 6 steps" in card
    assert "| raml/selected | whether it is one of the m of G that carry gradient |" in card
    copy = directory.parent / "rollouts.parquet"
    code = f"import datasets; datasets.load_dataset('{USER}/rollouts', split='train').to_parquet({str(copy)!r})"
    loaded = lasting_hub.run(code)
    assert loaded.returncode == 0, loaded.stderr
    rows = [row for path in sorted((directory / "completions").glob("*.parquet")) for row in read_rows(path)]
    assert len(rows) == 96
    assert read_rows(copy) == rows
    assert sum(row["raml/selected"] for row in rows) == 48


@pytest.mark.children
def test_the_same_command_pushes_a_complete_run(hub: Hub, sft_run: tuple[Path, str], tmp_path: Path) -> None:
    """The same command also continues a failed push, without a further step of training."""
    directory = shutil.copytree(sft_run[0], tmp_path / "run")
    settings = json.loads((directory / "run.json").read_text())["settings"]
    evaluation = [word for name, value in settings.items() if "eval" in name for word in (f"--{name}", str(value))]
    evaluation = [word.strip("[]") for word in evaluation]
    command = [*hub.sft(directory), *evaluation, "--push_to_hub", "true", "--hub_model_id", "late"]
    card = directory / "README.md"
    card.write_text(card.read_text().replace(f'"{USER}/sft"', '"USER/NAME"'))  # as after a run without a push
    before = fingerprints(directory)

    hub.server.fail("upload", HALF)
    hub.server.fail("commit", 403)
    error = message(hub.command(*command))
    assert f"the Hub model {USER}/late: the Hub answers 403 (Forbidden)" in error
    assert "no local file is lost, run the same command to try again" in error
    assert {path for path, now in fingerprints(directory).items() if now != before[path]} == {card}
    assert f'model="{USER}/late"' in card.read_text()
    before = fingerprints(directory)
    sent = hub.server.requests.count("upload")
    assert sent == 3, "two files, one of them twice"

    again = hub.command(*command)
    assert again.returncode == 0, again.stderr
    assert ": pushed " in again.stderr
    assert "it/s" not in again.stderr, "no training step"
    assert fingerprints(directory) == before
    assert hub.server.requests.count("upload") == sent
    assert without_attributes(hub.server.files("model", f"{USER}/late")) == contents(directory)


@pytest.mark.children
def test_a_wrong_token_is_an_error_before_training(hub: Hub, tmp_path: Path) -> None:
    done = hub.command(*hub.sft(tmp_path / "run"), "--push_to_hub", "true", token="hf_wrong")
    assert message(done).startswith("raml-trl train_sft: the Hub model run: the Hub answers 401 (")
    assert "log in with `hf auth login`, or set HF_TOKEN" in message(done)
    assert hub.server.requests == ["whoami"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_wrong_token_ends_all_processes(hub: Hub, tmp_path: Path) -> None:
    launch = ["accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", "-m"]
    name, *arguments = hub.sft(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", *launch, f"raml_trl.{name}", *arguments, "--push_to_hub", "true"],
        env=hub.server.environment(hub.home, "hf_wrong"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert done.stderr.count("the Hub answers 401 (") == 1
    assert hub.server.requests == ["whoami"]


ACCESS = {
    "someone else's": ("someone/model", None, "the Hub model someone/model: the Hub answers 403 (You don't have the"),
    "no name": ("a model", None, "the Hub model a model: Repo id must use alphanumeric chars"),
    "public": ("open", True, "the Hub model open must be private, but exists and is public: choose another name"),
}


@pytest.mark.children
@pytest.mark.parametrize(("repo_id", "private", "expected"), ACCESS.values(), ids=ACCESS)
def test_access_is_checked(hub: Hub, repo_id: str, private: bool | None, expected: str) -> None:
    code = f"""
from raml_trl.runtime.errors import InputError
from raml_trl.hub.client import check_hub_access
check_hub_access("open", private=None, repo_type="model")
try:
    check_hub_access({repo_id!r}, private={private}, repo_type="model")
except InputError as error:
    raise SystemExit(f"{{error}}")
"""
    done = hub.run(code)
    assert done.returncode == 1
    assert done.stderr.startswith(expected)


@pytest.mark.children
def test_samples_are_pushed_as_a_dataset(hub: Hub, tmp_path: Path) -> None:
    directory = tmp_path / "evaluation"
    command = ["evaluate", "--config", "recipes/tiny/demo/eval.yaml", "--model_name_or_path", hub.model]
    command += ["--dataset_name", str(hub.data / "grpo"), "--num_samples", "8", "--max_completion_length", "8"]
    command += ["--push_to_hub", "true", "--hub_dataset_id", "samples", "--output_dir", str(directory)]
    hub.server.fail("commit", 500)
    done = hub.command(*command)
    assert done.returncode == 0, done.stderr
    files = hub.server.files("dataset", f"{USER}/samples")
    assert files.keys() == {".gitattributes", "README.md", "samples.parquet", "metrics.json"}
    assert without_attributes(files).items() <= contents(directory).items()
    value = json.loads(files["metrics.json"])["metrics"]["pass@1"]
    row = f"| `pass@1` | {value['mean']:.3f} | {value['low']:.3f} to {value['high']:.3f} |"
    assert row in files["README.md"].decode()
    assert re.search(r"^\| `seed` \| 0 \|$", files["README.md"].decode(), re.MULTILINE)
