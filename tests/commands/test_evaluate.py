"""Tests `evaluate` and `compare`: resumed sampling, metrics from samples, votes, comparisons and real benchmarks."""

import json
import re
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from raml_trl import compare, report
from raml_trl import evaluate as command
from raml_trl.compare import CompareConfig
from raml_trl.data.config import TableArguments
from raml_trl.data.reading import open_data, stream_questions
from raml_trl.data.records import Question, Task, task_row
from raml_trl.data.shards import QUESTIONS, SAMPLES, SCHEMAS, shard_path, write_shard, write_shards
from raml_trl.evaluate import main, publish
from raml_trl.evaluation.metrics import mg_pass_at_k, pass_at_k
from raml_trl.evaluation.samples import read_samples
from raml_trl.evaluation.voting import Votes
from raml_trl.hub import model_card
from raml_trl.hub.model_card import add_results
from raml_trl.report import ReportConfig
from raml_trl.runtime import locks
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows, whole_file, write_rows
from raml_trl.runtime.runs import open_run
from raml_trl.sampling import sharded
from raml_trl.sampling.config import EvaluateConfig
from tests.helpers.openai_server import Answer, OpenAIServer, Request

NUM_QUESTIONS, NUM_SAMPLES = 7, 4


@pytest.fixture
def data(tmp_path: Path) -> str:
    questions = [Question(str(number), f"Double {number}", str(2 * number), "test") for number in range(NUM_QUESTIONS)]
    write_shards(tmp_path / "data", [task_row(Task(question)) for question in questions], QUESTIONS)
    return str(tmp_path / "data")


def model(request: Request) -> Answer:
    """Answers correctly with a probability that decreases with the number in the question."""
    number = int(request["messages"][-1]["content"].split()[1])
    return Answer(rf"\boxed{{{2 * number + (request['seed'] % NUM_QUESTIONS < number)}}}", 3)


def evaluate(directory: Path, **settings: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"prompt_style": "boxed", "num_samples": NUM_SAMPLES, "k": [1, 2], "questions_per_shard": 2}
    config = EvaluateConfig(output_dir=str(directory), **(given | settings))
    record = open_run(directory, "evaluate", settings)
    if not record.complete:
        main(config, record)
    if record.complete:
        publish(config, record)
    return json.loads((directory / "run.json").read_text())


def from_server(server: OpenAIServer, data: str) -> dict[str, Any]:
    return {
        **{"model_name_or_path": server.model, "engine": "server", "server_url": server.url, "dataset_name": data},
        **{"num_graders": 1, "max_completion_length": 40},
    }


@pytest.mark.long
def test_metrics_follow_from_the_samples(data: str, tmp_path: Path) -> None:
    with OpenAIServer(model) as server:
        record = evaluate(tmp_path / "out", **from_server(server, data))
    assert record["status"] == "complete"
    rows = read_rows(tmp_path / "out" / "samples.parquet")
    assert [(row["question_id"], row["sample"]) for row in rows] == [
        (str(question), sample) for question in range(NUM_QUESTIONS) for sample in range(NUM_SAMPLES)
    ]
    correct = [
        sum(row["correct"] for row in rows if row["question_id"] == str(number)) for number in range(NUM_QUESTIONS)
    ]
    assert 0 < sum(correct) < len(rows)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name, metric, k in (("pass@1", pass_at_k, 1), ("pass@2", pass_at_k, 2), ("mg_pass@2", mg_pass_at_k, 2)):
        values = [metric(NUM_SAMPLES, c, k) for c in correct]
        assert metrics["metrics"][name]["mean"] == pytest.approx(sum(values) / NUM_QUESTIONS)
    assert sum(metrics["outcomes"].values()) == len(rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "metrics.json", "samples.parquet"}


