"""The metrics of an evaluation in a dashboard. Uses W&B itself, offline, where it is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from raml_trl.data.records import Question, Task, task_row
from raml_trl.data.shards import QUESTIONS, write_shards
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.trackers import check_tracker
from tests.helpers.openai_server import Answer, OpenAIServer, Request
from tests.helpers.preloaded import python

SECRET = "sk-1f0c7a6e5b"
_BLOCK = 32 * 1024


def answer(request: Request) -> Answer:
    """Answers three of four questions correctly."""
    number = int(request["messages"][-1]["content"].split()[1])
    return Answer(rf"\boxed{{{2 * number + (number == 3)}}}", 3)


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: protobuf in LevelDB's log format, after a header of seven bytes.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from wandb.proto import wandb_internal_pb2

    content, place, record = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place < len(content):
        if _BLOCK - place % _BLOCK < 7:  # too little space left for the header of a fragment
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a complete record, or its last fragment
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    pytest.importorskip("wandb", reason="wandb is of the extra wandb")
    with OpenAIServer(answer, api_key=SECRET) as server:
        yield server


def evaluate(home: Path, server: OpenAIServer, **environment: str) -> subprocess.CompletedProcess[str]:
    questions = [Question(str(number), f"Double {number}", str(2 * number), "test") for number in range(4)]
    write_shards(home / "data", [task_row(Task(question)) for question in questions], QUESTIONS)
    settings = {
        **{"model_name_or_path": server.model, "engine": "server", "server_url": server.url, "k": "1 2"},
        **{"dataset_name": home / "data", "prompt_style": "boxed", "num_samples": 2, "temperature": 0.5},
        **{"max_completion_length": 40, "output_dir": home / "out", "api_key_variable": "KEY_OF_THE_SERVER"},
        **{"report_to": "wandb", "project": "doubles", "models": "other"},
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", *str(value).split(" "))]
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    # With its own home directory, since the user who runs the tests may be logged in.
    ours = {"WANDB_DIR": str(home), "HOME": str(home), "KEY_OF_THE_SERVER": SECRET, **environment}
    command = [*python(), "-m", "raml_trl.evaluate", *given]
    return subprocess.run(
        command, env=theirs | ours, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.children
def test_evaluations_are_logged_to_wandb(server: OpenAIServer, tmp_path: Path) -> None:
    done = evaluate(tmp_path, server, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr

    names = set()
    for file in (tmp_path / "wandb").glob("offline-run-*/run-*.wandb"):
        logged = list(records(file))
        [run] = [record.run for record in logged if record.WhichOneof("record_type") == "run"]
        config = values(run.config.update)
        model = config["model_name_or_path"]
        assert (run.project, run.display_name) == ("doubles", f"{model} on data")
        assert (config["num_samples"], config["temperature"], config["k"]) == (2, 0.5, [1, 2])
        assert config["dataset_name"] == str(tmp_path / "data")

        [history] = [values(record.history.item) for record in logged if record.WhichOneof("record_type") == "history"]
        figures = {name: value for name, value in history.items() if not name.startswith("_")}
        metrics = json.loads((tmp_path / "out" / model / "metrics.json").read_text())["metrics"]
        assert figures == {name: metric["mean"] for name, metric in metrics.items()}
        assert figures["pass@1"] == 0.75
        assert [record.exit.exit_code for record in logged if record.WhichOneof("record_type") == "exit"] == [0]
        names.add(model)
    assert names == {server.model, "other"}

    written = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert len([path for path in written if path.suffix == ".wandb"]) == 2
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


@pytest.mark.children
def test_a_missing_login_is_an_error_before_the_work_starts(server: OpenAIServer, tmp_path: Path) -> None:
    done = evaluate(tmp_path, server)
    assert done.returncode == 2, done.stderr
    assert "report_to is wandb: No API key configured" in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.requests


def test_a_directory_named_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb writes its runs to ./wandb, which Python can import as a namespace package if wandb is not installed."""
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    invalidate_caches()
    with pytest.raises(InputError, match="report_to is wandb, which is not installed"):
        check_tracker("wandb")
    sys.modules.pop("wandb")
