"""Datasets are pushed with the real huggingface_hub client to a local Hub server, and loaded back."""

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raml_trl.data.shards import SCHEMAS, TRAJECTORIES, shard_path
from raml_trl.hub import client
from raml_trl.hub.trajectory_card import SHARDS, Counts, trajectories_card
from raml_trl.runtime.files import read_rows, write_rows
from tests.helpers import REPOSITORY
from tests.helpers.hub_server import CUT, LOST, TOKEN, USER, HubServer
from tests.helpers.preloaded import python

pytestmark = pytest.mark.children


REPO = f"{USER}/rows"
SCHEMA = SCHEMAS[TRAJECTORIES]
# The start of a script that, like a command, reports an InputError in one line with exit code 2.
CLIENT = r"""
import logging, sys
from pathlib import Path
from raml_trl.hub import client as hub
from raml_trl.runtime.errors import InputError

logging.basicConfig(level=logging.DEBUG)
hub.PAUSES_SECONDS = (0, 0, 0)
try:
    sys.stdout.write({call})
except InputError as error:
    sys.stderr.write(f"\n<error>{{error}}</error>\n")
    sys.exit(2)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory with two shards of three questions each, the card, and a file that must not be pushed."""
    directory = tmp_path / "run"
    for shard in range(2):
        write_rows(shard_path(directory, TRAJECTORIES, shard), [row(shard, number) for number in range(3)], SCHEMA)
    counts = Counts([1] * 6, [2] * 6, 12, 12 * 5, {"sums": 6})
    card = trajectories_card(REPO, model="teacher", engine="transformers", settings={"seed": 0}, counts=counts)
    (directory / "README.md").write_text(card, encoding="utf-8")
    (directory / "run.json").write_text("{}")
    return directory


def row(shard: int, number: int) -> dict[str, Any]:
    """A question with one correct and one wrong trajectory."""
    name = f"{shard}-{number}"
    return {
        "id": name,
        "problem": f"{shard} + {number}?",
        "answer": str(shard + number),
        "source": "sums",
        "generations": [f"right é {name}", f"wrong {name}"],
        "labels": [1, 0],
        "models": ["teacher"] * 2,
        "num_tokens": [5, 5],
    }


