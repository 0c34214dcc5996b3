"""Rows that cannot be used are counted by reason and kept in the rejects; files that are no table are refused by name.

The last test makes random rows and files and prints its seed.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raml_trl import prepare_data
from raml_trl.data import json_rows
from raml_trl.data.config import PrepareDataConfig, TableArguments
from raml_trl.data.json_rows import CutShort, Fault, read_array, read_json
from raml_trl.data.preparation import prepare
from raml_trl.data.reading import UNUSABLE, open_data, read_tasks, stream_tasks
from raml_trl.data.records import Reject, Task
from raml_trl.data.screening import REASONS
from raml_trl.data.shards import QUESTIONS, TRAJECTORIES, write_shards
from raml_trl.data.tables import open_table
from raml_trl.runtime.cli import call
from raml_trl.runtime.errors import InputError
from tests.helpers.disturbed import fresh_random

pytestmark = pytest.mark.disturbance("data")

GOOD = {
    "id": "g",
    "problem": "1+1",
    "answer": "2",
    "generations": ["x"],
    "source": "s",
    "labels": [1],
    "models": ["m"],
    "num_tokens": [3],
}
SURROGATE = "half \ud83d of a pair"
BAD_ROWS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "surrogate in the question": ({"problem": SURROGATE}, "half of a surrogate pair"),
    "surrogate in the answer": ({"answer": SURROGATE}, "half of a surrogate pair"),
    "surrogate in the id": ({"id": SURROGATE}, "half of a surrogate pair"),
    "surrogate in the source": ({"source": SURROGATE}, "half of a surrogate pair"),
    "surrogate in a generation": ({"generations": [SURROGATE]}, "half of a surrogate pair"),
    "surrogate in a model": ({"models": [SURROGATE]}, "half of a surrogate pair"),
    "NaN as answer": ({"answer": math.nan}, "answer is NaN or infinite"),
    "NaN as question": ({"problem": math.nan}, "question is NaN or infinite"),
    "Infinity as answer": ({"answer": math.inf}, "answer is NaN or infinite"),
    "1e999 as answer": ('{"id": "b", "problem": "1+1", "answer": 1e999}', "answer is NaN or infinite"),
    "1e-999 as answer": ('{"id": "b", "problem": "1+1", "answer": 1e-999}', "answer is too small for a number"),
    "an exponent of 20 digits": ('{"id": "b", "problem": "1+1", "x": 1e99999999999999999999}', "number is too long"),
    "a mapping as answer": ({"answer": {"value": 2}}, "answer is not text"),
    "a list as id": ({"id": [1]}, "id is not text"),
    "true as id": ({"id": True}, "id is not text"),
    "a mapping as source": ({"source": {}}, "source is not text"),
    "a string as generations": ({"generations": "ab", "labels": [1, 0]}, "generations is not a list"),
    "a number as generations": ({"generations": 3}, "generations is not a list"),
    "an empty string as generations": ({"generations": ""}, "generations is not a list"),
    "labels: 1": ({"labels": 1}, "labels is not a list"),
    "labels: 0": ({"labels": 0}, "labels is not a list"),
    "a string as labels": ({"labels": "1"}, "labels is not a list"),
    "a string as label": ({"labels": ["1"]}, "a label is neither 0 nor 1"),
    "a list as label": ({"labels": [[1]]}, "a label is neither 0 nor 1"),
    "2 as label": ({"labels": [2]}, "a label is neither 0 nor 1"),
    "NaN as label": ({"labels": [math.nan]}, "a label is neither 0 nor 1"),
    "null as label": ({"labels": [None]}, "a label is neither 0 nor 1"),
    "a string as models": ({"models": "m"}, "models is not a list"),
    "a number as model": ({"models": [7]}, "a model is not text"),
    "too few labels": ({"labels": []}, "generations, labels, models or counts of tokens differ in number"),
    "infinite tokens": ({"num_tokens": [math.inf]}, "a count of tokens is not a whole number"),
    "half a token": ({"num_tokens": [1.5]}, "a count of tokens is not a whole number"),
    "negative tokens": ({"num_tokens": [-1]}, "a count of tokens is not a whole number"),
    "10^30 tokens": ({"num_tokens": [10**30]}, "a count of tokens is not a whole number"),
    "true tokens": ({"num_tokens": [True]}, "a count of tokens is not a whole number"),
    "a number as tokens": ({"num_tokens": 3}, "num_tokens is not a list"),
    "an integer of 5,000 digits": ('{"id": "b", "problem": "1+1", "answer": ' + "9" * 5000 + "}", "number is too long"),
    "5,000 digits elsewhere": ('{"id": "b", "problem": "1+1", "x": ' + "9" * 5000 + "}", "number is too long"),
    "lists, 100,000 deep": ('{"id": "b", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "mappings, 500 deep": ('{"id": "b", "x": ' + '{"a": ' * 500 + "1" + "}" * 500 + "}", "nested too deeply"),
    "not JSON": ('{"id": "b", "problem": }', "line is not JSON"),
    "a number": ("7", "not a row of columns"),
    "null": ("null", "not a row of columns"),
    "nothing": ({}, "no question"),
}  # fmt: skip


def as_json(row: dict[str, Any] | str) -> str:
    if isinstance(row, str):
        return row
    return json.dumps(({**GOOD, "id": "b", **row}) if row else {})


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_rejected_and_the_others_are_read(tmp_path: Path, name: str, suffix: str) -> None:
    row, reason = BAD_ROWS[name]
    rows = [json.dumps(GOOD), as_json(row), json.dumps({**GOOD, "id": "h"})]
    text = "\n".join(rows) + "\n" if suffix == ".jsonl" else f"[{', '.join(rows)}]"
    (tmp_path / f"data{suffix}").write_text(text)
    first, reject, last = read_tasks(open_table(str(tmp_path / f"data{suffix}")))
    assert isinstance(first, Task)
    assert isinstance(last, Task)
    assert isinstance(reject, Reject)
    assert reject.row == 1
    assert reject.reason == (reason.replace("line", "element") if suffix == ".json" else reason)
    assert reject.reason in REASONS
    json.dumps(reject.content)
    with pytest.raises(InputError, match=r"row 1: .*: prepare_data leaves such rows out"):
        list(stream_tasks(open_table(str(tmp_path / f"data{suffix}"))))


def test_all_bad_rows_together_end_in_the_rejects(tmp_path: Path) -> None:
    rows = [json.dumps({**GOOD, "id": "first", "problem": "0+0"}), *(as_json(row) for row, _ in BAD_ROWS.values())]
    (tmp_path / "data.jsonl").write_text("\n".join(rows) + "\n")
    config = PrepareDataConfig(dataset_name=str(tmp_path / "data.jsonl"), output_dir=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    counts = prepare(config, tmp_path / "out")
    assert counts.left_out == Counter(reason for _, reason in BAD_ROWS.values())
    assert (counts.questions, counts.rows) == (1, 1 + len(BAD_ROWS))
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["reason"] for reject in rejects] == [reason for _, reason in BAD_ROWS.values()]
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(reason in report for reason in counts.left_out)


def test_the_first_row_need_not_be_usable(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"comment": "made by hand"}\n' + json.dumps(GOOD) + "\n")
    first, second = read_tasks(open_table(str(tmp_path / "data.jsonl")))
    assert isinstance(first, Reject)
    assert isinstance(second, Task)


@pytest.mark.parametrize(
    ("written", "text"),
    [("1e-07", "0.0000001"), ("2.5e-3", "0.0025"), ("1E3", "1000"), ("204.0", "204"), ("1e20", f"1{0:020}")],
)  # fmt: skip
def test_a_number_becomes_a_text_without_an_exponent(tmp_path: Path, written: str, text: str) -> None:
    (tmp_path / "data.jsonl").write_text(f'{{"problem": "x", "answer": {written}}}\n')
    [task] = read_tasks(open_table(str(tmp_path / "data.jsonl")))
    assert isinstance(task, Task)
    assert task.question.answer == text


ROW = json.dumps(GOOD)
FILES: dict[str, tuple[str, bytes, str]] = {
    "two arrays": ("a.json", f"[{ROW}][{ROW}]".encode(), "goes on after its array"),
    "two arrays, apart": ("a.json", f"[{ROW}]\n\n{' ' * 70_000}[{ROW}]".encode(), "goes on after its array"),
    "an array and a comma": ("a.json", f"[{ROW}],".encode(), "goes on after its array"),
    "UTF-16": ("a.jsonl", f"{ROW}\n".encode("utf-16"), "is UTF-16 text: convert it to UTF-8"),
    "UTF-16 without a mark": ("a.jsonl", f"{ROW}\n".encode("utf-16-le"), "is UTF-16 text: convert it to UTF-8"),
    "UTF-16, an array": ("a.json", f"[{ROW}]".encode("utf-16-be"), "is UTF-16 text: convert it to UTF-8"),
    "an indented object": ("a.json", json.dumps(GOOD, indent=2).encode(), "first row spans several lines"),
    "indented objects": ("a.jsonl", f"{json.dumps(GOOD, indent=2)}\n".encode() * 3, "first row spans several lines"),
    "an indented array": ("a.jsonl", json.dumps([GOOD], indent=2).encode(), "first row spans several lines"),
    "an array without its end": ("a.json", f"[{ROW}, {ROW}".encode(), "the array breaks off at row 1"),
    "a row without its end": ("a.json", f"[{ROW[:-1]}, {ROW}]".encode(), "the array breaks off at row 0"),
    "only faults": ("a.jsonl", b"oops\nalas\n", "contains no row in its first 2 places: line is not JSON"),
    "a web page": ("a.jsonl", b"<!DOCTYPE html>\n<html>\n</html>\n", "contains no row in its first 3 places"),
    "half a Parquet": ("a.parquet", b"PAR1" + b"\0" * 50, "cannot be read to its end"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_one_table_is_refused_by_its_real_problem(tmp_path: Path, name: str) -> None:
    file, content, message = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_tasks(open_table(str(tmp_path / file))))
    assert file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("suffix", "lines"), [(".jsonl", True), (".json", True), (".json", False)])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, suffix: str, lines: bool) -> None:
    text = f"{ROW}\n" if lines else f"[{ROW}]"
    (tmp_path / f"data{suffix}").write_bytes(b"\xef\xbb\xbf" + text.encode())
    [task] = read_tasks(open_table(str(tmp_path / f"data{suffix}")))
    assert isinstance(task, Task)


def shards(directory: Path, number: int) -> None:
    """Write a run of `prepare_data` and divide its shard into `number` shards."""
    write_shards(
        directory, [{"id": str(row), "problem": "p", "answer": "a", "source": "s"} for row in range(6)], QUESTIONS
    )
    table = pq.read_table(directory / "questions-00000.parquet")
    size = table.num_rows // number
    for place in range(number):
        pq.write_table(table.slice(place * size, size), directory / f"questions-{place:05d}.parquet")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_shard_is_named(tmp_path: Path, lost: int) -> None:
    rows = [{"problem": f"{number}+1", "answer": str(number + 1)} for number in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call(
        prepare_data.main,
        PrepareDataConfig(dataset_name=str(tmp_path / "data.jsonl"), output_dir=str(tmp_path / "out")),
    )
    shards(tmp_path / "out", 3)
    assert len(list(read_tasks(open_table(str(tmp_path / "out"))))) == 6
    (tmp_path / "out" / f"questions-{lost:05d}.parquet").unlink()
    with pytest.raises(
        InputError, match=f"questions-{lost:05d}.parquet is missing" if lost < 2 else "has 4 rows, but its run"
    ):
        open_table(str(tmp_path / "out"))


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    shards(tmp_path, 2)
    path = tmp_path / "questions-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"questions-00001.parquet cannot be read to its end: .*; download it again"):
        list(read_tasks(open_table(str(tmp_path))))


def test_a_directory_with_questions_and_trajectories_is_one_line(tmp_path: Path) -> None:
    shards(tmp_path, 1)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / f"{TRAJECTORIES}-00000.parquet")
    with pytest.raises(InputError, match="holds questions and trajectories: move one of them to another directory"):
        open_data(TableArguments(dataset_name=str(tmp_path)))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value, often one that is dangerous."""
    scalars: list[Callable[[], Any]] = [
        lambda: rng.choice(["", "x", '"', "\\", "]", "}", "{[", ",", "é", "\u2028", SURROGATE, "\0", "\x1b[31m"]),
        lambda: rng.choice([0, 1, -1, 2**63, 10**30, 1e-7, 1e308, math.nan, math.inf, True, None]),
    ]
    if depth > 3 or rng.random() < 0.6:
        return rng.choice(scalars)()
    if rng.random() < 0.5:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {
        random_value(rng, 9) if rng.random() < 0.1 else rng.choice("abc"): random_value(rng, depth + 1) for _ in "ab"
    }


