"""Measures the likelihood of the answer after every token of a trajectory, which gives the rows of `curves.parquet`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.analysis.config import PseudoGradientConfig
from raml_trl.analysis.descent.curves import Curve, Mode
from raml_trl.analysis.likelihood import answer_nll_each
from raml_trl.analysis.probes import Probe, make_probe
from raml_trl.analysis.text import split_sentences
from raml_trl.analysis.trajectories import ANSWERING, TrajectoryTokens, encode_answer, tokenise
from raml_trl.data.records import Task
from raml_trl.prompts import NO_THINKING

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("question_id", "question", "answer", "mode", "text"), pa.string()),
        **dict.fromkeys(("number", "start", "end", "stated"), pa.int32()),  # `stated` is null if the answer never is
        "sentences": pa.list_(pa.int32()),
        "correct": pa.bool_(),
        "ends": pa.list_(pa.int32()),
        "nll": pa.list_(pa.float32()),
    }
)
"""Columns of `curves.parquet`, one row for each `MeasuredTrajectory`."""


@dataclass(frozen=True)
class MeasuredTrajectory:
    """A trajectory with its curve: a row of `curves.parquet`.

    `number` is the index of the trajectory within its question, from 0. `mode` says whether it was sampled with
    thinking. `nll` `(T + 1,)` holds L(t) for t = 0 to T: the mean of -log p over the tokens of the answer, in nats,
    after the first t of the T tokens. `start`, `end`, `stated` and `sentences` are values of t: the thinking goes from
    `start` to `end`, the text first contains the answer at `stated` (None if it never does), and the sentences of the
    thinking end at `sentences`. For each token, `ends` `(T,)` gives the number of characters of `text` up to its end.
    """

    question_id: str
    question: str
    answer: str
    number: int
    mode: Mode
    correct: bool
    text: str
    ends: Sequence[int]
    nll: Sequence[float]
    start: int
    end: int
    stated: int | None
    sentences: Sequence[int]

    @property
    def curve(self) -> Curve:
        """The curve of the trajectory, without its text and tokens."""
        return Curve(
            self.question_id,
            self.number,
            self.correct,
            self.mode,
            np.array(self.nll, dtype=np.float64),
            self.start,
            self.end,
            self.stated,
            tuple(self.sentences),
        )

    @property
    def tokens(self) -> list[str]:
        """The part of `text` that each token encodes, `(T,)`."""
        return [self.text[start:end] for start, end in pairwise([0, *self.ends])]


def measure_curves(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mode: Mode,
    tasks: Sequence[Task],
    config: PseudoGradientConfig,
) -> Iterator[MeasuredTrajectory]:
    """Measure the curve of every trajectory of `tasks`, and yield them from the shortest trajectory to the longest.

    A curve is the loss of the answer after every token of a trajectory. `tasks` are questions with their trajectories,
    and `mode` says whether these were sampled with thinking or without.
    """
    opening = NO_THINKING[config.no_thinking] if mode == "no_thinking" else ""
    # The opening already closes the thinking block, so the stub must not close it again.
    stub = config.answer_stub.rpartition(ANSWERING)[2] if opening else config.answer_stub
    trajectories = [
        tokenise(tokenizer, task.question, number, trajectory, config.prompt_style)
        for task in tasks
        for number, trajectory in enumerate(task.trajectories)
    ]
    trajectories.sort(key=lambda trajectory: len(trajectory.ids))
    probes = [_probe(tokenizer, trajectory, stub) for trajectory in trajectories]
    curves = answer_nll_each(model, probes, tokens_per_pass=config.tokens_per_pass)
    for trajectory, nll in zip(trajectories, curves, strict=True):
        start, end = _measured_part(trajectory, opening)
        yield MeasuredTrajectory(
            question_id=trajectory.question.id,
            question=trajectory.question.question,
            answer=trajectory.question.answer,
            number=trajectory.number,
            mode=mode,
            correct=trajectory.trajectory.correct,
            text=trajectory.text,
            ends=trajectory.ends,
            nll=nll.mean(dim=1).tolist(),
            start=start,
            end=end,
            stated=trajectory.stated,
            sentences=_sentence_ends(trajectory, start, end),
        )


def _measured_part(trajectory: TrajectoryTokens, opening: str) -> tuple[int, int]:
    """Return the prefix lengths at which the thinking starts and ends.

    If the trajectory was sampled without thinking, or never closes its thinking block, everything between `opening` and
    the first box counts as thinking; without a box, everything after `opening`.
    """
    start, end = trajectory.thinking_start, trajectory.thinking_end
    if opening or end is None:
        start = max(start, trajectory.reaches(len(opening)))
        end = trajectory.box_after(len(opening))
    return start, len(trajectory.ids) if end is None else max(start, end)


def _sentence_ends(trajectory: TrajectoryTokens, start: int, end: int) -> list[int]:
    """Return the prefix lengths at which the sentences between the prefix lengths `start` and `end` end."""
    first, last = ([0, *trajectory.ends][t] for t in (start, end))
    lengths = map(len, split_sentences(trajectory.text[first:last]))
    return [trajectory.reaches(first + length) for length in accumulate(lengths)]


def _probe(tokenizer: PreTrainedTokenizerBase, trajectory: TrajectoryTokens, stub: str) -> Probe:
    stub_ids, answer_ids = encode_answer(tokenizer, stub, trajectory.question.answer)
    return make_probe(trajectory.prompt_ids, trajectory.ids, answer_ids, stub_ids=stub_ids)