def test_from_samples_computes_metrics_for_other_k(data: str, tmp_path: Path) -> None:
    with OpenAIServer(model) as server:
        settings = from_server(server, data)
        first = evaluate(tmp_path / "out", **settings)
        num_requests = len(server.requests)
        samples = str(tmp_path / "out" / "samples.parquet")
        again = evaluate(tmp_path / "again", **settings, from_samples=samples)
        other = evaluate(tmp_path / "other", **settings, from_samples=samples, k=[4])
        assert len(server.requests) == num_requests
        with pytest.raises(InputError, match="k = 8, but a question has only 4 samples"):
            evaluate(tmp_path / "more", **settings, from_samples=samples, k=[8], num_samples=8)
        with pytest.raises(InputError, match="cannot be read"):
            evaluate(tmp_path / "none", **settings, from_samples=str(tmp_path / "none.parquet"))
    assert again["results"] == first["results"]
    assert set(other["results"]["metrics"]) == {"pass@4", "mg_pass@4", "maj@4"}


@pytest.mark.long
def test_interrupted_run_continues(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer(model) as server:
        settings = from_server(server, data)
        whole = evaluate(tmp_path / "whole", **settings)
        num_requests = len(server.requests)
        # One of two processes has finished its share, as after a kill; then the last process completes the run.
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert evaluate_part(tmp_path / "out", **settings) == ["samples-00001.parquet", "samples-00003.parquet"]
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("RANK", "0")
        record = evaluate(tmp_path / "out", **settings)
        assert len(server.requests) == 2 * num_requests
    assert record["results"] == whole["results"]
    samples = [(tmp_path / name / "samples.parquet").read_bytes() for name in ("whole", "out")]
    assert samples[0] == samples[1]


def evaluate_part(directory: Path, **settings: Any) -> list[str]:
    """Evaluates as one of several processes. Returns the shards that exist afterwards."""
    assert evaluate(directory, **settings)["status"] == "running"
    return sorted(path.name for path in directory.glob("*.parquet"))


@pytest.fixture
def drawn(data: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Makes a run whose shards are all there, and returns its directory and its settings. There is no server."""
    directory = tmp_path / "out"
    server = {"engine": "server", "server_url": "http://127.0.0.1:1/v1"}
    settings = {"model_name_or_path": "tiny", "dataset_name": data, "num_graders": 1, **server}
    open_run(directory, "evaluate", settings)
    rest = {"text": "", "formatted": True, "vote": 0, "num_tokens": 1, "finished": True}
    for shard, first in enumerate(range(0, NUM_QUESTIONS, 2)):
        rows = [
            {"question_id": str(question), "sample": sample, "correct": sample < 2, "outcome": "wrong", **rest}
            for question in range(first, min(first + 2, NUM_QUESTIONS))
            for sample in range(NUM_SAMPLES)
        ]
        write_shard(shard_path(directory, SAMPLES, shard), rows, SAMPLES, {})
    return directory, settings


def test_only_one_of_the_processes_that_find_all_shards_completes_the_run(
    drawn: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process comes when the first computes the metrics, and a third is about to write a file."""
    directory, settings = drawn
    measured, seen = command.sample_metrics, []
    with ExitStack() as third:

        def meanwhile(*arguments: Any, **named: Any) -> Any:
            if not seen:
                third.enter_context(whole_file(directory / "other")).touch()
                seen.append("first")
                seen.append(evaluate(directory, **settings)["status"])
            return measured(*arguments, **named)

        monkeypatch.setattr(command, "sample_metrics", meanwhile)
        assert evaluate(directory, **settings)["status"] == "complete"
    assert seen == ["first", "running"]
    names = {path.name for path in directory.iterdir()}
    assert names == {"run.json", "metrics.json", "samples.parquet", "other"}


def test_a_process_that_comes_when_the_run_is_complete_draws_nothing(
    drawn: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, settings = drawn
    monkeypatch.delattr(sharded, "open_engine")
    late = open_run(directory, "evaluate", settings)
    evaluate(directory, **settings)
    given = {"prompt_style": "boxed", "num_samples": NUM_SAMPLES, "k": [1, 2], "questions_per_shard": 2}
    main(EvaluateConfig(output_dir=str(directory), **given, **settings), late)
    assert {path.name for path in directory.iterdir()} == {"run.json", "metrics.json", "samples.parquet"}


def test_a_damaged_shard_of_another_process_is_missing(
    drawn: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that is responsible for the shard writes it again."""
    directory, settings = drawn
    shard = shard_path(directory, SAMPLES, 0)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-50])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert evaluate(directory, **settings)["status"] == "running"
    shard.write_bytes(whole)
    assert evaluate(directory, **settings)["status"] == "complete"


# Completions and the values of their answers. `varied_model` also draws from two spellings of the correct answer.
COMPLETIONS: list[tuple[str, Fraction | None]] = [
    (r"\boxed{1/2}", Fraction(1, 2)),
    (r"\boxed{0.5}", Fraction(1, 2)),
    (r"\boxed{\frac{1}{2}}", Fraction(1, 2)),
    (r"\boxed{\frac{7}{4}}", Fraction(7, 4)),
    (r"\boxed{1.75}", Fraction(7, 4)),
    ("I pass", None),
    (r"\boxed{\foo(3}", None),
]


def varied_model(request: Request) -> Answer:
    """Answers correctly about half of the time, in two spellings, and otherwise with one of `COMPLETIONS`."""
    number = int(request["messages"][-1]["content"].split()[1])
    texts = [*(text for text, _ in COMPLETIONS), *[rf"\boxed{{{2 * number}}}", rf"\boxed{{{2 * number}.0}}"] * 3]
    return Answer(texts[(request["seed"] * 7919 + 31 * number) % len(texts)], 3)


@pytest.mark.children
def test_votes_and_thresholds_equal_the_enumeration_of_draws(data: str, tmp_path: Path) -> None:
    n, ks, taus = 6, [1, 3, 4, 6], [0.25, 0.5, 1]
    with OpenAIServer(varied_model) as server:
        settings = from_server(server, data) | {"num_samples": n, "k": ks, "g_pass_thresholds": taus}
        metrics = evaluate(tmp_path / "out", **settings)["results"]["metrics"]
    rows = read_rows(tmp_path / "out" / "samples.parquet")
    values_of_questions = []
    for number in range(NUM_QUESTIONS):
        values = dict(COMPLETIONS) | {rf"\boxed{{{2 * number}{zeros}}}": Fraction(2 * number) for zeros in ("", ".0")}
        question_rows = [row for row in rows if row["question_id"] == str(number)]
        answers = [values[row["text"]] for row in question_rows]
        values_of_questions.append(answers)
        distinct = [value for value in dict.fromkeys(answers) if value is not None]
        votes = [None if value is None else distinct.index(value) for value in answers]
        assert [row["vote"] for row in question_rows] == votes
    ties = 0
    for k in ks:
        won, reached = Fraction(0), dict.fromkeys(taus, Fraction(0))
        for number, answers in enumerate(values_of_questions):
            draws = list(combinations(answers, k))
            for draw in draws:
                counts = Counter(value for value in draw if value is not None)
                winners = [value for value, count in counts.items() if count == max(counts.values())]
                won += Fraction(2 * number in winners, max(1, len(winners)) * len(draws))
                ties += len(winners) > 1 and 2 * number in winners
                for tau in taus:
                    reached[tau] += Fraction(draw.count(Fraction(2 * number)) >= tau * k, len(draws))
        majority = metrics["pass@1" if k == 1 else f"maj@{k}"]["mean"]
        assert majority == pytest.approx(float(won / NUM_QUESTIONS), abs=1e-12)
        for tau in taus:
            assert metrics[f"g_pass@{k}_{tau}"]["mean"] == pytest.approx(float(reached[tau] / NUM_QUESTIONS), abs=1e-12)
    assert ties  # otherwise the case of several answers with equally many votes would not be tested
    assert metrics["maj@6"]["mean"] != metrics["pass@1"]["mean"]


def test_samples_without_votes_have_all_metrics_but_the_vote(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OpenAIServer(model) as server:
        settings = from_server(server, data)
        whole = evaluate(tmp_path / "out", **settings)["results"]
        table = pq.read_table(tmp_path / "out" / "samples.parquet")
        pq.write_table(table.drop_columns("vote"), tmp_path / "older.parquet")
        assert not caplog.records
        older = evaluate(tmp_path / "older", **settings, from_samples=str(tmp_path / "older.parquet"))["results"]
    assert "older.parquet have no column vote, because they are from an older version: no maj@k" in caplog.text
    assert list(older["metrics"]) == ["pass@1", "pass@2", "mg_pass@2"]
    assert older == whole | {"metrics": {name: whole["metrics"][name] for name in older["metrics"]}}
    # `compare` and `report` also leave maj@k out. The run with from_samples has written no samples.parquet, so move it.
    (tmp_path / "older.parquet").rename(tmp_path / "older" / "samples.parquet")
    runs = [f"{name}={tmp_path}/{name}" for name in ("out", "older")]
    compare.main(
        CompareConfig(output_dir=str(tmp_path / "compare"), evaluations=runs, k=[1, 2]),
        open_run(tmp_path / "compare", "compare", {}),
    )
    assert set(json.loads((tmp_path / "compare" / "comparison.json").read_text())) == {"pass@1", "pass@2", "mg_pass@2"}
    report.main(
        ReportConfig(output_dir=str(tmp_path / "report"), evaluations=runs),
        open_run(tmp_path / "report", "report", {}),
    )
    header = (tmp_path / "report" / "report.md").read_text().split("|")
    assert [cell.strip() for cell in header[1:6]] == ["stage", "Pass@1", "Pass@2", "mG-Pass@2", ""]  # no training


@pytest.mark.parametrize(
    ("votes", "correct", "expected"),
    [
        ([0, 1, 0, None], [0, 1, 0, 0], Votes((2, 1), 1, 1)),
        ([2, 2, 5, None], [1, 1, 0, 0], Votes((2, 1), 0, 1)),  # some samples were removed
        ([0, None, 0, 1], [0, 0, 0, 0], Votes((2, 1), None, 1)),
        ([None] * 4, [0, 0, 0, 0], Votes((), None, 4)),
        ([0, 1, 0, None], [1, 1, 1, 0], None),  # two answers are correct
        ([0, 1, 0, None], [1, 0, 0, 0], None),  # the same answer is correct and wrong
        ([0, 1, 0, None], [0, 0, 0, 1], None),  # an abstaining sample is correct
    ],
)
def test_votes_are_used_only_if_they_match_the_grades(
    votes: list[int | None],
    correct: list[int],
    expected: Votes | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rest = {"text": "", "formatted": True, "outcome": "wrong", "num_tokens": 1, "finished": True}
    rows = [
        {"question_id": question, "sample": sample, "correct": bool(right), "vote": vote, **rest}
        for question in ("a", "b")
        for sample, (vote, right) in enumerate(zip(votes, correct, strict=True))
    ]
    write_rows(tmp_path / "samples.parquet", rows, SCHEMAS[SAMPLES])
    counted = read_samples(tmp_path / "samples.parquet").votes
    assert counted == (None if expected is None else (expected, expected))
    assert ("the votes of question a contradict its grades: no maj@k" in caplog.text) == (expected is None)


@pytest.mark.long
def test_run_started_by_a_version_without_votes_continues(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(model) as server:
        settings = from_server(server, data)
        whole = evaluate(tmp_path / "whole", **settings)["results"]
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        evaluate_part(tmp_path / "out", **settings)
        shard = tmp_path / "out" / "samples-00001.parquet"
        table = pq.read_table(shard)
        pq.write_table(table.drop_columns("vote"), shard)
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("RANK", "0")
        results = evaluate(tmp_path / "out", **settings)["results"]
    assert any(table["correct"].to_pylist())  # a correct sample has a vote, so the shard had votes
    kept = {name: value for name, value in whole["metrics"].items() if "maj" not in name}
    assert results == whole | {"metrics": kept}
    written = pq.read_schema(tmp_path / "out" / "samples.parquet")
    assert written.names == SCHEMAS[SAMPLES].names


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_threshold_outside_0_to_1_is_rejected(threshold: float) -> None:
    with pytest.raises(InputError, match=r"g_pass_thresholds must be a list .* each a number from 0 to 1, got "):
        EvaluateConfig(
            model_name_or_path="m", dataset_name="d", output_dir="o", num_samples=8, g_pass_thresholds=[0.5, threshold]
        )


@pytest.mark.children
def test_votes_are_compared_by_question(data: str, tmp_path: Path) -> None:
    with OpenAIServer(varied_model) as server:
        settings = from_server(server, data) | {"num_samples": 6}
        first = evaluate(tmp_path / "first", **settings)["results"]["metrics"]
        other = evaluate(tmp_path / "other", **settings, seed=1)["results"]["metrics"]
        rows = read_rows(tmp_path / "first" / "samples.parquet")
        write_rows(tmp_path / "reversed.parquet", rows[::-1], SCHEMAS[SAMPLES])
        evaluate(tmp_path / "reversed", **settings, from_samples=str(tmp_path / "reversed.parquet"))
        (tmp_path / "reversed.parquet").rename(tmp_path / "reversed" / "samples.parquet")
    runs = [f"{name}={tmp_path}/{name}" for name in ("first", "reversed", "other")]
    compare.main(
        CompareConfig(output_dir=str(tmp_path / "compare"), evaluations=runs, k=[2]),
        open_run(tmp_path / "compare", "compare", {}),
    )
    compared = json.loads((tmp_path / "compare" / "comparison.json").read_text())["maj@2"]
    assert compared["first"]["mean"] == first["maj@2"]["mean"] != other["maj@2"]["mean"] == compared["other"]["mean"]
    assert compared["reversed"]["difference"] == {"mean": 0, "low": 0, "high": 0, "p_value": 1}
    change = other["maj@2"]["mean"] - first["maj@2"]["mean"]
    assert compared["other"]["difference"]["mean"] == pytest.approx(change)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "settings", "number", "answer"),
    [
        ("aime24.jsonl", {}, 30, "73"),
        ("aime25.jsonl", {}, 30, "70"),
        ("math500.jsonl.gz", {}, 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("math500.jsonl.gz", {"where": ["level=5"]}, 134, None),
        ("gsm8k_test.jsonl.gz", {}, 1319, "18"),
        ("gsm8k_test.jsonl.gz", {"answer_column": "solution", "answer_form": "hashes"}, 1319, "18"),
    ],
)
def test_real_benchmarks(
    shared_data: Path, name: str, settings: dict[str, Any], number: int, answer: str | None
) -> None:
    table = open_data(TableArguments(dataset_name=str(shared_data / name), **settings))
    questions = list(stream_questions(table))
    assert len(questions) == number
    assert answer is None or questions[0].answer == answer


@pytest.mark.long
def test_compare(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with OpenAIServer(model) as server:
        evaluate(tmp_path / "model", **from_server(server, data))
    with OpenAIServer(lambda request: Answer("I pass", 1)) as server:
        evaluate(tmp_path / "nothing", **from_server(server, data))
    runs = [f"model={tmp_path}/model", f"same={tmp_path}/model", f"nothing={tmp_path}/nothing"]
    config = CompareConfig(output_dir=str(tmp_path / "compare"), evaluations=runs, k=[1, 2])
    compare.main(config, open_run(tmp_path / "compare", "compare", {}))
    compared = json.loads((tmp_path / "compare" / "comparison.json").read_text())
    assert set(compared) == {"pass@1", "pass@2", "mg_pass@2", "maj@2"}
    mean = compared["pass@1"]["model"]["mean"]
    assert compared["pass@1"]["same"]["difference"] == {"mean": 0, "low": 0, "high": 0, "p_value": 1}
    assert compared["pass@1"]["nothing"]["difference"]["mean"] == pytest.approx(-mean)
    assert compared["pass@1"]["nothing"]["difference"]["p_value"] < 0.05
    for name in ("model", "nothing"):  # a run has the intervals of its own evaluation
        own = json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]
        assert {metric: compared[metric][name]["low"] for metric in compared} == {
            metric: own[metric]["low"] for metric in compared
        }
    assert capsys.readouterr().out.strip() == (tmp_path / "compare" / "comparison.md").read_text().strip()


@pytest.mark.long
def test_evaluations_that_cannot_be_compared(data: str, tmp_path: Path) -> None:
    with OpenAIServer(model) as server:
        evaluate(tmp_path / "all", **from_server(server, data))
        evaluate(tmp_path / "some", **from_server(server, data), num_questions=3)
    for evaluations, k, message in (
        ([f"a={tmp_path}/all", f"b={tmp_path}/some"], [1], "b and a are evaluations of different questions"),
        ([f"a={tmp_path}/all", f"b={tmp_path}/all"], [8], "k = 8, but a has a question with 4 samples"),
        ([f"a={tmp_path}/all", f"b={tmp_path}/data"], [1], "holds no run"),
    ):
        config = CompareConfig(output_dir=str(tmp_path / "out"), evaluations=evaluations, k=k)
        with pytest.raises(InputError, match=message):
            compare.main(config, open_run(tmp_path / "out", "compare", {}))
    for wrong in (["a=x"], ["a=x", "a=y"], ["a=x", "b"]):
        with pytest.raises(InputError, match="evaluations must be two or more of the form name=DIR"):
            CompareConfig(output_dir="o", evaluations=wrong)


def test_questions_with_unequal_numbers_of_samples(data: str, tmp_path: Path) -> None:
    with OpenAIServer(model) as server:
        evaluate(tmp_path / "out", **from_server(server, data))
        rows = read_rows(tmp_path / "out" / "samples.parquet")
        write_rows(tmp_path / "fewer.parquet", rows[1:], SCHEMAS[SAMPLES])
        record = evaluate(tmp_path / "again", **from_server(server, data), from_samples=str(tmp_path / "fewer.parquet"))
    grades = [[row["correct"] for row in rows[1:] if row["question_id"] == str(id_)] for id_ in range(NUM_QUESTIONS)]
    expected = sum(sum(question) / len(question) for question in grades) / NUM_QUESTIONS
    assert record["results"]["metrics"]["pass@1"]["mean"] == pytest.approx(expected)
    assert record["results"]["samples_per_question"] == [3, 4]


@pytest.mark.long
def test_several_models_in_one_call(data: str, tmp_path: Path) -> None:
    with OpenAIServer(model) as server:
        record = evaluate(tmp_path / "out", **from_server(server, data), models=["other"])
    assert record["status"] == "complete"
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(compared["pass@1"]) == ["tiny", "other"]
    assert compared["pass@1"]["other"]["difference"]["p_value"] == 1  # the server has the same model under both names
    for name in ("tiny", "other"):
        assert json.loads((tmp_path / "out" / name / "run.json").read_text())["status"] == "complete"
        assert (tmp_path / "out" / name / "samples.parquet").is_file()


@pytest.fixture
def of_samples(tmp_path: Path) -> dict[str, Any]:
    """Settings of an evaluation that reads its samples from a file and updates the card of a model."""
    rows = [
        {"question_id": "0", "sample": sample, "text": "", "correct": False, "formatted": False, "outcome": "no_answer"}
        | {"vote": None, "num_tokens": 1, "finished": True}
        for sample in range(2)
    ]
    write_rows(tmp_path / "samples.parquet", rows, SCHEMAS[SAMPLES])
    (tmp_path / "model").mkdir()
    settings: dict[str, Any] = {"from_samples": str(tmp_path / "samples.parquet"), "k": [1], "num_samples": 2}
    return settings | {"model_name_or_path": str(tmp_path / "model"), "update_card": True, "dataset_name": "d"}


def test_an_evaluation_is_complete_before_it_updates_the_card(tmp_path: Path, of_samples: dict[str, Any]) -> None:
    card = tmp_path / "model/README.md"
    for text in ("---\nmodel-index: 7\n---\n# Mine\n", "---\nmodel: [\n---\n# Mine\n"):
        card.write_text(text)
        with pytest.raises(InputError, match=r"update_card: the metadata of .*README\.md cannot be read.*run the same"):
            evaluate(tmp_path / "out", **of_samples)
        assert card.read_text() == text
    assert evaluate(tmp_path / "out", **of_samples | {"update_card": False})["status"] == "complete"
    card.unlink()
    evaluate(tmp_path / "out", **of_samples)  # the complete run only writes the card
    assert [result.dataset_name for result in ModelCard.load(card).data.eval_results] == ["d"]


def test_a_run_of_an_older_version_that_recorded_update_card_is_the_same_run(
    tmp_path: Path, of_samples: dict[str, Any]
) -> None:
    evaluate(tmp_path / "out", **of_samples)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert "update_card" not in record["settings"]
    record["settings"]["update_card"] = True
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    evaluate(tmp_path / "out", **of_samples)


def test_two_evaluations_may_update_a_card_at_the_same_time(
    tmp_path: Path, of_samples: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {name: value for name, value in of_samples.items() if name != "dataset_name"}
    other = threading.Thread(target=evaluate, args=(tmp_path / "b",), kwargs={**settings, "dataset_name": "b"})
    write_card, other_waits_or_has_written = model_card.write_card, threading.Event()

    def write(path: Path, text: str) -> None:
        if threading.current_thread() is not other:  # the first evaluation has read the card, but not yet written it
            other.start()
            assert other_waits_or_has_written.wait(60)
        write_card(path, text)
        other_waits_or_has_written.set()

    monkeypatch.setattr(model_card, "write_card", write)
    monkeypatch.setattr(locks.logger, "info", lambda *_: other_waits_or_has_written.set())
    evaluate(tmp_path / "a", **settings, dataset_name="a")
    other.join(60)
    results = ModelCard.load(tmp_path / "model" / "README.md").data.eval_results
    assert [result.dataset_name for result in results] == ["a", "b"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["README.md"]


def test_results_are_written_into_the_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\ntags: [a]\n---\n# Mine\n")
    value = {"mean": 0.25, "low": 0.2, "high": 0.3}
    add_results(tmp_path, dataset="aime", split="test", metrics={"pass@1": value}, samples=[4])
    add_results(tmp_path, dataset="x | <b>", split="test", metrics={"pass@1": value, "pass@8": value}, samples=[3, 4])
    add_results(tmp_path, dataset="aime", split="test", metrics={"pass@1": value | {"mean": 0.5}}, samples=[4])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.startswith("# Mine\n\n## Evaluation\n")
    assert re.findall(r"^\| (\S+, test) .* \| ([\d.]+) \|$", card.text, re.MULTILINE) == [("aime, test", "0.5")]
    assert "| x &#124; &#60;b&#62;, test | pass&#64;1, 3 to 4 samples," in card.text
    assert card.data.library_name == "transformers"
    values = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert values == {("aime", "pass@1"): 0.5, ("x | <b>", "pass@1"): 0.25, ("x | <b>", "pass@8"): 0.25}
    assert "4 samples, 95 % interval 0.200 to 0.300" in {result.metric_name for result in card.data.eval_results}.pop()


def test_model_without_a_card_gets_a_new_card(tmp_path: Path) -> None:
    add_results(tmp_path, dataset="d", split="s", metrics={"pass@1": {"mean": 1, "low": 1, "high": 1}}, samples=[1])
    assert ModelCard.load(tmp_path / "README.md").data.model_name == tmp_path.name


def test_missing_dashboard_is_reported(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with OpenAIServer(model) as server, pytest.raises(InputError, match="report_to is trackio, which is not installed"):
        evaluate(tmp_path / "out", **from_server(server, data), report_to="trackio")