def run(
    hub: HubServer, home: Path, code: str, token: str | None = TOKEN, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process that uses `hub` as the Hub."""
    return subprocess.run(
        [*python(), "-c", code],
        env=hub.environment(home, token) | environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def push(hub: HubServer, run_dir: Path, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Push `run_dir`; check that no file in it changes, and that the output does not contain the token."""
    call = (
        f"hub.push_dataset(Path({str(run_dir)!r}), 'rows', private=True, "
        f"patterns=['README.md', {SHARDS!r}], message='Six questions')"
    )
    before = fingerprints(run_dir)
    done = run(hub, run_dir.parent / "home", CLIENT.format(call=call), token)
    assert fingerprints(run_dir) == before
    assert token not in done.stdout + done.stderr
    return done


def fingerprints(directory: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
    }


def pushed(run_dir: Path) -> dict[str, bytes]:
    """The files that the Hub must hold after a push, in addition to the `.gitattributes` that the Hub creates."""
    return {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name != "run.json"}


def held(hub: HubServer) -> dict[str, bytes]:
    files = hub.files("dataset", REPO)
    assert files.pop(".gitattributes")
    return files


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message, which must be a single line."""
    assert done.returncode == 2, done.stderr
    [error] = re.findall(r"<error>(.*)</error>", done.stderr)
    return error


def test_pushed_rows_are_loaded_back(hub: HubServer, run_dir: Path) -> None:
    done = push(hub, run_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/datasets/{REPO}"
    assert held(hub) == pushed(run_dir)
    assert hub.repos["dataset", REPO].private
    assert hub.repos["dataset", REPO].commits[-1].summary == "Six questions"

    copy = run_dir.parent / "copy.parquet"
    code = f"import datasets; datasets.load_dataset({REPO!r}, split='train').to_parquet({str(copy)!r})"
    loaded = run(hub, run_dir.parent / "home", code)
    assert loaded.returncode == 0, loaded.stderr
    assert read_rows(copy) == [row(shard, number) for shard in range(2) for number in range(3)]


def test_pushed_trajectories_can_be_read_for_training(hub: HubServer, run_dir: Path) -> None:
    assert push(hub, run_dir).returncode == 0
    code = f"""
import sys
from raml_trl.data.reading import stream_tasks
from raml_trl.data.tables import open_table
for task in stream_tasks(open_table({REPO!r})):
    for trajectory in task.trajectories:
        values = (task.question.id, int(trajectory.correct), trajectory.model, trajectory.num_tokens)
        sys.stdout.write(" ".join(map(str, values)) + "\\n")
"""
    loaded = run(hub, run_dir.parent / "home", code)
    assert loaded.returncode == 0, loaded.stderr
    names = [f"{shard}-{number}" for shard in range(2) for number in range(3)]
    assert loaded.stdout.splitlines() == [f"{name} {bit} teacher 5" for name in names for bit in (1, 0)]


def test_a_second_push_sends_nothing(hub: HubServer, run_dir: Path) -> None:
    assert push(hub, run_dir).returncode == 0
    first = len(hub.requests)
    assert hub.requests.count("upload") == 2
    assert push(hub, run_dir).returncode == 0
    assert not {"upload", "commit"} & set(hub.requests[first:])
    assert held(hub) == pushed(run_dir)


def test_a_push_replaces_the_previous_one(hub: HubServer, run_dir: Path) -> None:
    assert push(hub, run_dir).returncode == 0
    shard_path(run_dir, TRAJECTORIES, 1).unlink()
    write_rows(shard_path(run_dir, TRAJECTORIES, 0), [row(7, 7)], SCHEMA)
    assert push(hub, run_dir).returncode == 0
    assert held(hub) == pushed(run_dir)
    assert hub.requests.count("upload") == 3


@pytest.mark.parametrize("fault", [500, 429, CUT, LOST], ids=["500", "429", "cut", "lost"])
def test_transient_failures_are_retried(hub: HubServer, run_dir: Path, fault: int) -> None:
    kinds = ("whoami", "create", "upload", "commit")
    for kind in kinds:
        hub.fail(kind, fault, at=2 if kind == "upload" else 1)
    done = push(hub, run_dir)
    assert done.returncode == 0, done.stderr
    assert not hub.faults, "every fault occurred"
    assert held(hub) == pushed(run_dir)
    # The Hub makes the first commit itself. A commit that succeeded, but whose response was lost, is not repeated.
    assert [commit.summary for commit in hub.repos["dataset", REPO].commits] == ["initial commit", "Six questions"]


def test_the_pause_that_the_hub_asks_for(hub: HubServer, run_dir: Path) -> None:
    hub.fail("commit", 429, retry_after=1)
    done = push(hub, run_dir)
    assert done.returncode == 0
    assert "429 (Too Many Requests); trying again in 1 seconds" in done.stderr


@pytest.mark.parametrize("looks", [1, 2])
def test_a_lock_may_vanish_while_the_files_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Another process of the launch ends, before this one looks at its lock for the first or the second time."""
    lock = tmp_path / "_run.lock-1"
    lock.write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model").write_bytes(b"12345")
    look, seen, allowed = Path.stat, [], []

    def vanishing(path: Path, **named: Any) -> Any:
        if path == lock:
            seen.append(path)
            if len(seen) == looks:
                lock.unlink()
        return look(path, **named)

    with monkeypatch.context() as patch:  # only in this block, because pytest looks at files too
        patch.setattr(Path, "stat", vanishing)
        patch.setattr(client, "insist", lambda _call, _name, *, seconds: allowed.append(seconds))
        client.push_folder(tmp_path, REPO, repo_type="model", message="a push")
    locks = 2 * (looks == 2)
    assert allowed == [10 * client.ANSWER_SECONDS + (5 + locks) / client._BYTES_PER_SECOND]


def test_a_failure_that_persists_is_an_error(hub: HubServer, run_dir: Path) -> None:
    hub.fail("commit", 503, times=4)
    error = message(push(hub, run_dir))
    assert error == (
        f"the Hub dataset {REPO}: the Hub answers 503 (Service Unavailable); no local file is lost, "
        "run the same command to try again"
    )
    assert not hub.faults, "three further attempts"
    # The same push succeeds later. The Hub already has the shards, so only the commit is sent.
    assert push(hub, run_dir).returncode == 0
    assert hub.requests.count("upload") == 2
    assert held(hub) == pushed(run_dir)


def test_an_interrupted_push_continues(hub: HubServer, run_dir: Path) -> None:
    hub.fail("upload", 403, at=2)
    assert "the Hub answers 403 (Forbidden)" in message(push(hub, run_dir))
    assert held(hub) == {}
    assert len(hub.objects) == 1
    assert push(hub, run_dir).returncode == 0
    assert hub.requests.count("upload") == 3  # one succeeded, and one failed and was repeated
    assert held(hub) == pushed(run_dir)


def test_a_card_that_the_hub_rejects_is_an_error(hub: HubServer, run_dir: Path) -> None:
    card = run_dir / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("---\n", "---\nlicense: mine\n", 1), encoding="utf-8")
    assert '"license" must be one of' in message(push(hub, run_dir))


