"""Tests `pseudo_gradient`.

A curve is the likelihood of the answer after every prefix of a trajectory. It must equal the result of one forward pass
per prefix. Interrupted runs must resume.
"""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raml_trl.analysis.config import PseudoGradientConfig
from raml_trl.analysis.descent import experiment
from raml_trl.analysis.descent.measure import MeasuredTrajectory
from raml_trl.analysis.descent.results import choose_shown
from raml_trl.analysis.likelihood import answer_nll
from raml_trl.data.arithmetic import ArithmeticQuestion
from raml_trl.data.records import Question, Task, Trajectory, task_row
from raml_trl.data.shards import QUESTIONS, TRAJECTORIES, write_shards
from raml_trl.pseudo_gradient import main
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows
from raml_trl.runtime.runs import open_run
from raml_trl.sampling.loading import load_model

NUM_QUESTIONS = 5


def make_tasks(trajectories: bool) -> list[Task]:
    """Return arithmetic questions, each with a correct, a wrong and an unfinished trajectory or with none."""
    made = []
    for number in range(NUM_QUESTIONS):
        a, b = (number, 1, 2), (3, number, 4)
        answer = ArithmeticQuestion(a, b).answer
        right = f"<think>a{number}+1={(number + 1) % 10};</think>\\boxed{{{answer}}}"
        wrong = f"<think>b3+4=7;</think>\\boxed{{{99 - int(answer):02d}}}"
        texts = ((right, True), (wrong, False), ("<think>b3+4=7;b3", False)) if trajectories else ()
        question = Question(f"q{number}", ArithmeticQuestion(a, b).text, answer, "made")
        made.append(Task(question, tuple(Trajectory(text, good, "teacher") for text, good in texts)))
    return made


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_shards(tmp_path / "data", map(task_row, make_tasks(trajectories=True)), TRAJECTORIES)
    return str(tmp_path / "data")


def analyse(directory: Path, **settings: Any) -> dict[str, Any]:
    """Run the command in this process and return the content of `run.json`."""
    given = {"prompt_style": "bare", "max_completion_length": 12, "window": 1, "questions_per_shard": 2, **settings}
    config = PseudoGradientConfig(output_dir=str(directory), **given)
    record = open_run(directory, "pseudo_gradient", settings)
    if not record.complete:
        main(config, record)
    return json.loads((directory / "run.json").read_text())


