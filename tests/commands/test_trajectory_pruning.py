"""Tests `trajectory_pruning`: the tables are complete, a killed run resumes, and the results can be trained on."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer
from trl import ModelConfig, SFTConfig

from raml_trl import train_sft
from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning import answers as pruning_answers
from raml_trl.analysis.pruning.answers import OpenBox
from raml_trl.data.arithmetic import generate_questions, generate_trajectories
from raml_trl.data.reading import stream_tasks
from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import PRUNED, SCHEMAS, TRAJECTORIES, write_shards
from raml_trl.data.tables import open_table
from raml_trl.grading.boxes import extract_box
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.runs import open_run
from raml_trl.sft.config import SFTArguments
from raml_trl.trajectory_pruning import main

METHODS = ["no_thinking", "budget:0.5", "curve:3", "drop_sentence:0.1"]
NUM_QUESTIONS, NUM_TRAJECTORIES, PER_CHUNK = 5, 3, 2


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> str:
    """Writes five questions with three trajectories each (correct, wrong, truncated) and returns their directory."""
    rows = []
    for number, made in enumerate(generate_questions("grpo", NUM_QUESTIONS, rng)):
        texts = generate_trajectories(made, NUM_TRAJECTORIES, rng)
        texts[1], texts[2] = texts[1].replace(f"{{{made.answer}}}", "{0}"), texts[2].partition("</think>")[0]
        trajectories = [Trajectory(text, not place, f"m{place}") for place, text in enumerate(texts)]
        rows.append(task_row(Task(Question(f"q{number}", made.text, made.answer, "test"), tuple(trajectories))))
    write_shards(tmp_path / "data", rows, TRAJECTORIES)
    return str(tmp_path / "data")


@pytest.fixture
def right_answers(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    """Replaces the model's answers. Of each four answers, one does not close its box, one is wrong, two are correct."""
    tasks = list(stream_tasks(open_table(data)))

    def answer(_model: Any, tokenizer: Any, boxes: Sequence[OpenBox], **_settings: Any) -> list[str | None]:
        answers: list[str | None] = []
        for place, box in enumerate(boxes):
            text = tokenizer.decode(box.ids)
            [right] = [task.question.answer for task in tasks if f"<user>{task.question.question}<" in text]
            answers.append((None, f"1{right}", right, right)[place % 4])
        return answers

    monkeypatch.setattr(pruning_answers, "force_answers", answer)


def prune(model: str, data: str, directory: Path, **settings: Any) -> dict[str, Any]:
    """Run the command in this process and return the content of `run.json`."""
    given = {
        "model_name_or_path": model,
        "dataset_name": data,
        "prompt_style": "bare",
        "methods": METHODS,
        "num_trajectories": NUM_TRAJECTORIES,
        "questions_per_shard": PER_CHUNK,
        "max_answer_length": 4,
        "num_graders": 1,
        **settings,
    }
    record = open_run(directory, "trajectory_pruning", given)
    main(TrajectoryPruningConfig(output_dir=str(directory), **given), record)
    return json.loads((directory / "run.json").read_text())


