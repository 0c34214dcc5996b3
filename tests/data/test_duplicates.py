"""Tests the search for repeated questions and for overlaps with a benchmark.

The overlaps include whole copies, copies inside other text, parts of a question, short questions and set phrases.
"""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from raml_trl.data.duplicates import Benchmarks, SeenQuestions, normalise, split_words
from raml_trl.data.reading import load_questions, stream_tasks
from raml_trl.data.screening import strip_markup
from raml_trl.data.tables import open_table

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
    ("text", "expected"),
    [
        (TORUS, ("aime", "7")),
        (TORUS.upper().replace("$", ""), ("aime", "7")),
        (f"Example 4. {TORUS} Prove that this is all.", ("aime", "7")),
        (TORUS[: len(TORUS) // 2], ("aime", "7")),  # a part of the benchmark question
        (f"Consider this. {SHORT} And the next one?", ("quiz", "1")),
        (SHORT, ("quiz", "1")),
        (SET_PHRASE, None),
        ("1 + 1", None),
        ("", None),
    ],
)
def test_largest_overlap(benchmarks: Benchmarks, text: str, expected: tuple[str, str] | None) -> None:
    overlap = benchmarks.find(text, min_share=0.5)
    assert (overlap and (overlap.benchmark, overlap.question_id)) == expected
    if overlap is not None:
        assert 0.5 <= overlap.share <= 1
        assert overlap.words in " ".join(split_words(text))


def test_one_shared_ngram_is_a_small_overlap(benchmarks: Benchmarks) -> None:
    overlap = benchmarks.find(SET_PHRASE, min_share=0.0)
    assert overlap is not None
    assert 0 < overlap.share < 0.5  # GPT-3's criterion would leave this question out
    assert overlap.words == "frac m n where m and n are"


@pytest.mark.long
def test_benchmark_questions_overlap_with_themselves_and_training_questions_do_not(shared_data: Path) -> None:
    files = ["aime24.jsonl", "aime25.jsonl", "math500.jsonl.gz"]
    questions = [
        (name, question.id, question.question) for name in files for question in load_questions(str(shared_data / name))
    ]
    benchmarks = Benchmarks(questions, ngram_size=8)
    for _, _, text in questions:
        overlap = benchmarks.find(text, min_share=1.0)
        assert overlap is not None or len(text.split()) < 8
    # 162 of 2,000 questions of Open-Reasoner-Zero share an 8-gram with a benchmark question, but none is the same.
    tasks = stream_tasks(open_table(str(shared_data / "orz_math_sample_2000.jsonl.gz")))
    overlaps = [benchmarks.find(strip_markup(task.question.question), min_share=0.0) for task in tasks]
    shares = [overlap.share for overlap in overlaps if overlap is not None]
    assert len(shares) > 100
    assert max(shares) < 0.5


def test_normalised() -> None:
    assert normalise(r"Let  $x$ be, \, \dfrac{1}{2}.") == normalise(r"let $x$ be, \frac{1}{2}")
    assert normalise("\uff11\uff0b\uff11") == normalise("1+1")
    for text, other in (("1+1", "1-1"), ("f(x)", "f(y)"), (r"\leq", r"\left"), ("a < b", "a > b")):
        assert normalise(text) != normalise(other)


def test_seen_questions_agree_with_a_set_of_texts(rng: np.random.Generator) -> None:
    seen, texts = SeenQuestions(), set()
    for number in rng.integers(0, 400, size=1_000):
        assert seen.add(f"text {number}") == ("duplicate" if f"text {number}" in texts else None)
        texts.add(f"text {number}")


def test_repeats_are_exact_or_near() -> None:
    seen = SeenQuestions()
    repeats = [seen.add(text) for text in ("What is $x$?", "what is x", "what is x", "What is $x$?", "What is y?")]
    assert repeats == [None, "near duplicate", "duplicate", "duplicate", None]


@pytest.mark.long
def test_memory_per_question() -> None:
    seen, size = SeenQuestions(), 50_000
    tracemalloc.start()
    for number in range(size):
        seen.add(f"{number}: " + "a long question " * 20)
    bytes_taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_taken / size < 250


def test_text_that_is_not_unicode() -> None:
    assert SeenQuestions().add("\ud800") is None
