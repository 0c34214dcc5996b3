"""Tests that `prepare_data` keeps each row or counts it with the reason to leave it out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.reading import load_questions
from raml_trl.data.tables import open_table
from raml_trl.prepare_data import main
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import open_run

BENCHMARK = "How many positive integers below one thousand are divisible by seven but by no other prime number?"
ROWS: list[tuple[str, str, str | None]] = [
    ("What is $1+1$?", "2", None),
    ("What is  $1+1$ ?", "2", "near duplicate"),
    ("What is $1+1$?", "2", "duplicate"),
    ("See [here](https://example.org) what $2+2$ is", "4", None),
    ("In the figure below, what is $x$?", "4", "needs a figure"),
    ("De\x0cne $x$", "4", "garbled"),
    ("a=1," * 30, "4", "too long"),
    (f"Tell me: {BENCHMARK}", "20", "overlaps a benchmark"),
    ("What is blank?", "", "no answer"),
    (r"What is it? It is \boxed{7}", "7", "solution in the question"),
]


def prepare(directory: Path, **settings: Any) -> dict[str, Any]:
    config = PrepareDataConfig(output_dir=str(directory), **settings)
    main(config, open_run(directory, "prepare_data", {}))
    return json.loads((directory / "run.json").read_text())["results"]


def test_rows_pass_or_fail_each_check(tmp_path: Path, model_dir: str) -> None:
    rows = [
        [{"from": "human", "value": question}, {"from": "assistant", "ground_truth": {"value": answer}}]
        for question, answer, _ in ROWS
    ]
    (tmp_path / "orz.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "benchmark.jsonl").write_text(json.dumps({"problem": BENCHMARK, "answer": "20"}) + "\n")
    results = prepare(
        tmp_path / "out",
        dataset_name=str(tmp_path / "orz.json"),
        question_column="0.value",
        answer_column="1.ground_truth.value",
        tokenizer=model_dir,
        max_question_tokens=100,
        benchmarks=[str(tmp_path / "benchmark.jsonl")],
    )
    expected = Counter(reason for _, _, reason in ROWS if reason)
    assert results["left_out"] == expected
    assert results["rows"] == len(ROWS) == results["questions"] + sum(expected.values())
    assert results["questions_without_markup"] == 1
    assert [question.question for question in load_questions(str(tmp_path / "out"))] == [
        "What is $1+1$?",
        "See here what $2+2$ is",
    ]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in rejects] == [
        (number, reason) for number, (_, _, reason) in enumerate(ROWS) if reason
    ]
    [overlap] = [row["overlap"] for row in rejects if "overlap" in row]
    assert (overlap["benchmark"], overlap["question_id"], overlap["share"]) == ("benchmark.jsonl", "0", 1.0)
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {reason} " in report for reason in expected)
    assert "Compared with benchmark.jsonl" in report


def test_bad_lines_are_counted_and_a_killed_run_starts_again(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1", "answer": "2"}\noops\n{"problem": "1+2", "answer": "3"}\n')
    out = tmp_path / "out"
    out.mkdir()
    (out / ".questions-00000.parquet.1.partial").write_bytes(b"half")
    (out / ".rejects.jsonl.1.partial").write_bytes(b"half")
    results = prepare(out, dataset_name=str(tmp_path / "rows.jsonl"))
    assert results["left_out"] == {"line is not JSON": 1}
    names = {path.name for path in out.iterdir()}
    assert names == {"questions-00000.parquet", "rejects.jsonl", "report.md", "run.json"}


def test_trajectories_are_kept_and_their_layout_changed(tmp_path: Path) -> None:
    row = {"problem": "1+1", "answer": "2", "generations": ["one and one", "no idea"], "labels": [1, 0]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"problem": "1+ 1"}) + "\n")
    results = prepare(tmp_path / "out", dataset_name=str(tmp_path / "rows.jsonl"), layout="bare")
    assert (results["questions"], results["trajectories"], results["correct_trajectories"]) == (1, 2, 1)
    [written] = open_table(str(tmp_path / "out")).read()
    assert written["generations"] == [r"<think>one and one</think>\boxed{2}", "no idea"]


def test_an_empty_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"problem": "", "answer": "2"}\n')
    with pytest.raises(InputError, match=r"every question was left out: \{'no question': 1\}"):
        prepare(tmp_path / "out", dataset_name=str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_question_tokens": 5}, "tokenizer is None and max_question_tokens is 5: give both, or neither"),
        ({"min_overlap": 0.0}, "min_overlap must be a number above 0 and up to 1, got 0.0"),
        ({"ngram_size": 0}, "ngram_size must be a whole number from 1 to 1,000, got 0"),
        ({"layout": "loud"}, "prompt_style 'loud' is unknown"),
        ({"num_trajectories": 3}, "only `arithmetic` and `arithmetic_mixed` generate trajectories"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrepareDataConfig(output_dir="o", dataset_name="d", **settings)