def test_a_wrong_token_is_an_error(hub: HubServer, run_dir: Path) -> None:
    error = message(push(hub, run_dir, token="hf_wrong"))
    assert error.startswith("the Hub dataset rows: the Hub answers 401 (")
    assert "log in with `hf auth login`, or set HF_TOKEN" in error
    assert hub.requests == ["whoami"], "detected by the first request"


ACCESS = {
    "no token": ("rows", None, {}, "there is no token: log in with `hf auth login`, or set HF_TOKEN"),
    "offline": ("rows", TOKEN, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    "no Hub": ("rows", TOKEN, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub cannot be reached"),
    "an id with two slashes": ("a/b/c", TOKEN, {}, "Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
    "an id with a space": ("my rows", TOKEN, {}, "Repo id must use alphanumeric chars"),
    "someone else's": ("someone/rows", TOKEN, {}, "the Hub answers 403 (You don't have the rights"),
}


@pytest.mark.parametrize(("repo_id", "token", "environment", "expected"), ACCESS.values(), ids=ACCESS)
def test_access_is_checked(
    hub: HubServer, tmp_path: Path, repo_id: str, token: str | None, environment: dict[str, str], expected: str
) -> None:
    call = f"hub.check_hub_access({repo_id!r}, private=False)"
    done = run(hub, tmp_path, CLIENT.format(call=call), token, **environment)
    assert message(done).startswith(f"the Hub dataset {repo_id}: {expected}")
    assert not hub.repos


def test_access_to_an_existing_repository_is_checked(hub: HubServer, tmp_path: Path) -> None:
    """`check_hub_access` must check owner and visibility, since a request to create an existing repository succeeds."""
    call = "hub.check_hub_access('rows', private={private}).repo_id"
    assert run(hub, tmp_path, CLIENT.format(call=call.format(private=False))).stdout == REPO
    error = message(run(hub, tmp_path, CLIENT.format(call=call.format(private=True))))
    assert error == "the Hub dataset rows must be private, but exists and is public: choose another name"
    hub.fail("auth", 403)
    error = message(run(hub, tmp_path, CLIENT.format(call=call.format(private=False))))
    assert "the Hub answers 403 (Forbidden): log in" in error


def test_the_server_supports_models_too(hub: HubServer, tmp_path: Path) -> None:
    weights = bytes(range(256)) * 16
    model = tmp_path / "model"
    (model / "checkpoint-1").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "checkpoint-1" / "model.safetensors").write_bytes(weights)
    code = f"""
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem
api, name, weights = HfApi(), "{USER}/model", "checkpoint-1/model.safetensors"
api.create_repo(name)
api.upload_folder(repo_id=name, folder_path={str(model)!r})
assert Path(api.snapshot_download(name), weights).read_bytes() == Path({str(model)!r}, weights).read_bytes()
with HfFileSystem(block_size=16).open(f"{{name}}/{{weights}}") as file:
    file.seek(300)
    assert file.read(4) == bytes(range(44, 48))
assert {{entry.path for entry in api.list_repo_tree(name)}} == {{"checkpoint-1", ".gitattributes", "config.json"}}
assert [entry.path for entry in api.list_repo_tree(name, "checkpoint-1")] == [weights]
assert [entry.path for entry in api.get_paths_info(name, ["checkpoint-1", "none"])] == ["checkpoint-1"]
assert api.list_repo_refs(name).branches[0].target_commit == api.model_info(name).sha
api.delete_folder("checkpoint-1", name)
"""
    done = run(hub, tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    assert hub.files("model", f"{USER}/model").keys() == {".gitattributes", "config.json"}
