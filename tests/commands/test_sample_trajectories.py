"""Tests that `sample_trajectories` writes complete shards, the same for any number of processes and interruptions."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoTokenizer

from raml_trl.data.reading import load_questions
from raml_trl.data.records import Question, Task, task_row
from raml_trl.data.shards import QUESTIONS, write_shards
from raml_trl.data.tables import open_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.runs import open_run
from raml_trl.sample_trajectories import main
from raml_trl.sampling.config import SampleTrajectoriesConfig
from raml_trl.sft.examples import build_examples
from tests.helpers import REPOSITORY
from tests.helpers.hub_server import USER, HubServer
from tests.helpers.openai_server import Answer, OpenAIServer, Request
from tests.helpers.preloaded import python
from tests.launches.test_interruption import LAUNCH, kill_when

NUM_QUESTIONS, NUM_TRAJECTORIES, PER_SHARD = 10, 4, 3
COLUMNS = ["id", "problem", "answer", "source", "generations", "labels", "models", "num_tokens"]


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Writes ten questions and returns their directory. Question n has the answer n/7."""
    questions = [
        Question(str(number), f"What is {number} over 7?", rf"\frac{{{number}}}{{7}}", f"s{number % 2}")
        for number in range(NUM_QUESTIONS)
    ]
    write_shards(tmp_path / "data", [task_row(Task(question)) for question in questions], QUESTIONS)
    return str(tmp_path / "data")


def teacher(request: Request) -> Answer:
    """Answer correctly, with a wrong number, without a box, or cut off, depending on the seed."""
    number = int(request["messages"][-1]["content"].split()[2])
    match request["seed"] % 4:
        case 0:
            return Answer(rf"<think>{request['seed']}</think>\boxed{{{number}/7}}", 10 + number)
        case 1:
            return Answer(rf"\boxed{{{number + 1}/7}}", 5)
        case 2:
            return Answer("no idea</think>none", 3)  # like a model whose chat template already wrote <think>
        case _:
            return Answer(rf"\boxed{{{number}/", 40, "length")


def sample(directory: Path, **settings: Any) -> dict[str, Any]:
    """Run the command in this process without a push, and return its `run.json`."""
    given = {
        "num_trajectories": NUM_TRAJECTORIES,
        "questions_per_shard": PER_SHARD,
        "prompt_style": "boxed",
        **settings,
    }
    config = SampleTrajectoriesConfig(output_dir=str(directory), **given)
    record = open_run(directory, "sample_trajectories", settings)
    if not record.complete:
        main(config, record)
    return json.loads((directory / "run.json").read_text())


def from_server(server: OpenAIServer, data: str) -> dict[str, Any]:
    return {
        **{"model_name_or_path": server.model, "engine": "server", "server_url": server.url, "dataset_name": data},
        **{"num_graders": 1, "max_completion_length": 40},
    }


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.parquet"))}


