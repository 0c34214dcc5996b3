"""Pairs of a completion and a reference for the benchmarks, from real data or from the test cases.

The real data lie beside the checkout. Where they are missing, the benchmarks use the test cases instead.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"


def cases() -> list[tuple[str, str, bool]]:
    """Returns the test cases: completion, reference, and whether the completion is right."""
    from tests.helpers.grading_cases import CASES

    return list(CASES)


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file of the real data, or nothing if it does not exist."""
    path = DATA / name
    if path.is_file():
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            yield from map(json.loads, lines)


def references() -> list[str]:
    """Returns the distinct references of the real data, or of the test cases if there are no real data."""
    names = ("math500.jsonl.gz", "orz_math_sample_2000.jsonl.gz", "aime24.jsonl", "aime25.jsonl")
    real = dict.fromkeys(row["answer"] for name in names for row in rows(name))
    return list(real) or list(dict.fromkeys(answer for _, answer, _ in cases()))


def answer_pairs(path: Path | None = None) -> list[dict[str, Any]]:
    """Returns the undisputed rows of a file of answer pairs: `reference`, `text`, `expected` and `kind`.

    `path` is the file, by default all those of the tests.
    """
    tests = REPOSITORY / "tests" / "grading"
    paths = [path] if path else [tests / f"{name}_pairs.jsonl" for name in ("answer", "typed", "further")]
    pairs = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in pairs if not row.get("debatable", False)]


def right_answers() -> list[tuple[str, str]]:
    """Returns the right answers of the test cases and pairs, as written in the box, with their references."""
    from raml_trl.grading.boxes import extract_answer

    texts = [(row["text"], row["reference"]) for row in answer_pairs() if row["expected"] == "correct"]
    texts += [(text, answer) for text, answer, right in cases() if right]
    return [(found, answer) for text, answer in texts if (found := extract_answer(text))]


def real_pairs() -> list[tuple[str, str]]:
    """Returns real pairs, right and wrong, or [] if there are no real data.

    They are published solutions, and sentences that state the reference of the same question or of another question.
    """
    pairs = []
    for row in rows("gsm8k_rollouts_4x.jsonl.gz"):
        for text in row["generations"]:
            solution, _, answer = text.rpartition("A:")
            pairs.append((f"{solution}\\boxed{{{answer.strip()}}}", row["answer"]))
    competition = [*rows("math500.jsonl.gz"), *rows("orz_math_sample_2000.jsonl.gz")]
    for row, other in zip(competition, competition[7:] + competition[:7], strict=True):
        pairs.append((f"So the answer is \\boxed{{{row['answer'].strip()}}}.", row["answer"]))
        pairs.append((f"So the answer is \\boxed{{{other['answer'].strip()}}}.", row["answer"]))
    return pairs
