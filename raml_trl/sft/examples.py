"""Training examples for SFT: K trajectories per question, tokenised once, each repeated as often as it should be.

Distinct trajectories lie on disk as token ids, and an example is the number of one of them: neither a million
questions nor a trajectory repeated sixty-four times takes memory.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
from raml_trl.sft.choosing import (
    Order,
    QuestionWeight,
    count_examples,
    in_length_bin,
    order_trajectories,
    parse_length_bin,
)

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a token that is not trained on."""

_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "length": Value("int32"),
        "first": Value("bool"),  # row of its question
        "correct": Value("int32"),  # trajectories of the question
        "overlong": Value("int32"),  # of those looked at on the way to this one: longer than max_length
    }
)


@dataclass(frozen=True)
class Choice:
    """Which trajectories are trained on, how often, and how they are put to the model; see `SFTArguments`."""

    num_trajectories: int | None
    trajectory_order: Order
    length_bin: str | None
    question_weight: QuestionWeight
    repeat_to_fill: bool
    overlong: Literal["drop", "cut"]
    prompt_style: str
    max_length: int | None
    completion_only: bool
    seed: int


@dataclass(frozen=True)
class ExampleCounts:
    """What became of the data."""

    questions: int
    without_correct: int
    left_out: int
    """Questions with a correct trajectory of which none could be taken: all overlong, or too few for the length bin."""
    trajectories: int
    overlong: int
    examples: int
    tokens: int


def build_examples(
    table: DataTable, tokenizer: PreTrainedTokenizerBase, choice: Choice, *, num_proc: int | None = None
) -> tuple[Dataset, ExampleCounts]:
    """Examples with `input_ids`, `labels` and `length`, and what was left out on the way to them.

    An example is prompt and trajectory in the model's chat template, as TRL's `SFTTrainer` tokenises them.

    Raises:
        InputError: if no trajectory is left to train on, or the chat template does not show trajectories as they are.
    """
    rows = cached_rows(
        tokenised_trajectories,
        table,
        _FEATURES,
        key={**asdict(choice), "tokenizer": tokenizer.backend_tokenizer.to_str(), "template": tokenizer.chat_template},
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
    """Return the tokenised prompts of `questions`, all of whose labels are ignored."""
    template: Any = tokenizer.apply_chat_template
    messages = [prompt_messages(question.question, style) for question in questions]
    prompts = [template(prompt, add_generation_prompt=True)["input_ids"] for prompt in messages]
    return Dataset.from_dict({"input_ids": prompts, "labels": [[IGNORED] * len(ids) for ids in prompts]})


def _why_empty(correct: NDArray[np.int32], overlong: NDArray[np.int32], choice: Choice) -> str:
    if not correct.any():
        return "no trajectory is correct"
    if overlong.any():
        return f"no correct trajectory fits max_length {choice.max_length} with its prompt"
    return f"no question has enough correct trajectories for length_bin {choice.length_bin}"


def describe(counts: ExampleCounts, choice: Choice) -> str:
    """One paragraph on what is trained on and what was left out."""
    lines = [
        f"{counts.examples:,} examples ({counts.tokens:,} tokens) of {counts.trajectories:,} distinct trajectories, "
        f"for {counts.questions - counts.without_correct - counts.left_out:,} of {counts.questions:,} questions"
    ]
    if counts.without_correct:
        lines.append(f"questions without a correct trajectory: {counts.without_correct:,}")
    if counts.overlong:
        done = "cut to" if choice.overlong == "cut" else "passed over, being longer than"
        lines.append(f"trajectories {done} max_length {choice.max_length}: {counts.overlong:,}")
    if counts.left_out:
        lines.append(f"questions none of whose trajectories fits max_length or length_bin: {counts.left_out:,}")
    return "; ".join(lines)


def tokenised_trajectories(
    tables: list[DataTable], tokenizer: PreTrainedTokenizerBase, choice: Choice
) -> Iterator[dict[str, Any]]:
    """Rows of `_FEATURES`: the trajectories taken of every question, and empty rows for what else there is to count."""
    for table in tables:
        for task in stream_tasks(table):
            first, taken, overlong = True, 0, 0
            about = {"correct": sum(trajectory.correct for trajectory in task.trajectories)}
            for ids, prompt_length in _candidates(task, tokenizer, choice):
                if choice.max_length is not None and len(ids) > choice.max_length:
                    overlong += 1
                    ids = ids[: choice.max_length] if choice.overlong == "cut" else []
                if len(ids) <= prompt_length:  # dropped, or nothing is left of it but the prompt
                    continue
                ignored = prompt_length if choice.completion_only else 0
                labels = [IGNORED] * ignored + ids[ignored:]
                yield {
                    **about, "input_ids": ids, "labels": labels, "length": len(ids), "first": first,
                    "overlong": overlong,
                }  # fmt: skip
                first, overlong, taken = False, 0, taken + 1
                if taken == choice.num_trajectories:
                    break
            if first or overlong:
                yield {**about, "input_ids": [], "labels": [], "length": 0, "first": first, "overlong": overlong}


def _candidates(task: Task, tokenizer: PreTrainedTokenizerBase, choice: Choice) -> Iterator[tuple[list[int], int]]:
    """Token ids of the question's distinct correct trajectories in the order in which they are taken, and how many of
    them are the prompt's. Tokenised in small batches: only as many as it takes are looked at.
    """
    distinct = {one.text: one for one in task.trajectories if one.correct}
    texts = list(distinct)
    num_tokens = [one.num_tokens for one in distinct.values() if one.num_tokens is not None]
    lengths = num_tokens if len(num_tokens) == len(texts) else [len(text) for text in texts]
    if choice.length_bin is not None:
        kept = in_length_bin(lengths, *parse_length_bin(choice.length_bin))
        texts, lengths = [texts[position] for position in kept], [lengths[position] for position in kept]
    if not texts:
        return
    order = order_trajectories(texts, lengths, choice.trajectory_order, seed=choice.seed, question_id=task.question.id)
    prompt = prompt_messages(task.question.question, choice.prompt_style)
    [prompt_ids] = _encode(tokenizer, [_render(tokenizer, prompt, add_generation_prompt=True)])
    step = choice.num_trajectories or len(order)
    for start in range(0, len(order), step):
        batch = [texts[position] for position in order[start : start + step]]
        rendered = [_render(tokenizer, [*prompt, {"role": "assistant", "content": text}]) for text in batch]
        for text, whole in zip(batch, rendered, strict=True):
            if text.strip() not in whole:
                raise InputError(
                    f"the chat template does not show the trajectory of question {task.question.id} as it is: "
                    "templates of some reasoning models drop what stands before </think>; give one that keeps it as "
                    "chat_template_path"
                )
        for ids in _encode(tokenizer, rendered):
            yield ids, _common_prefix(prompt_ids, ids)


def _render(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for length, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return length
    return min(len(first), len(second))