def files(directory: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.long
def test_every_trajectory_under_every_method(model_dir: str, data: str, tmp_path: Path) -> None:
    record = prune(model_dir, data, tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "pruned.parquet")
    assert list(rows[0]) == SCHEMAS[PRUNED].names
    keys = [(row["question_id"], row["number"], row["method"], row["setting"]) for row in rows]
    methods = [("none", None), *((kind, setting or None) for kind, _, setting in (m.partition(":") for m in METHODS))]
    assert sorted(keys, key=str) == sorted(
        [(f"q{q}", t, *method) for q in range(NUM_QUESTIONS) for t in range(NUM_TRAJECTORIES) for method in methods],
        key=str,
    )
    texts = {
        (task.question.id, number): trajectory.text
        for task in stream_tasks(open_table(data))
        for number, trajectory in enumerate(task.trajectories)
    }
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for row in rows:
        thinking = texts[row["question_id"], row["number"]].partition("<think>")[2].partition("</think>")[0]
        left = re.fullmatch(r"<think>(.*)</think>\\boxed\{(.*)\}", row["text"])
        assert left is not None
        assert left[2] == (row["predicted"] or "")
        assert row["tokens_before"] == len(thinking)  # one token per character
        assert row["tokens_after"] == len(left[1])
        assert row["num_tokens"] == len(tokenizer(row["text"])["input_ids"])
        if row["method"] == "none":
            assert left[1] == thinking
        if row["method"] in ("no_thinking", "budget", "curve"):
            assert thinking.startswith(left[1])
        if row["method"] == "budget":
            assert row["tokens_after"] == row["tokens_before"] // 2
    results = json.loads((tmp_path / "out" / "trajectory_pruning.json").read_text())
    assert results == record["results"]
    assert (results["questions"], results["trajectories"], results["left_out"]) == (NUM_QUESTIONS, 15, 0)
    assert results["correct_as_sampled"] == pytest.approx(1 / 3)
    assert [(method["name"], method["setting"]) for method in results["methods"]] == methods
    for method in results["methods"]:
        own = [row for row in rows if (row["method"], row["setting"]) == (method["name"], method["setting"])]
        assert method["tokens"]["mean"] == pytest.approx(sum(row["tokens_after"] for row in own) / len(own))
        assert method["leaked"] == sum(row["leaked"] for row in own) / len(own)
        assert method["n"] == len(own)
    page = (tmp_path / "out" / "page.html").read_text()
    assert "how much of a trajectory is needed" in page
    assert (tmp_path / "out" / "frontier.svg").read_text().startswith("<svg")
    assert not list((tmp_path / "out").glob("pruned-*"))


@pytest.mark.long
@pytest.mark.usefixtures("right_answers")
def test_trajectories_that_are_still_correct_can_be_trained_on(model_dir: str, data: str, tmp_path: Path) -> None:
    prune(model_dir, data, tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "pruned.parquet")
    assert {row["predicted"] is None for row in rows} == {row["correct"] for row in rows} == {True, False}
    for name in ("none", *METHODS):
        kind, _, setting = name.partition(":")
        correct = [
            row for row in rows if row["method"] == kind and row["setting"] == (setting or None) and row["correct"]
        ]
        tasks = list(stream_tasks(open_table(str(tmp_path / "out" / f"data_{name.replace(':', '_')}"))))
        assert [trajectory.text for task in tasks for trajectory in task.trajectories] == [
            row["text"] for row in correct
        ]
        assert [task.question.id for task in tasks for _ in task.trajectories] == [
            row["question_id"] for row in correct
        ]
        for task in tasks:
            assert all(trajectory.correct for trajectory in task.trajectories)
            assert all(extract_box(trajectory.text) == task.question.answer for trajectory in task.trajectories)
        assert [trajectory.model for task in tasks for trajectory in task.trajectories] == [
            f"m{row['number']}" for row in correct
        ]

    source = tmp_path / "out" / "data_budget_0.5"
    record = open_run(tmp_path / "sft", "train_sft", {})
    config = SFTConfig(
        output_dir=str(tmp_path / "sft"), max_steps=2, per_device_train_batch_size=2, max_length=64, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    arguments = SFTArguments(dataset_name=str(source), prompt_style="bare")
    train_sft.main(arguments, config, ModelConfig(model_name_or_path=model_dir), record)
    wanted = {(row["question_id"], row["text"]) for row in rows if row["method"] == "budget" and row["correct"]}
    assert record.complete
    assert record.record["results"]["data"]["trajectories"] == len(wanted) > 2


def kill_at(monkeypatch: pytest.MonkeyPatch, wanted: int) -> Callable[[], int]:
    """Make the command fail when it calls a pruning method for the `wanted`-th time; return a counter of the calls."""
    calls = 0
    original = pruning_answers.prune

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == wanted:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(pruning_answers, "prune", counting)
    return lambda: calls


@pytest.mark.long
def test_a_killed_and_resumed_run_equals_an_uninterrupted_run(
    model_dir: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune(model_dir, data, tmp_path / "whole")
    of_chunk = len(METHODS) + 1
    with monkeypatch.context() as patch:
        kill_at(patch, of_chunk + 3)
        with pytest.raises(KeyboardInterrupt):
            prune(model_dir, data, tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed").glob("*.parquet")] == ["pruned-00000.parquet"]
    done = kill_at(monkeypatch, 0)
    prune(model_dir, data, tmp_path / "resumed")
    assert done() == 2 * of_chunk  # two chunks of three were missing, since the first was complete
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")


@pytest.mark.long
def test_empty_trajectories_are_left_out_and_counted(
    model_dir: str, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = list(stream_tasks(open_table(data)))
    empty = Trajectory("  ", False, "m")
    rows = [task_row(Task(task.question, (empty, *task.trajectories[:2]))) for task in tasks]
    write_shards(tmp_path / "some", rows, TRAJECTORIES)
    results = prune(model_dir, str(tmp_path / "some"), tmp_path / "out", methods=["budget:3"])["results"]
    assert (results["trajectories"], results["left_out"]) == (10, 5)
    assert "left out 5 empty trajectories" in caplog.text
    assert "none leaves no trajectory with a correct answer" in caplog.text
    assert not (tmp_path / "out" / "data_none").exists()
    assert {row["number"] for row in read_rows(tmp_path / "out" / "pruned.parquet")} == {1, 2}
    write_shards(tmp_path / "none", [task_row(Task(task.question, (empty,))) for task in tasks], TRAJECTORIES)
    with pytest.raises(InputError, match="every trajectory is empty"):
        prune(model_dir, str(tmp_path / "none"), tmp_path / "nothing")


@pytest.mark.long
def test_trajectories_are_sampled_if_the_dataset_has_none(
    model_dir: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # the other process of the launch exits at once
    questions = [task_row(Task(task.question)) for task in stream_tasks(open_table(data))]
    write_shards(tmp_path / "questions", questions, TRAJECTORIES)
    settings = {"max_completion_length": 12, "num_questions": 3, "num_trajectories": 2, "methods": ["budget:0.5"]}
    results = prune(model_dir, str(tmp_path / "questions"), tmp_path / "out", **settings)["results"]
    assert results["questions"] == 3
    assert results["trajectories"] + results["left_out"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["budget:2.0"]}, "'budget:2.0' must be budget: followed by a share"),
        ({"methods": ["none", "curve:1", "curve:1"]}, "names curve:1 twice"),
        ({"methods": ["none"], "summariser": "m"}, "methods has no summary"),
        ({"stub": "The answer is"}, "must end inside an open box"),
        ({"max_drops": 0}, "max_drops must be a whole number from 1"),
        ({"methods": [3]}, "methods must be"),
    ],
)
def test_unusable_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrajectoryPruningConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **settings)


def test_a_tokenizer_without_a_pad_token_is_refused_first(model_dir: str, data: str, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    given = {"pad_token": None, "chat_template": template}
    config.write_text(json.dumps(json.loads(config.read_text()) | given))
    with pytest.raises(InputError, match="its tokenizer has no pad token"):
        prune(str(tmp_path / "model"), data, tmp_path / "out")


def test_a_summary_needs_words_in_the_vocabulary(model_dir: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave summary out, or name a summariser"):
        prune(model_dir, data, tmp_path / "out", methods=["summary"])
