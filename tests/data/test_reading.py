"""Tests that questions and trajectories are read from rows of every format, and that unusable rows are rejected."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from raml_trl.data.config import TableArguments
from raml_trl.data.reading import load_questions, load_texts, open_data, read_tasks, stream_questions, stream_tasks
from raml_trl.data.records import Question, Reject, Task, Trajectory, task_row
from raml_trl.data.screening import REASONS
from raml_trl.data.shards import TRAJECTORIES, write_shards
from raml_trl.data.tables import open_table
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact
from raml_trl.runtime.errors import InputError

ROLLOUTS = [
    {"problem": "1+1", "answer": "2", "generations": ["two", "three", "2"], "labels": [1, 0, 1]},
    {"problem": "1+2", "answer": "3", "generations": ["x", "y", "z"], "labels": [0, 0, 0]},
]


def write(directory: Path, *rows: Any) -> str:
    path = directory / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(directory: Path, *rows: Any) -> list[Task | Reject]:
    return list(read_tasks(open_table(write(directory, *rows))))


def test_rollout_datasets(tmp_path: Path) -> None:
    first, second = read(tmp_path, *ROLLOUTS)
    assert isinstance(first, Task)
    assert first.question == Question("0", "1+1", "2", "data.jsonl")  # the source is the file's name, without its path
    assert [(trajectory.text, trajectory.correct, trajectory.model) for trajectory in first.trajectories] == [
        ("two", True, "unknown"),
        ("three", False, "unknown"),
        ("2", True, "unknown"),
    ]
    assert isinstance(second, Task)
    assert second.question.id == "1"


def test_ids_are_kept_and_numbers_become_text(tmp_path: Path) -> None:
    row = {"id": "aime-1", "question": "how many?", "answer": 204, "source": "aime"}
    assert load_questions(write(tmp_path, row)) == [Question("aime-1", "how many?", "204", "aime")]
    assert load_questions(write(tmp_path, row | {"answer": 204.0}))[0].answer == "204"
    assert load_questions(write(tmp_path, row | {"answer": 0.25}))[0].answer == "0.25"


GOOD = {"id": "good", "problem": "1+1", "answer": "2", "generations": [], "labels": [], "num_tokens": []}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"problem": None}, "no question"),
        ({"answer": None}, "no answer"),
        ({"problem": ["a"]}, "question is not text"),
        ({"answer": True}, "answer is not text"),
        ({"id": "good"}, "id has come before"),
        ({"generations": ["a"], "labels": None}, "generations without labels"),
        (
            {"generations": ["a", "b"], "labels": [1]},
            "generations, labels, models or counts of tokens differ in number",
        ),
        ({"generations": ["a"], "labels": ["0"]}, "a label is neither 0 nor 1"),
        ({"generations": [None], "labels": [1]}, "a generation is not text"),
        ({"generations": "a", "labels": [1]}, "generations is not a list"),
        ({"generations": ["a"], "labels": 1}, "labels is not a list"),
        ({"generations": ["a"], "labels": [1], "num_tokens": ["3"]}, "a count of tokens is not a whole number"),
    ],
)
def test_an_unusable_row_is_rejected(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good, reject, other = read(tmp_path, GOOD, GOOD | {"id": "bad"} | row, GOOD | {"id": "other"})
    assert isinstance(good, Task)
    assert isinstance(other, Task)
    assert isinstance(reject, Reject)
    assert (reject.row, reject.reason) == (1, reason)
    with pytest.raises(InputError, match="row 1: "):
        list(stream_tasks(open_table(write(tmp_path, GOOD, GOOD | {"id": "bad"} | row))))


def test_lines_that_are_not_rows_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('oops\n{"problem": "1+1", "answer": "2"}\n7\n')
    tasks = read_tasks(open_table(str(tmp_path / "data.jsonl")))
    reasons = [task.reason for task in tasks if isinstance(task, Reject)]
    assert reasons == ["line is not JSON", "not a row of columns"]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="is empty: it contains no row"):
        load_questions(str(tmp_path / "data.jsonl"))


def test_columns_and_answer_forms_of_a_recipe(tmp_path: Path) -> None:
    orz = [{"from": "human", "value": "1+1"}, {"ground_truth": {"value": "2"}}]
    columns = {"question_column": "0.value", "answer_column": "1.ground_truth.value"}
    [task] = read_tasks(open_data(TableArguments(dataset_name=write(tmp_path, orz), **columns)))
    assert isinstance(task, Task)
    assert (task.question.question, task.question.answer) == ("1+1", "2")
    name = write(tmp_path, {"question": "1+1", "answer": "add\n#### 2"})
    [task] = read_tasks(open_data(TableArguments(dataset_name=name, answer_form="hashes")))
    assert isinstance(task, Task)
    assert task.question.answer == "2"


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("1e-07", "0.0000001"),
        ("2.5e-05", "0.000025"),
        ("1e23", "1" + "0" * 23),
        ("12345678901234567890.5", "12345678901234567890.5"),
        ("3.0", "3"),
        ("-0.0", "0"),
        ("7", "7"),
        ("1.50", "1.50"),
    ],
)
def test_a_number_keeps_its_exact_value(tmp_path: Path, number: str, answer: str) -> None:
    for name, text in (("lines.jsonl", "{}\n"), ("array.json", "[{}]")):
        (tmp_path / name).write_text(text.format(f'{{"problem": "1+1", "answer": {number}}}'))
        [question] = load_questions(str(tmp_path / name))
        assert question.answer == answer
        assert exact(normalise(question.answer)) == Fraction(number)


def test_numbers_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    numbers = ("NaN", "Infinity", "-Infinity", "1e999", "1e-999", "5")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"problem": "p", "answer": {number}}}\n' for number in numbers))
    *rejects, task = read_tasks(open_data(TableArguments(dataset_name=str(tmp_path / "rows.jsonl"))))
    reasons = [reject.reason for reject in rejects if isinstance(reject, Reject)]
    assert reasons == [*["answer is NaN or infinite"] * 4, "answer is too small for a number"]
    assert set(reasons) < REASONS.keys()
    assert isinstance(task, Task)


def test_where_selects_rows(tmp_path: Path) -> None:
    rows = [{"problem": str(number), "answer": "1", "level": number % 3, "kind": "a b"} for number in range(9)]
    name = write(tmp_path, *rows)
    table = open_data(TableArguments(dataset_name=name, where=["level=2", "kind = a b"]))
    assert [question.id for question in stream_questions(table)] == ["2", "5", "8"]
    assert table.signature != open_data(TableArguments(dataset_name=name, where=["level=1"])).signature
    with pytest.raises(InputError, match="has no column grade"):
        list(stream_questions(open_data(TableArguments(dataset_name=name, where=["grade=1"]))))
    with pytest.raises(InputError, match="where must have the form COLUMN=VALUE, got 'level'"):
        TableArguments(dataset_name=name, where=["level"])


def test_multiple_choice(tmp_path: Path) -> None:
    rows = [
        {"Question": f"Which? {number}", "Right": "yes", "Wrong 1": "no", "Wrong 2": "perhaps"} for number in range(40)
    ]
    choices = ["Right", "Wrong 1", "Wrong 2"]
    table = open_data(TableArguments(dataset_name=write(tmp_path, *rows), choice_columns=choices))
    questions = list(stream_questions(table))
    for question in questions:
        lines = question.question.splitlines()
        assert f"({question.answer}) yes" in lines
        assert sorted(line[4:] for line in lines[2:]) == ["no", "perhaps", "yes"]
    assert {question.answer for question in questions} == {"A", "B", "C"}
    assert list(stream_questions(table)) == questions
    for columns in (["Right"], [f"Option {number}" for number in range(11)]):
        with pytest.raises(InputError, match=f"choice_columns needs 2 to 10 columns, got {len(columns)}: .* A to J"):
            TableArguments(dataset_name="d", choice_columns=columns)


def test_an_unreadable_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the grader cannot read the answer '' of question 0"):
        load_questions(write(tmp_path, {"problem": "1+1", "answer": ""}))


def test_written_tasks_are_read_back(tmp_path: Path) -> None:
    tasks = [
        Task(Question("a", "1+1", "2", "s"), (Trajectory("x", True, "m", 3), Trajectory("é\n", False, "m", None))),
        Task(Question("b", "1+2", "3", "s")),
    ]
    write_shards(tmp_path, map(task_row, tasks), TRAJECTORIES)
    assert list(read_tasks(open_table(str(tmp_path)))) == tasks
    assert [question.id for question in load_questions(str(tmp_path))] == ["a", "b"]
    assert list(load_texts(str(tmp_path))) == ["1+1", "x", "é\n", "1+2"]
