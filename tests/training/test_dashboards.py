"""A training run logs to W&B (offline) and trackio; its group and the selected rollouts are read back from there."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raml_trl.data.records import Question, Task, task_row
from raml_trl.data.shards import QUESTIONS, write_shards
from raml_trl.runtime.trackers import run_group
from raml_trl.training.dashboards import messages_as_text
from tests.commands.test_commands import TINY
from tests.contracts.test_logging import documented, matches
from tests.runtime.test_trackers import records, values


def train(model_dir: str, home: Path, output_dir: Path, tracker: str, **settings: object) -> None:
    data = home / "data"
    if not data.exists():
        write_shards(
            data, [task_row(Task(Question(str(n), f"a=1+{n},b=2", str(n), "test"))) for n in range(8)], QUESTIONS
        )
    arguments = {
        **{"model_name_or_path": model_dir, "dataset_name": data, "output_dir": output_dir, "report_to": tracker},
        **{"max_steps": 2, "per_device_train_batch_size": 16, "num_generations_update": 2, "max_completion_length": 8},
        **{"log_completions": "true", "num_completions_to_print": 1, "save_steps": 1, "disable_tqdm": "true"},
    } | settings
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    ours = {"WANDB_DIR": str(home), "WANDB_MODE": "offline", "TRACKIO_DIR": str(home / "trackio"), "HOME": str(home)}
    # wandb and trackio have state of their process, such as a temporary directory, so each needs a new interpreter.
    command = [sys.executable, "-m", "raml_trl.train_grpo", "--config", str(TINY / "grpo.yaml"), *words]
    done = subprocess.run(
        command, env=theirs | ours, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def on_disk(output_dir: Path) -> list[dict[str, Any]]:
    """Return the last table of rollouts that the run saved, as lists."""
    table = pd.read_parquet(sorted((output_dir / "completions").iterdir())[-1])
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    assert len(rows) == 16
    assert sum(row["raml/selected"] for row in rows) == 4
    return rows


def key_of(output_dir: Path) -> str:
    return json.loads((output_dir / "run.json").read_text())["dashboard_key"]


def bits(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [[row[name] for name in ("raml/selected", "raml/correct", "answer_reward")] for row in rows]


def test_groups(tmp_path: Path) -> None:
    assert run_group(tmp_path / "sweep" / "trials" / "m=1,seed=0") == "sweep"
    assert run_group(tmp_path / "seeds" / "0") == "seeds"


def test_messages_are_text_within_the_block() -> None:
    user, model = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}
    tables: dict[str, Any] = {"prompt": [[user], [user, model]], "completion": ["2", [model]], "extra": {}}
    before = dict(tables)
    with messages_as_text(tables):
        assert tables["prompt"] == ["1+1", "user: 1+1\n\nassistant: 2"]
        assert tables["completion"] == ["2", "2"]
    assert all(tables[name] is before[name] for name in before)


@pytest.mark.slow
def test_wandb(model_dir: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is of the extra wandb")
    output_dir = tmp_path / "sweep" / "trials" / "m=2"
    train(model_dir, tmp_path, output_dir, "wandb")
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    entries = list(records(file))
    run = next(entry.run for entry in entries if entry.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group, run.display_name) == ("raml_trl", "sweep", "m=2")
    assert run.run_id == key_of(output_dir)
    tables = sorted(file.parent.glob("files/media/table/completions_*.json"), key=lambda path: path.stat().st_mtime)
    table = json.loads(tables[-1].read_text())
    assert bits([dict(zip(table["columns"], row, strict=True)) for row in table["data"]]) == bits(on_disk(output_dir))
    history = [values(entry.history.item) for entry in entries if entry.WhichOneof("record_type") == "history"]
    assert any("train/selected/mixed" in row for row in history)
    assert [entry.exit.exit_code for entry in entries if entry.WhichOneof("record_type") == "exit"] == [0]


@pytest.mark.slow
def test_trackio_keeps_two_runs_of_the_same_name_apart(model_dir: str, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is of the extra trackio")
    outputs = [tmp_path / place / "same" for place in ("first", "second")]
    for output_dir in outputs:
        train(model_dir, tmp_path, output_dir, "trackio")
    connection = sqlite3.connect(tmp_path / "trackio" / "raml_trl.db")
    runs = dict(connection.execute("select run_name, config from configs"))
    assert set(runs) == {f"same {key_of(output_dir)}" for output_dir in outputs}  # two runs, not one
    configs = {name: json.loads(config) for name, config in runs.items()}
    assert {config["_Group"] for config in configs.values()} == {"first", "second"}
    assert {config["num_generations_update"] for config in configs.values()} == {2}
    for output_dir in outputs:
        name = f"same {key_of(output_dir)}"
        cursor = connection.execute("select metrics from metrics where run_name = ? order by id", [name])
        logged = [json.loads(row[0]) for row in cursor]
        table = [entry["completions"]["_value"] for entry in logged if "completions" in entry][-1]
        assert bits(table) == bits(on_disk(output_dir))
        assert all(isinstance(row[part], str) for row in table for part in ("prompt", "completion"))
        names = {name.removeprefix("train/") for entry in logged for name in entry}
        names = {name for name in names if not name.startswith("profiling/Time taken: ")}
        unknown = {name for name in names if not any(matches(known, name) for known in documented("GRPO"))}
        assert unknown == {"completions", "global_step"}
