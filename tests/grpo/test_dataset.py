"""The dataset of GRPO has one row per question, and changes with the data file."""

import json
from pathlib import Path

import pytest

from raml_trl.data.reading import load_questions
from raml_trl.data.tables import open_table
from raml_trl.grpo.dataset import evaluation_rows, grpo_rows
from raml_trl.runtime.errors import InputError


def write(directory: Path, *rows: dict[str, str]) -> str:
    path = directory / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_grpo_rows_follow_the_data(tmp_path: Path) -> None:
    name = write(tmp_path, {"problem": "1+1", "answer": "2"}, {"problem": "1+2", "answer": "3"})
    rows = grpo_rows(open_table(name), "bare")
    assert rows[0] == {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"}
    assert len(rows) == 2
    assert evaluation_rows(load_questions(name), "bare").to_list() == rows.to_list()
    write(tmp_path, {"problem": "1+1", "answer": "4"})
    assert grpo_rows(open_table(name), "bare")["answer"] == ["4"]
    with pytest.raises(InputError, match="has the column 'images', but train_grpo reads text only"):
        grpo_rows(open_table(write(tmp_path, {"problem": "1+1", "answer": "2", "images": "a.png"})), "bare")
    with pytest.raises(InputError, match="the grader cannot read the answer"):
        grpo_rows(open_table(write(tmp_path, {"problem": "1+1", "answer": ""})), "bare")
