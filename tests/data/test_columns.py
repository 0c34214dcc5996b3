"""Tests that the columns of common datasets are found: Open-Reasoner-Zero, MATH, GSM8K and AIME."""

from typing import Any

import pytest

from raml_trl.data.columns import Columns, final_answer, find_columns, find_value
from raml_trl.runtime.errors import InputError

ORZ = [
    {"from": "human", "value": "What is 1+1?"},
    {"from": "assistant", "ground_truth": {"value": "2"}},
]


@pytest.mark.parametrize(
    ("row", "given", "question", "answer"),
    [
        ({"problem": "q", "answer": "a"}, {}, "q", "a"),
        ({"question": "q", "answer": "a"}, {}, "q", "a"),
        ({"ID": 1, "Problem": "q", "Solution": "s", "Answer": "a"}, {}, "q", "a"),
        (ORZ, {"question": "0.value", "answer": "1.ground_truth.value"}, "What is 1+1?", "2"),
        ({"0": ORZ[0], "1": ORZ[1]}, {"question": "0.value", "answer": "1.ground_truth.value"}, "What is 1+1?", "2"),
        ({"a.b": "q", "answer": "a"}, {"question": "a.b"}, "q", "a"),
    ],
)
def test_columns_are_found(row: Any, given: dict[str, str], question: str, answer: str) -> None:
    columns = find_columns(row, Columns(**given), "data")
    assert find_value(row, columns.question) == question
    assert find_value(row, columns.answer) == answer


def test_missing_columns_are_refused() -> None:
    with pytest.raises(InputError, match="data has no column answer or Answer or final_answer: its columns are"):
        find_columns({"problem": "q"}, Columns(), "data")
    with pytest.raises(InputError, match="data has no question_column prompt: its columns are problem, answer"):
        find_columns({"problem": "q", "answer": "a"}, Columns(question="prompt"), "data")
    assert find_value(ORZ, "1.ground_truth.missing") is None
    assert find_value(ORZ, "7.value") is None
    assert find_value(ORZ, "0.value.deeper") is None
    assert find_value({"a": None}, "a.b") is None


@pytest.mark.parametrize(
    ("text", "form", "answer"),
    [
        (" 42 ", "plain", "42"),
        ("Add them.\n#### 1,234 \n", "hashes", "1,234"),
        ("#### 1\nno wait\n#### 2", "hashes", "2"),
        ("nothing", "hashes", ""),
        (r"so $\boxed{\frac{1}{2}}$ and then $\boxed{3}$.", "boxed", "3"),
        ("nothing", "boxed", ""),
    ],
)
def test_final_answer(text: str, form: Any, answer: str) -> None:
    assert final_answer(text, form) == answer
