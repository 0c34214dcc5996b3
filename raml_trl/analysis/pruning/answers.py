r"""Forces an answer after every shortened trajectory, grades it, and stores trajectory, answer and grade as a row.

To force an answer, the model gets a text that ends inside an open `\boxed{` and continues it greedily until the box
closes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning.config import Method
from raml_trl.analysis.pruning.prune import Tools, leaks, losses, prune
from raml_trl.analysis.pruning.thinking import Thinking
from raml_trl.data.records import Task, Trajectory
from raml_trl.data.shards import read_shards
from raml_trl.grading.boxes import box_end, extract_box
from raml_trl.grading.pool import GradingPool
from raml_trl.sampling.transformers_engine import GREEDY

_Key = tuple[tuple[int, ...], str]
"""Tokens and stub of an `OpenBox`: boxes with equal keys get the same answer."""


@dataclass(frozen=True)
class OpenBox:
    r"""A text that ends inside an open box: its tokens `ids` `(N,)`, and its last part `stub` with `\boxed{`."""

    ids: Tensor
    stub: str


@dataclass(frozen=True)
class MethodOutcome:
    """Outcome of a method for one trajectory: the columns of `pruned.parquet` that are needed to compare methods.

    `tokens_before` and `tokens_after` count tokens of thinking. `correct` says whether the forced answer is correct,
    and `leaked` whether the shortened thinking states (contains) the reference answer. `nll` is the loss of the
    reference answer, in nats per token.
    """

    question_id: str
    method: str
    setting: str | None
    tokens_before: int
    tokens_after: int
    correct: bool
    leaked: bool
    nll: float


@dataclass(frozen=True)
class PrunedTrajectory(MethodOutcome):
    """A row of `pruned.parquet`: a trajectory as a method shortened it.

    `number` is the index of the trajectory within its question, from 0. `text` is the shortened thinking with the
    forced answer, laid out as a trajectory, and `num_tokens` counts its tokens. `predicted` is the forced answer, or
    None if the box stayed open.
    """

    number: int
    text: str
    predicted: str | None
    num_tokens: int


def prune_and_answer(
    config: TrajectoryPruningConfig,
    method: Method,
    thinkings: Sequence[Thinking],
    tools: Tools,
    pool: GradingPool,
    *,
    seed: int,
) -> Iterator[PrunedTrajectory]:
    """Shorten every trajectory with a method, force an answer after it, and yield one graded row per trajectory.

    Args:
        config: settings of the run.
        method: how to shorten.
        thinkings: the thinking of each trajectory.
        tools: models and limits that the methods need.
        pool: processes that grade the answers.
        seed: seed for sampling summaries.
    """
    pruned = prune(method, thinkings, tools, seed=seed)
    predicted = force_answers(
        tools.model,
        tools.tokenizer,
        [OpenBox(row.asked_ids, row.stub) for row in pruned],
        max_tokens=config.max_answer_length,
        batch_size=config.batch_size,
        tokens_per_pass=config.tokens_per_pass,
    )
    references = [thinking.tokens.question.answer for thinking in thinkings]
    outcomes = pool.compare(list(zip(predicted, references, strict=True)))
    nll = losses(tools.model, pruned, tokens_per_pass=tools.tokens_per_pass)
    for thinking, row, answer, outcome, loss in zip(thinkings, pruned, predicted, outcomes, nll, strict=True):
        question = thinking.tokens.question
        text = thinking.lay_out(row.text, answer or "", config.prompt_style)
        yield PrunedTrajectory(
            question_id=question.id,
            method=method.kind,
            setting=method.setting,
            tokens_before=len(thinking.ids),
            tokens_after=len(row.ids),
            correct=outcome == "correct",
            leaked=leaks(row, question.answer),
            nll=loss,
            number=thinking.tokens.number,
            text=text,
            predicted=answer,
            num_tokens=len(tools.tokenizer(text, add_special_tokens=False)["input_ids"]),
        )


def still_correct(tasks: Sequence[Task], method: Method, paths: Sequence[Path]) -> Iterator[Task]:
    """Yield every question with those of its shortened trajectories that led to a correct answer.

    Questions without such a trajectory are left out.

    Args:
        tasks: the questions with their original trajectories.
        method: the method that shortened the trajectories.
        paths: shards of `PrunedTrajectory` rows.
    """
    by_id = {task.question.id: task for task in tasks}
    rows = (PrunedTrajectory(**row) for row in read_shards(paths))
    own = (row for row in rows if (row.method, row.setting) == (method.kind, method.setting))
    for question_id, group in groupby(own, key=lambda row: row.question_id):
        task = by_id[question_id]
        kept = tuple(
            Trajectory(row.text, True, task.trajectories[row.number].model, row.num_tokens)
            for row in group
            if row.correct
        )
        if kept:
            yield Task(task.question, kept)


def force_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    boxes: Sequence[OpenBox],
    *,
    max_tokens: int,
    batch_size: int,
    tokens_per_pass: int,
) -> list[str | None]:
    """Let the model write greedily into each box, and return the contents in order, or None for a box that stays open.

    A text that occurs several times is continued only once.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        boxes: the texts to continue.
        max_tokens: limit on the tokens of an answer, including the closing brace.
        batch_size: limit on the texts of a batch.
        tokens_per_pass: limit on the tokens of a batch, padding included; a single text may have more.
    """
    keys = [(tuple(box.ids.tolist()), box.stub) for box in boxes]
    unique = sorted(dict.fromkeys(keys), key=lambda key: len(key[0]), reverse=True)
    answers: dict[_Key, str | None] = {}
    for batch in _batches(unique, batch_size, tokens_per_pass):
        texts = _continue(model, tokenizer, batch, max_tokens)
        for (ids, stub), text in zip(batch, texts, strict=True):
            end = box_end(stub, text)
            answers[ids, stub] = None if end is None else extract_box(stub + text[:end])
    return [answers[key] for key in keys]


def _batches(keys: Sequence[_Key], batch_size: int, tokens_per_pass: int) -> Iterator[list[_Key]]:
    """Split texts, sorted from long to short, into batches. The other texts of a batch are padded to its first one."""
    start = 0
    while start < len(keys):
        size = max(1, min(batch_size, tokens_per_pass // len(keys[start][0])))
        yield list(keys[start : start + size])
        start += size


def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[_Key], max_tokens: int
) -> list[str]:
    inputs = tokenizer.pad({"input_ids": [list(ids) for ids, _ in batch]}, padding_side="left", return_tensors="pt")
    start, stubs = inputs["input_ids"].shape[1], [stub for _, stub in batch]
    closed = StoppingCriteriaList([_BoxClosed(tokenizer, stubs, start)])
    generate = cast(Callable[..., Tensor], model.generate)
    with torch.no_grad():
        output = generate(**inputs.to(model.device), max_new_tokens=max_tokens, stopping_criteria=closed, **GREEDY)
    return _decode(tokenizer, output[:, start:])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> list[str]:
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _BoxClosed(StoppingCriteria):
    """Ends each text of a batch as soon as its box is closed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stubs: Sequence[str], start: int) -> None:
        self._tokenizer, self._stubs, self._start = tokenizer, stubs, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_named: object) -> Tensor:
        texts = _decode(self._tokenizer, input_ids[:, self._start :])
        closed = [box_end(stub, text) is not None for stub, text in zip(self._stubs, texts, strict=True)]
        return torch.tensor(closed, device=input_ids.device)
