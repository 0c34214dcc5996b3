"""What the `samples.parquet` of an evaluation says, question by question."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raml_trl.evaluation.voting import Votes
from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

_COLUMNS = ["question_id", "correct", "formatted", "num_tokens", "outcome"]


@dataclass(frozen=True)
class SampleCounts:
    """Samples `n` and correct ones `(Q,)` of every question, in the order of the file, and means over all samples.

    `votes` `(Q,)` is None where the file does not hold them.
    """

    question_ids: tuple[str, ...]
    n: NDArray[np.int64]
    correct: NDArray[np.int64]
    formatted: float
    mean_tokens: float
    outcomes: dict[str, int]
    votes: tuple[Votes, ...] | None = None


def read_samples(path: Path) -> SampleCounts:
    """Count the samples in a file. If it has no votes, or such as do not fit its grades, that is logged.

    Raises:
        InputError: if it is not there, is damaged, lacks a column or has no row.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = file.read(columns=[*_COLUMNS, "vote"]).to_pydict()  # those of them that there are
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"samples {path} cannot be read: {' '.join(str(error).split())}") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing or not columns["question_id"]:
        fault = f"it has no column {missing[0]}" if missing else "it has no row"
        raise InputError(f"samples {path} cannot be counted: {fault}")
    n = Counter(columns["question_id"])
    correct = Counter(
        question for question, right in zip(columns["question_id"], columns["correct"], strict=True) if right
    )
    return SampleCounts(
        question_ids=tuple(n),
        n=np.array(list(n.values())),
        correct=np.array([correct[question] for question in n]),
        formatted=float(np.mean(columns["formatted"])),
        mean_tokens=float(np.mean(columns["num_tokens"])),
        outcomes=dict(Counter(columns["outcome"])),
        votes=_read_votes(path, columns),
    )


def _read_votes(path: Path, columns: Mapping[str, Sequence[Any]]) -> tuple[Votes, ...] | None:
    if "vote" not in columns:
        logger.warning("samples %s were drawn before votes were kept, there is no column vote: no maj@k", path)
        return None
    counts: dict[str, Counter[int | None]] = {}
    answers: dict[str, tuple[set[int | None], set[int | None]]] = {}  # of wrong and of correct samples
    for question, vote, right in zip(columns["question_id"], columns["vote"], columns["correct"], strict=True):
        counts.setdefault(question, Counter())[vote] += 1
        answers.setdefault(question, (set(), set()))[right].add(vote)
    votes = []
    for question, cast in counts.items():
        wrong, correct = answers[question]
        if len(correct) > 1 or correct & (wrong | {None}):
            logger.warning("samples %s: the votes of question %s do not fit its grades: no maj@k", path, question)
            return None
        abstaining = cast.pop(None, 0)
        index = list(cast).index(correct.pop()) if correct else None
        votes.append(Votes(tuple(cast.values()), index, abstaining))
    return tuple(votes)
