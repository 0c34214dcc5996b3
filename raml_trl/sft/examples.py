"""Builds the training examples of SFT: K trajectories per question, tokenised once and repeated as often as needed.

Distinct trajectories are stored on disk as token ids, and each example is the index of a trajectory. So a million
questions, or trajectories repeated sixty-four times, take little memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from raml_trl.data.reading import stream_tasks
from raml_trl.data.records import Question, Task
from raml_trl.data.tables import DataTable, cached_rows
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Messages
from raml_trl.sft.choosing import Choice, choose, count_examples

IGNORED = -100
"""The label of a token that the loss ignores."""

_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "length": Value("int32"),
        "first": Value("bool"),  # whether this is the first row of its question
        "correct": Value("int32"),  # number of correct trajectories of the question
        "overlong": Value("int32"),  # number of overlong trajectories tried since the previous row
    }
)


@dataclass(frozen=True)
class ExampleCounts:
    """How many questions, trajectories and tokens the data have, and how many are trained on or left out."""

    questions: int
    """All questions in the data."""
    without_correct: int
    """Questions without a correct trajectory."""
    left_out: int
    """Questions whose correct trajectories are all too long, or too few to fill the length bins."""
    trajectories: int
    """Distinct trajectories trained on."""
    overlong: int
    """Trajectories longer than max_length, among those that were tried in order to get K per question."""
    examples: int
    """Training examples: distinct trajectories, each counted as often as it is repeated."""
    tokens: int
    """Tokens of all examples."""


def build_examples(
    table: DataTable, tokenizer: PreTrainedTokenizerBase, choice: Choice, *, num_proc: int | None = None
) -> tuple[Dataset, ExampleCounts]:
    """Return the training examples, and counts of the data used and left out.

    An example has the columns `input_ids`, `labels` and `length`. It holds a prompt and a trajectory in the model's
    chat template, tokenised as TRL's `SFTTrainer` does. `num_proc` processes tokenise the data; None means one.

    Raises:
        InputError: if no trajectory is left to train on, or the chat template alters trajectories.
    """
    rows = cached_rows(
        tokenised_trajectories,
        table,
        _FEATURES,
        key={
            **asdict(choice),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "special_tokens": tokenizer.special_tokens_map,  # the template may write them
            "template": tokenizer.chat_template,
        },
        num_proc=num_proc,
        tokenizer=tokenizer,
        choice=choice,
    )
    correct, length, overlong, first = (
        rows.data.column(name).to_numpy() for name in ("correct", "length", "overlong", "first")
    )
    question, taken = np.cumsum(first) - 1, length > 0
    if not taken.any():
        raise InputError(f"{table.name}: {_why_empty(correct, overlong, choice)}, so there is nothing to train on")
    counts = np.zeros(len(rows), dtype=np.int64)
    counts[taken] = count_examples(
        question[taken], correct[taken], weight=choice.question_weight, repeat=choice.repeat_to_fill
    )
    examples = rows.select_columns(["input_ids", "labels", "length"]).select(np.repeat(np.arange(len(rows)), counts))
    return examples, ExampleCounts(
        questions=int(first.sum()),
        without_correct=int((correct[first] == 0).sum()),
        left_out=int((correct[first] > 0).sum()) - len(np.unique(question[taken])),
        trajectories=int((counts > 0).sum()),
        overlong=int(overlong.sum()),
        examples=int(counts.sum()),
        tokens=int(counts @ length.astype(np.int64)),
    )


def evaluation_rows(questions: Iterable[Question], style: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return a dataset with the tokenised prompt of each question. All labels are -100, so the loss ignores them."""
    prompts = [prompt_messages(question.question, style) for question in questions]
    encoded = _encode(tokenizer, [_render(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts])
    return Dataset.from_dict({"input_ids": encoded, "labels": [[IGNORED] * len(ids) for ids in encoded]})


def _why_empty(correct: NDArray[np.int32], overlong: NDArray[np.int32], choice: Choice) -> str:
    if not correct.any():
        return "no trajectory is correct"
    if overlong.any():
        return f"no correct trajectory fits max_length {choice.max_length} with its prompt"
    return f"no question has enough correct trajectories for length_bin {choice.length_bin}"


def describe(counts: ExampleCounts, choice: Choice) -> str:
    """Return one line of text about the data used for training and the data left out."""
    used = counts.questions - counts.without_correct - counts.left_out
    parts = [
        f"{counts.examples:,} examples ({counts.tokens:,} tokens) of {counts.trajectories:,} distinct trajectories, "
        f"for {used:,} of {counts.questions:,} questions"
    ]
    if counts.without_correct:
        parts.append(f"questions without a correct trajectory: {counts.without_correct:,}")
    if counts.overlong:
        action = "cut to" if choice.overlong == "cut" else "dropped because they exceed"
        parts.append(f"trajectories {action} max_length {choice.max_length}: {counts.overlong:,}")
    if counts.left_out:
        parts.append(f"questions without a trajectory that fits max_length and length_bin: {counts.left_out:,}")
    return "; ".join(parts)


def tokenised_trajectories(
    tables: list[DataTable], tokenizer: PreTrainedTokenizerBase, choice: Choice
) -> Iterator[dict[str, object]]:
    """Choose up to K trajectories of each question, and yield a row with token ids and labels for each of them.

    The column `overlong` counts the trajectories longer than `max_length` that were tried for the question after its
    previous row. A question without a chosen trajectory gets one row without tokens. So does a question for which
    overlong trajectories were tried after the last chosen one; this row is its last.
    """
    for table in tables:
        for task in stream_tasks(table):
            first, taken, overlong = True, 0, 0
            correct = sum(trajectory.correct for trajectory in task.trajectories)
            for ids, prompt_length in _candidates(task, tokenizer, choice):
                if choice.max_length is not None and len(ids) > choice.max_length:
                    overlong += 1
                    ids = ids[: choice.max_length] if choice.overlong == "cut" else []
                if len(ids) <= prompt_length:  # dropped, or only the prompt remains
                    continue
                ignored = prompt_length if choice.completion_only else 0
                labels = [IGNORED] * ignored + ids[ignored:]
                yield _row(ids, labels, first=first, correct=correct, overlong=overlong)
                first, overlong, taken = False, 0, taken + 1
                if taken == choice.num_trajectories:
                    break
            if first or overlong:
                yield _row([], [], first=first, correct=correct, overlong=overlong)


def _row(ids: list[int], labels: list[int], *, first: bool, correct: int, overlong: int) -> dict[str, object]:
    return {
        "input_ids": ids,
        "labels": labels,
        "length": len(ids),
        "first": first,
        "correct": correct,
        "overlong": overlong,
    }


def _candidates(task: Task, tokenizer: PreTrainedTokenizerBase, choice: Choice) -> Iterator[tuple[list[int], int]]:
    """Yield the distinct correct trajectories of a question in the order in which they are taken.

    For each trajectory, yield the token ids of prompt and trajectory together, and the number of ids that belong to the
    prompt. Trajectories are tokenised K at a time, so that few are tokenised but not taken.
    """
    distinct = {trajectory.text: trajectory for trajectory in task.trajectories if trajectory.correct}
    texts = list(distinct)
    num_tokens = [trajectory.num_tokens for trajectory in distinct.values() if trajectory.num_tokens is not None]
    lengths = num_tokens if len(num_tokens) == len(texts) else [len(text) for text in texts]
    order = choose(
        texts,
        lengths,
        choice.trajectory_order,
        length_bin=choice.length_bin,
        seed=choice.seed,
        question_id=task.question.id,
    )
    if not order:
        return
    prompt = prompt_messages(task.question.question, choice.prompt_style)
    [prompt_ids] = _encode(tokenizer, [_render(tokenizer, prompt, add_generation_prompt=True)])
    step = choice.num_trajectories or len(order)
    for start in range(0, len(order), step):
        batch = [texts[position] for position in order[start : start + step]]
        rendered = [_render(tokenizer, [*prompt, {"role": "assistant", "content": text}]) for text in batch]
        for text, conversation in zip(batch, rendered, strict=True):
            if text.strip() not in conversation:
                raise InputError(
                    f"the chat template alters the trajectory of question {task.question.id} (those of some reasoning "
                    "models remove the text before </think>): set chat_template_path to a template that keeps it"
                )
        for ids in _encode(tokenizer, rendered):
            yield ids, _common_prefix(prompt_ids, ids)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str)
    return text


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    encoding: Any = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return encoding["input_ids"]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for length, (token, other) in enumerate(zip(first, second, strict=False)):
        if token != other:
            return length
    return min(len(first), len(second))
