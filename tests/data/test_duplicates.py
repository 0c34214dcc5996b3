"""Overlap with a benchmark: copies, copies inside other words, short questions, and set phrases, no evidence."""

from pathlib import Path

import pytest

from raml_trl.data.duplicates import Benchmarks, split_words
from raml_trl.data.reading import load_questions

TORUS = (
    "Torus $T$ is the surface produced by revolving a circle with radius 3 around an axis in the plane of the circle "
    "that is a distance 6 from the center of the circle. Find its volume, written as $\\frac{m}{n}$ where $m$ and $n$ "
    "are relatively prime positive integers. Find $m+n$."
)
SHORT = "What is the smallest prime above ninety?"
SET_PHRASE = (
    "A fair die is thrown until it shows six twice. The expected number of throws is $\\frac{m}{n}$ where $m$ and $n$ "
    "are relatively prime positive integers. Find $m+n$."
)


@pytest.fixture
def benchmarks() -> Benchmarks:
    return Benchmarks([("aime", "7", TORUS), ("quiz", "1", SHORT), ("quiz", "2", "1 + 1")], ngram_size=8)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TORUS, ("aime", "7")),
        (TORUS.upper().replace("$", ""), ("aime", "7")),
        (f"Example 4. {TORUS} Prove that this is all.", ("aime", "7")),
        (TORUS[: len(TORUS) // 2], ("aime", "7")),  # a part of it
        (f"Consider this. {SHORT} And the next one?", ("quiz", "1")),
        (SHORT, ("quiz", "1")),
        (SET_PHRASE, None),
        ("1 + 1", None),
        ("", None),
    ],
)
def test_found(benchmarks: Benchmarks, text: str, found: tuple[str, str] | None) -> None:
    overlap = benchmarks.find(text, min_share=0.5)
    assert (overlap and (overlap.benchmark, overlap.question_id)) == found
    if overlap is not None:
        assert 0.5 <= overlap.share <= 1
        assert overlap.words in " ".join(split_words(text))


def test_one_common_ngram_is_what_the_share_measures(benchmarks: Benchmarks) -> None:
    overlap = benchmarks.find(SET_PHRASE, min_share=0.0)
    assert overlap is not None
    assert 0 < overlap.share < 0.5  # as GPT-3's rule would have it, this question would go
    assert overlap.words == "frac m n where m and n are"


def test_every_benchmark_question_finds_itself_and_no_other_is_needed(shared_data: Path) -> None:
    files = ["aime24.jsonl", "aime25.jsonl", "math500.jsonl.gz"]
    questions = [(name, one.id, one.question) for name in files for one in load_questions(str(shared_data / name))]
    benchmarks = Benchmarks(questions, ngram_size=8)
    for _, _, text in questions:
        overlap = benchmarks.find(text, min_share=1.0)
        assert overlap is not None or len(text.split()) < 8
    # Open-Reasoner-Zero: 162 of 2,000 share an 8-gram with one of them, and none is the same question
    sample = load_tolerant(shared_data / "orz_math_sample_2000.jsonl.gz")
    shares = [found.share for text in sample if (found := benchmarks.find(text, min_share=0.0)) is not None]
    assert len(shares) > 100
    assert max(shares) < 0.5


def load_tolerant(path: Path) -> list[str]:
    from raml_trl.data.filtering import strip_markup
    from raml_trl.data.reading import stream_tasks
    from raml_trl.data.tables import open_table

    return [strip_markup(task.question.question) for task in stream_tasks(open_table(str(path)))]