@pytest.mark.long
def test_curves_equal_one_pass_per_prefix(data: str, tmp_path: Path, model_dir: str) -> None:
    record = analyse(tmp_path / "out", model_name_or_path=model_dir, dataset_name=data)
    rows = read_rows(tmp_path / "out" / "curves.parquet")
    assert len(rows) == 3 * NUM_QUESTIONS
    model, tokenizer = load_model(model_dir, dtype="auto")
    for row in rows:
        assert len(row["nll"]) == len(row["ends"]) + 1
        for t in (0, row["start"], row["end"], len(row["ends"])):
            read = row["text"][: [0, *row["ends"]][t]]
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": row["question"]}], add_generation_prompt=True, tokenize=False
            )
            prefix, answer = (
                torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
                for text in (f"{prompt}{read}</think>\\boxed{{", row["answer"])
            )
            assert row["nll"][t] == pytest.approx(answer_nll(model, prefix, answer), abs=1e-4)
        assert row["text"][: [0, *row["ends"]][row["start"]]] == "<think>"
        thought = row["text"][: [0, *row["ends"]][row["end"]]]
        assert thought == row["text"].partition("</think>")[0]
        ends = [[0, *row["ends"]][t] for t in row["sentences"]]
        assert [row["text"][end - 1] for end in ends if end < len(row["text"])] == [";"] * thought.count(";")
        stated = row["stated"]
        assert (stated is None) == (row["answer"] not in row["text"])
        if stated is not None:
            before, there = ([0, *row["ends"]][t] for t in (stated - 1, stated))
            assert row["answer"] not in row["text"][:before]
            assert row["answer"] in row["text"][:there]
    results = record["results"]
    assert results["modes"]["thinking"]["accuracy"]["mean"] == pytest.approx(1 / 3)
    assert [(row["correct"], row["trajectories"]) for row in results["descent"]] == [
        (True, NUM_QUESTIONS),
        (False, 2 * NUM_QUESTIONS),
    ]
    assert {row["group"] for row in results["token_effects"]} >= {"number", "operator", "punctuation"}
    for name in ("page.html", "curves.svg", "token_effects.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 1_000
    assert not list((tmp_path / "out").glob("curves-*"))


@pytest.mark.long
def test_effects_use_the_window_and_end_before_the_answer_is_stated(data: str, tmp_path: Path, model_dir: str) -> None:
    analyse(tmp_path / "out", model_name_or_path=model_dir, dataset_name=data)
    rows = read_rows(tmp_path / "out" / "curves.parquet")
    config = PseudoGradientConfig(
        model_name_or_path=model_dir, dataset_name=data, output_dir="-", prompt_style="bare", window=2
    )
    effects = experiment.summarise([MeasuredTrajectory(**row) for row in rows], config).token_effects
    classes = {"number": 0, "operator": 0, "punctuation": 0, "word": 0}
    for row in rows:
        last = row["end"] if row["stated"] is None else min(row["end"], row["stated"] - 1)
        for start, end in list(pairwise([0, *row["ends"]]))[row["start"] : last - 1]:
            token = row["text"][start:end]
            name = "number" if token.isdigit() else "word" if token.isalpha() else "operator"
            classes["punctuation" if token == ";" else name] += 1
    assert {row.group: row.n for row in effects} == {name: n for name, n in classes.items() if n}


@pytest.mark.long
def test_trajectories_are_sampled_if_the_dataset_has_none(
    tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "data", map(task_row, make_tasks(trajectories=False)), QUESTIONS)
    settings = {"model_name_or_path": model_dir, "dataset_name": str(tmp_path / "data"), "no_thinking": "closed"}
    analyse(tmp_path / "out", **settings, num_trajectories=3)
    rows = read_rows(tmp_path / "out" / "curves.parquet")
    by_mode = {mode: [row for row in rows if row["mode"] == mode] for mode in ("thinking", "no_thinking")}
    assert [len(of_mode) for of_mode in by_mode.values()] == [3 * NUM_QUESTIONS] * 2
    assert all(row["text"].startswith("<think></think>") for row in by_mode["no_thinking"])
    assert all(row["start"] == 2 for row in by_mode["no_thinking"])
    for row in by_mode["no_thinking"]:  # the part of the text that the curve covers ends before the box
        assert "\\boxed" not in row["text"][: [0, *row["ends"]][row["end"]]]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":  # each process measures what it has sampled, even if the other has sampled nothing yet
        monkeypatch.setenv("RANK", rank)
        record = analyse(tmp_path / "shared", **settings, num_trajectories=3)
        assert (record["status"] == "complete") == (rank == "1")
    assert read_rows(tmp_path / "shared" / "curves.parquet") == rows


@pytest.mark.long
def test_without_thinking_the_stub_closes_no_block(data: str, tmp_path: Path, model_dir: str) -> None:
    settings = {"model_name_or_path": model_dir, "dataset_name": data, "no_thinking": "closed", "num_trajectories": 1}
    both = analyse(tmp_path / "out", **settings)["results"]["token_effects"]
    rows = read_rows(tmp_path / "out" / "curves.parquet")
    assert Counter(row["mode"] for row in rows) == {"thinking": NUM_QUESTIONS, "no_thinking": NUM_QUESTIONS}
    alone = analyse(tmp_path / "alone", **settings | {"no_thinking": "none"})["results"]["token_effects"]
    assert {row["group"]: row["n"] for row in both} == {row["group"]: row["n"] for row in alone}
    row = next(row for row in rows if row["mode"] == "no_thinking")
    model, tokenizer = load_model(model_dir, dtype="auto")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": row["question"]}], add_generation_prompt=True, tokenize=False
    )
    prefix, answer = (
        torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (f"{prompt}<think></think>\\boxed{{", row["answer"])
    )
    assert row["nll"][2] == pytest.approx(answer_nll(model, prefix, answer), abs=1e-4)