@pytest.mark.long
def test_rows_have_the_format_of_the_papers_datasets(data: str, tmp_path: Path, model_dir: str) -> None:
    with OpenAIServer(teacher) as server:
        record = sample(tmp_path / "out", **from_server(server, data))
        seeds = Counter(request["seed"] % 4 for request in server.requests)
        assert len({request["seed"] for request in server.requests}) == NUM_QUESTIONS * NUM_TRAJECTORIES
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in read_rows(path)]
    assert list(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == [str(number) for number in range(NUM_QUESTIONS)]
    for row in rows:
        assert row["labels"] == [int(text.endswith(f"{{{row['id']}/7}}")) for text in row["generations"]]
        assert len(row["generations"]) == len(row["num_tokens"]) == len(row["models"]) == NUM_TRAJECTORIES
    results = record["results"]
    assert record["status"] == "complete"
    assert results["outcomes"] == {"correct": seeds[0], "wrong": seeds[1], "no answer": seeds[2] + seeds[3]}
    assert results["correct_trajectories"] == sum(sum(row["labels"]) for row in rows) == seeds[0]
    assert results["finished"] == 40 - seeds[3]
    assert results["tokens"] == sum(sum(row["num_tokens"]) for row in rows)
    assert results["shards"] == 4
    assert sum(text.startswith("<think>\n") for row in rows for text in row["generations"]) == seeds[2]

    # The output can be read by train_sft and by the `datasets` library.
    table = open_table(str(tmp_path / "out"))
    from tests.sft.test_examples import ALL

    _, counts = build_examples(table, AutoTokenizer.from_pretrained(model_dir), ALL)
    assert counts.examples == seeds[0]
    assert load_questions(str(tmp_path / "out")) == load_questions(data)
    loaded = load_dataset(str(tmp_path / "out"), split="train")  # the card names the files of the split
    assert loaded.column_names == COLUMNS
    assert loaded["labels"] == [row["labels"] for row in rows]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| correct | {seeds[0]} (" in card
    assert f"| graded as: no answer | {seeds[2] + seeds[3]} (" in card


@pytest.mark.long
def test_only_missing_shards_are_made_again(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OpenAIServer(teacher) as server:
        sample(out, **from_server(server, data))
        whole = shards(out)
        asked = len(server.requests)
        sample(out, **from_server(server, data))
        assert len(server.requests) == asked  # a complete run is not changed

        reopen(out)
        (out / "trajectories-00001.parquet").unlink()
        (out / "trajectories-00002.parquet").write_bytes(whole["trajectories-00002.parquet"][:-100])
        (out / ".trajectories-00001.parquet.1.partial").write_bytes(b"left by a killed run")
        sample(out, **from_server(server, data))
        assert shards(out) == whole
        assert len(server.requests) == asked + 2 * PER_SHARD * NUM_TRAJECTORIES
    assert not list(out.glob(".*"))


def reopen(directory: Path) -> None:
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(record | {"status": "running"}))


@pytest.mark.long
def test_processes_share_the_shards_and_the_last_completes_the_run(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(teacher) as server:
        settings = from_server(server, data)
        alone = sample(tmp_path / "alone", **settings)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "0")
        first = sample(tmp_path / "out", **settings)
        assert first["status"] == "running"
        assert list(shards(tmp_path / "out")) == ["trajectories-00000.parquet", "trajectories-00002.parquet"]
        monkeypatch.setenv("RANK", "1")
        last = sample(tmp_path / "out", **settings)
    assert last["status"] == "complete"
    assert last["results"] == alone["results"]
    assert shards(tmp_path / "out") == shards(tmp_path / "alone")


def test_answers_that_the_grader_cannot_finish_are_counted(data: str, tmp_path: Path) -> None:
    tower = "9" + "^{9" * 12 + "}" * 12

    with OpenAIServer(lambda request: Answer(rf"\boxed{{{tower}}}", 5)) as server:
        record = sample(tmp_path / "out", **from_server(server, data), num_questions=2)
    assert sum(record["results"]["outcomes"].values()) == 2 * NUM_TRAJECTORIES
    assert "correct" not in record["results"]["outcomes"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "server"}, "engine is server and server_url is None"),
        ({"server_url": "http://x/v1"}, "engine is transformers and server_url is http://x/v1"),
        ({"temperature": 0.0}, "temperature 0 gives 64 times the same sample"),
        ({"temperature": -1.0}, "temperature must be a number from 0 to 1,000, got -1.0"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and up to 1, got 0.0"),
        ({"questions_per_shard": 0}, "questions_per_shard must be a whole number from 1"),
        ({"push_to_hub": True}, "push_to_hub is True and hub_dataset_id is None"),
        ({"num_trajectories": 2.0}, "num_trajectories must be a whole number from 1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SampleTrajectoriesConfig(dataset_name="d", model_name_or_path="m", output_dir="o", **settings)


@pytest.mark.children
def test_push_with_a_card(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OpenAIServer(teacher) as server, HubServer() as hub:
        given = from_server(server, data) | {"output_dir": out, "num_questions": 4, "prompt_style": "boxed"}
        given |= {"num_trajectories": 2, "push_to_hub": "true", "hub_dataset_id": "rollouts"}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        command = [*python(), "-m", "raml_trl.sample_trajectories", *words]

        def push() -> subprocess.CompletedProcess[str]:
            environment = hub.environment(tmp_path / "home")
            return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)

        hub.fail("commit", 403)
        refused = push()
        assert refused.returncode == 2
        assert "the Hub answers 403" in refused.stderr.splitlines()[-1]
        assert json.loads((out / "run.json").read_text())["status"] == "complete"
        asked, made = len(server.requests), shards(out)

        done = push()
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == asked  # only the push is repeated
        assert shards(out) == made
        files = hub.files("dataset", f"{USER}/rollouts")
    assert {"README.md", "trajectories-00000.parquet"} <= set(files)
    assert f'load_dataset("{USER}/rollouts"' in files["README.md"].decode()
    assert "hf_" not in done.stderr + refused.stderr


def start(directory: Path, model: str, data: str, num_processes: int = 1) -> list[str]:
    """Return the command line that samples from `model` with the engine `transformers`, as a user would type it."""
    given = {
        **{"config": "recipes/tiny/demo/sample.yaml", "model_name_or_path": model, "dataset_name": data},
        **{"output_dir": directory, "num_questions": 24, "num_trajectories": 4, "questions_per_shard": 2},
    }
    interpreter = [sys.executable] if num_processes == 1 else LAUNCH
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*interpreter, "-m", "raml_trl.sample_trajectories", *words]


@pytest.mark.slow
def test_a_killed_run_can_be_resumed_on_any_number_of_processes(model_dir: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    prepare = ["--config", "recipes/tiny/demo/data_grpo.yaml", "--num_questions", "24", "--output_dir", data]
    subprocess.run([sys.executable, "-m", "raml_trl.prepare_data", *prepare], cwd=REPOSITORY, check=True)
    whole, killed, shared = (tmp_path / name for name in ("whole", "killed", "shared"))
    subprocess.run(start(whole, model_dir, data), cwd=REPOSITORY, check=True)

    for number in (1, 4, 9):  # kill the run three times, each time while it makes the shard after shard `number`
        kill_when(killed / f"trajectories-{number:05d}.parquet", start(killed, model_dir, data))
        assert json.loads((killed / "run.json").read_text())["status"] == "running"
        assert len(shards(killed)) < 12
    subprocess.run(start(killed, model_dir, data), cwd=REPOSITORY, check=True)
    assert shards(killed) == shards(whole)
    assert len(shards(whole)) == 12

    subprocess.run(start(shared, model_dir, data, num_processes=2), cwd=REPOSITORY, check=True)
    assert shards(shared) == shards(whole)
    records = [json.loads((directory / "run.json").read_text()) for directory in (whole, killed, shared)]
    assert [record["results"] for record in records] == [records[0]["results"]] * 3
    assert {record["status"] for record in records} == {"complete"}
