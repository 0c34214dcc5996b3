"""Reading questions and trajectories in every shape, and choosing K of them."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raml_trl.data import (
    Question,
    Trajectory,
    choose_trajectories,
    grpo_rows,
    load_questions,
    load_texts,
    load_trajectories,
    sft_rows,
)
from raml_trl.errors import InputError

ROLLOUTS = [
    {"problem": "1+1", "answer": "2", "generations": ["two", "three", "2"], "labels": [1, 0, 1]},
    {"problem": "1+2", "answer": "3", "generations": ["x", "y", "z"], "labels": [0, 0, 0]},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_rollout_data_sets_are_read_in_every_format(tmp_path: Path, suffix: str) -> None:
    questions, trajectories = load_trajectories(write(tmp_path / f"rollouts.{suffix}", ROLLOUTS))
    assert [(question.id, question.question, question.answer) for question in questions] == [
        ("0", "1+1", "2"),
        ("1", "1+2", "3"),
    ]
    assert [(one.question_id, one.text, one.correct) for one in trajectories[:3]] == [
        ("0", "two", True),
        ("0", "three", False),
        ("0", "2", True),
    ]
    assert len(trajectories) == 6


def test_questions_keep_their_id_and_numbers_become_text(tmp_path: Path) -> None:
    rows = [{"id": "aime-1", "question": "how many?", "answer": 204, "source": "aime"}]
    assert load_questions(write(tmp_path / "q.jsonl", rows)) == [Question("aime-1", "how many?", "204", "aime")]


def test_texts_of_both_shapes(tmp_path: Path) -> None:
    texts = list(load_texts(write(tmp_path / "rollouts.jsonl", ROLLOUTS)))
    assert texts[:3] == ["1+1", "1+2", "two"]
    assert len(texts) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "1+1"}\n', "has no column answer: its columns are problem"),
        ('{"text": "1+1", "answer": "2"}\n', "has no column question or problem"),
        ('{"problem": "1+1", "answer": null}\n', "row 0: answer must be text, got None"),
        ('{"problem": "1+1", "answer": ""}\n', "cannot read 1 of 1 answers, the first of them '' of question 0"),
        ('{"id": 7, "problem": "a", "answer": "2"}\n' * 2, "row 1: id '7' has come before"),
        ("", "is empty"),
        ('{"problem": "1+1", "ans', "cannot be read"),
        ("version https://git-lfs.github.com/spec/v1\n", "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=message) as refusal:
        load_questions(str(tmp_path / "bad.jsonl"))
    assert "bad.jsonl" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_questions(str(tmp_path / "missing.jsonl"))
    with pytest.raises(InputError, match="neither a directory made by prepare_data nor"):
        load_questions(str(tmp_path))


def test_a_hub_data_set_out_of_reach_is_named() -> None:
    with pytest.raises(InputError, match="dataset_name someone/something cannot be read: Couldn't reach"):
        load_questions("someone/something")


def test_labels_must_match_generations(tmp_path: Path) -> None:
    rows = [{"problem": "1+1", "answer": "2", "generations": ["a", "b"], "labels": [1]}]
    with pytest.raises(InputError, match="2 generations, 1 labels"):
        load_trajectories(write(tmp_path / "r.jsonl", rows))


QUESTIONS = [Question(str(number), f"q{number}", "0", "test") for number in range(20)]
TRAJECTORIES = [
    Trajectory(question.id, f"{question.id}-{number}", correct=number < int(question.id) % 6, model="m")
    for question in QUESTIONS
    for number in range(6)
]


@pytest.mark.parametrize("k", [1, 2, 4, 100, None])
def test_k_changes_diversity_and_nothing_else(k: int | None) -> None:
    chosen = choose_trajectories(QUESTIONS, TRAJECTORIES, k, seed=0)
    correct = {question.id: int(question.id) % 6 for question in QUESTIONS}
    examples = Counter(question.id for question, _ in chosen)
    assert examples == Counter({name: count for name, count in correct.items() if count})
    for name, count in correct.items():
        texts = Counter(trajectory.text for question, trajectory in chosen if question.id == name)
        assert len(texts) == min(count, count if k is None else k)
        assert max(texts.values(), default=0) - min(texts.values(), default=0) <= 1
    assert all(trajectory.correct and trajectory.question_id == question.id for question, trajectory in chosen)


def test_chosen_trajectories_are_nested_and_keyed() -> None:
    def texts(k: int, seed: int = 0) -> set[str]:
        return {trajectory.text for _, trajectory in choose_trajectories(QUESTIONS, TRAJECTORIES, k, seed)}

    assert texts(1) < texts(2) < texts(4)
    assert texts(2) == texts(2)
    assert texts(2) != texts(2, seed=1)


def test_the_same_text_twice_is_one_trajectory() -> None:
    twice = [
        Trajectory("0", "same", True, "m"),
        Trajectory("0", "same", True, "m"),
        Trajectory("0", "other", True, "m"),
    ]
    chosen = choose_trajectories(QUESTIONS[:1], twice, 2, seed=0)
    assert len(chosen) == 3
    assert {trajectory.text for _, trajectory in chosen} == {"same", "other"}


def test_nothing_correct_is_refused() -> None:
    with pytest.raises(InputError, match="no trajectory is correct"):
        choose_trajectories(QUESTIONS[:1], [Trajectory("0", "wrong", False, "m")], 1, seed=0)


def test_rows_for_the_trainers() -> None:
    [row] = sft_rows([(QUESTIONS[0], Trajectory("0", "text", True, "m"))], "bare")
    assert row == {
        "prompt": [{"role": "user", "content": "q0"}],
        "completion": [{"role": "assistant", "content": "text"}],
    }
    [row] = grpo_rows(QUESTIONS[:1], "bare")
    assert row == {"prompt": [{"role": "user", "content": "q0"}], "answer": "0"}


@pytest.mark.parametrize(("k", "distinct"), [(1, 887), (2, 1483), (4, 1994)])
def test_gsm8k_rollouts(shared_data: Path, k: int, distinct: int) -> None:
    questions, trajectories = load_trajectories(str(shared_data / "gsm8k_rollouts_4x.jsonl.gz"))
    assert (len(questions), len(trajectories)) == (1319, 5276)
    chosen = choose_trajectories(questions, trajectories, k, seed=0)
    # questions with 1, 2, 3, 4 correct trajectories: 290, 236, 205, 156
    assert len(chosen) == 290 + 2 * 236 + 3 * 205 + 4 * 156 == 2001
    assert len({question.id for question, _ in chosen}) == 290 + 236 + 205 + 156 == 887
    # 887 + 597 less 1, and 2001 less 7: now and then two models wrote the same word for word
    assert len({(question.id, trajectory.text) for question, trajectory in chosen}) == distinct
