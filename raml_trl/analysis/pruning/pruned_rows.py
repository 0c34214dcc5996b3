"""Trajectories as methods left them, answered and graded: the rows of a table, and of data sets to train on."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from raml_trl.analysis.config import TrajectoryPruningConfig
from raml_trl.analysis.pruning.answers import OpenBox, force_answers
from raml_trl.analysis.pruning.config import Method
from raml_trl.analysis.pruning.prune import Tools, leaks, losses, prune
from raml_trl.analysis.pruning.thinking import Thinking
from raml_trl.data.records import Task, Trajectory, task_row
from raml_trl.data.shards import read_shards
from raml_trl.grading.pool import GradingPool


def pruned_rows(
    config: TrajectoryPruningConfig,
    method: Method,
    thinkings: Sequence[Thinking],
    tools: Tools,
    pool: GradingPool,
    *,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """What a method leaves of trajectories, and what the model answers then: rows of `shards.PRUNED`."""
    pruned = prune(method, thinkings, tools, seed=seed)
    predicted = force_answers(
        tools.model,
        tools.tokenizer,
        [OpenBox(one.asked_ids, one.stub) for one in pruned],
        max_tokens=config.max_answer_length,
        batch_size=config.batch_size,
        tokens_per_pass=config.tokens_per_pass,
    )
    outcomes = pool.compare(
        [(answer, one.tokens.question.answer) for answer, one in zip(predicted, thinkings, strict=True)]
    )
    nll = losses(tools.model, pruned, tokens_per_pass=tools.tokens_per_pass)
    for thinking, one, answer, outcome, loss in zip(thinkings, pruned, predicted, outcomes, nll, strict=True):
        question = thinking.tokens.question
        text = thinking.lay_out(one.text, answer or "", config.prompt_style)
        yield {
            "question_id": question.id,
            "number": thinking.tokens.number,
            "method": method.kind,
            "setting": method.setting,
            "text": text,
            "predicted": answer,
            "tokens_before": len(thinking.ids),
            "tokens_after": len(one.ids),
            "num_tokens": len(tools.tokenizer(text, add_special_tokens=False)["input_ids"]),
            "correct": outcome == "correct",
            "leaked": leaks(one, question.answer),
            "nll": loss,
        }


def still_correct(tasks: Sequence[Task], method: Method, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The shortened trajectories whose answer is correct, as rows of a rollout data set: questions that have one."""
    by_id = {task.question.id: task for task in tasks}
    own = (row for row in read_shards(paths) if (row["method"], row["setting"]) == (method.kind, method.setting))
    for question_id, rows in groupby(own, key=lambda row: row["question_id"]):
        task = by_id[question_id]
        kept = tuple(
            Trajectory(row["text"], True, task.trajectories[row["number"]].model, row["num_tokens"])
            for row in rows
            if row["correct"]
        )
        if kept:
            yield task_row(Task(task.question, kept))