@pytest.mark.long
def test_an_interrupted_run_resumes(data: str, tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model_name_or_path": model_dir, "dataset_name": data}
    analyse(tmp_path / "whole", **settings)
    measured = experiment.measure_curves
    calls: list[int] = []

    def cut(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(experiment, "measure_curves", cut)
    with pytest.raises(KeyboardInterrupt):
        analyse(tmp_path / "cut", **settings)
    assert len(list((tmp_path / "cut").glob("curves-*.parquet"))) == 2
    analyse(tmp_path / "cut", **settings)
    assert len(calls) == 4  # three calls before the interruption; then one, for the last of three parts
    for name in ("curves.parquet", "pseudo_gradient.json", "page.html", "curves.svg"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.long
def test_processes_share_the_work(data: str, tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model_name_or_path": model_dir, "dataset_name": data}
    analyse(tmp_path / "alone", **settings)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        record = analyse(tmp_path / "shared", **settings)
        assert (record["status"] == "complete") == (rank == "1")
    assert read_rows(tmp_path / "shared" / "curves.parquet") == read_rows(tmp_path / "alone" / "curves.parquet")


def test_the_page_shows_trajectories_of_every_kind() -> None:
    rows = [
        MeasuredTrajectory(f"q{number}", "", "", 0, mode, correct, "abc", [3], [1.0, 0.5], 0, 1, None, [])
        for mode, correct, count in (("thinking", True, 9), ("thinking", False, 1), ("no_thinking", False, 5))
        for number in range(count)
    ]
    kinds = Counter((row.mode, row.correct) for row in choose_shown(rows, 7))
    assert kinds == {("thinking", True): 3, ("thinking", False): 1, ("no_thinking", False): 3}
    assert len(choose_shown(rows, 99)) == 15
    assert choose_shown([replace(row, ends=[]) for row in rows], 99) == []


@pytest.mark.long
def test_an_empty_trajectory_has_a_curve_of_a_single_place(tmp_path: Path, model_dir: str) -> None:
    [first, *_] = make_tasks(trajectories=True)
    empty = Task(first.question, (Trajectory("", False, "m"), *first.trajectories))
    write_shards(tmp_path / "data", [task_row(empty)], TRAJECTORIES)
    record = analyse(tmp_path / "out", model_name_or_path=model_dir, dataset_name=str(tmp_path / "data"))
    [row] = [row for row in read_rows(tmp_path / "out" / "curves.parquet") if not row["ends"]]
    assert (len(row["nll"]), row["start"], row["end"], row["sentences"]) == (1, 0, 0, [])
    assert [(row["trajectories"], row["left_out"]) for row in record["results"]["descent"]] == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"no_thinking": "never"}, "no_thinking 'never' is unknown"),
        ({"no_thinking": "empty", "engine": "server", "server_url": "http://x/v1"}, "engine server cannot do"),
        ({"window": 0}, "window"),
        ({"stub": ""}, "stub is empty"),
        ({"num_trajectories": 0}, "num_trajectories"),
    ],
)
def test_unusable_arguments_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PseudoGradientConfig(model_name_or_path="m", dataset_name="d", output_dir="o", prompt_style="bare", **settings)


def test_all_or_no_questions_must_have_trajectories(tmp_path: Path, model_dir: str) -> None:
    mixed = [*make_tasks(trajectories=True)[:2], *make_tasks(trajectories=False)[2:]]
    write_shards(tmp_path / "data", map(task_row, mixed), TRAJECTORIES)
    with pytest.raises(InputError, match="3 questions have no trajectory, first q2"):
        analyse(tmp_path / "out", model_name_or_path=model_dir, dataset_name=str(tmp_path / "data"))


@pytest.mark.long
def test_descent_follows_from_the_curves(data: str, tmp_path: Path, model_dir: str) -> None:
    record = analyse(tmp_path / "out", model_name_or_path=model_dir, dataset_name=data)
    rows = [row for row in read_rows(tmp_path / "out" / "curves.parquet") if row["correct"]]
    changes = []
    for row in rows:
        last = row["end"] if row["stated"] is None else min(row["end"], row["stated"] - 1)
        changes.append(row["nll"][last] - row["nll"][row["start"]])
    [right, _] = record["results"]["descent"]
    assert right["change"]["mean"] == pytest.approx(np.mean(changes), abs=1e-6)
