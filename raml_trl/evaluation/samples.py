"""Reads the `samples.parquet` of an evaluation, and counts the samples, correct samples and votes of each question."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raml_trl.evaluation.metrics import summarise
from raml_trl.evaluation.voting import Votes
from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

_COLUMNS = ["question_id", "correct", "formatted", "num_tokens", "outcome"]


@dataclass(frozen=True)
class SampleCounts:
    """Counts of the samples of an evaluation.

    `n` (samples), `correct` (correct samples) and `votes` have one entry per question `(Q,)`, in the order of
    `question_ids`. `votes` is None if the samples have no votes, or votes that contradict the grades, for example the
    same vote for a correct and a wrong sample. `formatted` is the share of samples with the layout that the prompt asks
    for, `mean_tokens` is the mean number of tokens of a sample, and `outcomes` is the number of samples with each
    outcome of the grading.
    """

    question_ids: tuple[str, ...]
    n: NDArray[np.int64]
    correct: NDArray[np.int64]
    formatted: float
    mean_tokens: float
    outcomes: dict[str, int]
    votes: tuple[Votes, ...] | None = None


class SampleMetrics(TypedDict):
    """The content of `metrics.json`.

    `samples_per_question` is a single number if it is the same for all questions, otherwise [smallest, largest].
    """

    questions: int
    samples_per_question: int | list[int]
    formatted: float
    mean_tokens: float
    outcomes: dict[str, int]
    metrics: dict[str, dict[str, float]]


def read_samples(path: Path) -> SampleCounts:
    """Read the `samples.parquet` of an evaluation, and return the counts of its samples for every question.

    If the file has no votes, or votes that contradict the grades, log a warning and return None as the votes.

    Raises:
        InputError: if the file is missing or damaged, has no rows, or lacks a column other than that of the votes.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = file.read(columns=[*_COLUMNS, "vote"]).to_pydict()  # missing columns are skipped
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"samples {path} cannot be read: {' '.join(str(error).split())}") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing or not columns["question_id"]:
        fault = f"it has no column {missing[0]}" if missing else "it has no rows"
        raise InputError(f"samples {path} cannot be counted: {fault}")
    n = Counter(columns["question_id"])
    correct = Counter(
        question for question, right in zip(columns["question_id"], columns["correct"], strict=True) if right
    )
    votes: tuple[Votes, ...] | None = None
    if "vote" in columns:
        votes = _count_votes(path, columns["question_id"], columns["vote"], columns["correct"])
    else:
        logger.warning("samples %s have no column vote, because they are from an older version: no maj@k", path)
    counted = [number for number in columns["num_tokens"] if number is not None]
    if uncounted := len(columns["num_tokens"]) - len(counted):
        logger.warning("samples %s: the server counted no tokens of %d samples: the mean omits them", path, uncounted)
    return SampleCounts(
        question_ids=tuple(n),
        n=np.array(list(n.values())),
        correct=np.array([correct[question] for question in n]),
        formatted=float(np.mean(columns["formatted"])),
        mean_tokens=float(np.mean(counted)) if counted else 0.0,
        outcomes=dict(Counter(columns["outcome"])),
        votes=votes,
    )


def _count_votes(
    path: Path, questions: Sequence[str], votes: Sequence[int | None], correct: Sequence[bool]
) -> tuple[Votes, ...] | None:
    """Count the votes of each question. Return None, with a warning, if the votes contradict the grades.

    The arguments `questions`, `votes` and `correct` are columns of the file `path`, with one entry per sample.
    """
    counts: dict[str, Counter[int | None]] = {}
    answers: dict[str, tuple[set[int | None], set[int | None]]] = {}  # votes of wrong and of correct samples
    for question, vote, right in zip(questions, votes, correct, strict=True):
        counts.setdefault(question, Counter())[vote] += 1
        answers.setdefault(question, (set(), set()))[right].add(vote)
    counted = []
    for question, cast in counts.items():
        wrong_votes, correct_votes = answers[question]
        if len(correct_votes) > 1 or correct_votes & (wrong_votes | {None}):
            logger.warning("samples %s: the votes of question %s contradict its grades: no maj@k", path, question)
            return None
        abstaining = cast.pop(None, 0)
        index = list(cast).index(correct_votes.pop()) if correct_votes else None
        counted.append(Votes(tuple(cast.values()), index, abstaining))
    return tuple(counted)


def sample_metrics(
    path: Path, ks: Sequence[int], rng: np.random.Generator, *, thresholds: Sequence[float] = ()
) -> SampleMetrics:
    """Compute all metrics of the samples in a file, with bootstrap intervals.

    Args:
        path: the `samples.parquet`.
        ks: values of k.
        rng: generator for the bootstrap.
        thresholds: values of tau. Each adds G-Pass@k for every k.

    Raises:
        InputError: if the samples cannot be read, or a question has fewer than max(ks) samples.
    """
    samples = read_samples(path)
    n = samples.n
    if max(ks) > n.min():
        raise InputError(f"samples {path}: k = {max(ks)}, but a question has only {n.min()} samples")
    return {
        "questions": len(n),
        "samples_per_question": int(n[0]) if n.min() == n.max() else [int(n.min()), int(n.max())],
        "formatted": samples.formatted,
        "mean_tokens": samples.mean_tokens,
        "outcomes": samples.outcomes,
        "metrics": summarise(samples.correct, n, ks, rng, thresholds=thresholds, votes=samples.votes),
    }