def test_random_rows_never_end_a_run(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    rng = fresh_random()
    rows = [{**GOOD, "id": f"good {number}"} for number in range(3)]
    for number in range(400):
        row: dict[str, Any] = {**GOOD, "id": f"row {number}"}
        for column in rng.sample(sorted(GOOD), rng.randrange(1, 4)):
            row[column] = random_value(rng)
        rows.append(row)
    text = "".join(
        json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace").decode() + "\n" for row in rows
    )
    (tmp_path / "data.jsonl").write_text(text)
    config = PrepareDataConfig(
        dataset_name=str(tmp_path / "data.jsonl"), output_dir=str(tmp_path / "out"), drop_duplicates=False
    )
    (tmp_path / "out").mkdir()
    counts = prepare(config, tmp_path / "out")
    assert counts.rows == len(rows)
    assert counts.questions + counts.left_out.total() == counts.rows
    assert counts.left_out.keys() <= REASONS.keys()
    assert len(list(read_tasks(open_table(str(tmp_path / "out"))))) == counts.questions
    record_property("cases", len(rows))


def test_random_arrays_are_read_like_json(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """With chunks of any size; and every beginning of an array is cut short."""
    rng = fresh_random()
    for _ in range(100):
        monkeypatch.setattr(json_rows, "_CHUNK_BYTES", rng.choice([1, 2, 3, 7, 64, 2**16]))
        values = [random_value(rng) for _ in range(rng.randrange(5))]
        text = json.dumps(values, indent=rng.choice([None, 1])).encode()
        expected = [value if isinstance(value, dict | list) else None for value in json.loads(text)]
        found = [None if isinstance(row, Fault) else row for row in read_array(BytesIO(text))]
        assert repr(found) == repr(expected)
        with pytest.raises(CutShort):
            list(read_array(BytesIO(text[: rng.randrange(len(text))])))
        record_property("cases", 2)


def test_a_long_array_takes_time_in_proportion_to_its_length() -> None:
    """An element of 2 MB, of which each chunk holds a part."""
    text = json.dumps([{"a": "x" * 2_000_000}, {"a": "[" * 10}]).encode()
    assert [len(row) for row in read_json(BytesIO(text), array=True) if isinstance(row, dict)] == [1, 1]


def test_every_reason_is_explained() -> None:
    assert UNUSABLE.keys() <= REASONS.keys()
    assert all(REASONS.values())
