"""What the `samples.parquet` of an evaluation says, question by question."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raml_trl.errors import InputError

_COLUMNS = ["question_id", "correct", "formatted", "num_tokens", "outcome"]


@dataclass(frozen=True)
class SampleCounts:
    """Samples `n` and correct ones `(Q,)` of every question, in the order of the file, and means over all samples."""

    question_ids: tuple[str, ...]
    n: NDArray[np.int64]
    correct: NDArray[np.int64]
    formatted: float
    mean_tokens: float
    outcomes: dict[str, int]


def read_samples(path: Path) -> SampleCounts:
    """Count the samples in a file.

    Raises:
        InputError: if it is not there, is damaged, lacks a column or has no row.
    """
    try:
        columns = pq.read_table(path, columns=_COLUMNS).to_pydict()
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
    )
