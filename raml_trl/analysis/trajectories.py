"""Reads or samples the trajectories to analyse, encodes them, and finds where their thinking and their answer start.

Places in a trajectory are given as prefix lengths: prefix length t stands for the place after the first t tokens.
"""

import logging
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from raml_trl.analysis.config import AnalysisArguments
from raml_trl.analysis.text import first_statement
from raml_trl.data.reading import open_data, stream_questions, stream_tasks
from raml_trl.data.records import Question, Task, Trajectory
from raml_trl.data.shards import TRAJECTORIES, read_shards
from raml_trl.data.tables import DataTable
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.loading import shown_name
from raml_trl.sampling.sharded import sample_share, trajectory_rows

logger = logging.getLogger(__name__)

THINKING, ANSWERING = "<think>", "</think>"


@dataclass(frozen=True)
class TrajectoryTokens:
    """Tokens of a trajectory and of the prompt before it.

    `number` is the index of the trajectory within its question, from 0. `ids` `(T,)` are the tokens of `text`. For
    each token, `ends` `(T,)` gives the number of characters of `text` up to the end of the token. `prompt_ids` is
    `(P,)`.
    """

    question: Question
    number: int
    trajectory: Trajectory
    text: str
    prompt_ids: Tensor
    ids: Tensor
    ends: tuple[int, ...]

    @property
    def tokens(self) -> list[str]:
        """The part of `text` that each token encodes, `(T,)`. Joined, the parts give `text`."""
        return [self.text[start:end] for start, end in pairwise((0, *self.ends))]

    @property
    def thinking_start(self) -> int:
        """Prefix length at which the thinking starts: after `<think>`, or 0 if `text` has no `<think>`."""
        place = self.text.find(THINKING)
        return 0 if place < 0 else self.reaches(place + len(THINKING))

    @property
    def thinking_end(self) -> int | None:
        """The number of tokens before `</think>`, which ends the thinking; None if `text` has no `</think>`."""
        place = self.text.rfind(ANSWERING)
        return None if place < 0 else self.within(place)

    @property
    def stated(self) -> int | None:
        """Smallest number of leading tokens whose text contains the reference answer; None if `text` lacks it."""
        place = first_statement(self.text, self.question.answer)
        return None if place is None else self.reaches(place)

    def box_after(self, character: int) -> int | None:
        r"""Return the number of tokens before the first `\boxed` from index `character` on, or None without one."""
        place = self.text.find("\\boxed", character)
        return None if place < 0 else self.within(place)

    def within(self, character: int) -> int:
        """Return the greatest number of leading tokens whose text has at most `character` characters."""
        return bisect_right(self.ends, character)

    def reaches(self, character: int) -> int:
        """Return the smallest number of leading tokens whose text has at least `character` characters."""
        return bisect_left(self.ends, character) + 1 if character else 0


def read_or_sample(
    config: AnalysisArguments, *, opening: str = "", share: tuple[int, int] = (0, 1)
) -> list[list[Task]]:
    """Return the first `num_questions` questions, each with its first `num_trajectories` trajectories.

    Trajectories are read from the dataset. If none of these questions has a trajectory there, they are sampled and
    graded. Sampled trajectories are kept in `output_dir` as shards, so a killed run resumes.

    Args:
        config: names the dataset, and has the settings for sampling.
        opening: text that every trajectory starts with. If given, trajectories are always sampled.
        share: the rank of this process and the number of processes N that divide the questions among themselves.

    Returns:
        The questions in chunks of `questions_per_shard`. Those of this process are the chunks rank, rank + N, ... The
        other chunks are empty if trajectories are sampled, so that no process waits for another.

    Raises:
        InputError: if the data cannot be read, or only some of the questions have trajectories.
    """
    table = open_data(config)
    tasks = list(islice(stream_tasks(table), config.num_questions))
    counts = [len(task.trajectories) for task in tasks]
    if opening or not any(counts):
        logger.info("sampling %d trajectories for every question of %s", config.num_trajectories, table.name)
        paths = sample_share(
            config,
            lambda: islice(stream_questions(table), config.num_questions),
            config.num_trajectories,
            TRAJECTORIES,
            trajectory_rows(shown_name(config.model_name_or_path)),
            share=share,
            opening=opening,
        )
        rank, num_processes = share
        own = [path if number % num_processes == rank else None for number, path in enumerate(paths)]
        chunks = [[] if path is None else _read_shard(path) for path in own]
    elif all(counts):
        size = config.questions_per_shard
        chunks = [tasks[first : first + size] for first in range(0, len(tasks), size)]
    else:
        lacking = [task.question.id for task in tasks if not task.trajectories]
        raise InputError(
            f"{table.name}: {len(lacking)} questions have no trajectory, first {lacking[0]}: remove these questions"
        )
    taken = config.num_trajectories
    return [[replace(task, trajectories=task.trajectories[:taken]) for task in chunk] for chunk in chunks]


def _read_shard(path: Path) -> list[Task]:
    return list(stream_tasks(DataTable(str(path), partial(read_shards, [path]), "", checked=True)))


def tokenise(
    tokenizer: PreTrainedTokenizerBase, question: Question, number: int, trajectory: Trajectory, style: str
) -> TrajectoryTokens:
    """Encode a trajectory, which may be empty, and the prompt of its question.

    If the chat template already opens a `<think>` block, the trajectory's own `<think>` is dropped. `number` is the
    index of the trajectory within its question, from 0, and `style` is the prompt style.

    Raises:
        InputError: if the tokenizer does not report the offsets of its tokens.
    """
    prompt = prompt_text(tokenizer, question, style)
    text = trajectory.text
    if prompt.rstrip().endswith(THINKING):
        text = text.removeprefix(THINKING).removeprefix("\n")
    ids, ends = _encode_with_ends(tokenizer, text)
    return TrajectoryTokens(question, number, trajectory, text, encode(tokenizer, prompt), ids, ends)


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: Question, style: str) -> str:
    """Return the prompt of a question as the chat template writes it."""
    messages = prompt_messages(question.question, style)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert isinstance(prompt, str)
    return prompt


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Return the tokens of `text` without special tokens, `(N,)`."""
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def encode_answer(tokenizer: PreTrainedTokenizerBase, stub: str, answer: str) -> tuple[Tensor, Tensor]:
    """Encode stub and answer as one text, and return the tokens of the stub `(S,)` and of the answer `(A,)`.

    The stub is the text that introduces the answer. A token with characters of both stub and answer belongs to the
    answer, because the model has to predict it.

    Raises:
        InputError: if the answer is empty.
    """
    if not answer:
        raise InputError("a reference answer is empty: remove its question")
    ids, ends = _encode_with_ends(tokenizer, stub + answer)
    first = sum(end <= len(stub) for end in ends)
    return ids[:first], ids[first:]


def opens_thinking(tokenizer: PreTrainedTokenizerBase, prompt_ids: Tensor) -> bool:
    """Return whether a prompt ends with `<think>`, which some chat templates write."""
    return str(tokenizer.decode(prompt_ids[-16:])).rstrip().endswith(THINKING)


def _encode_with_ends(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[Tensor, tuple[int, ...]]:
    """Return the tokens of `text` without special tokens, and the number of characters up to the end of each token."""
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} does not report the offsets of its tokens: use a fast tokenizer"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = tuple(end for _, end in encoded["offset_mapping"])  # several tokens of one character have the same end
    return torch.tensor(encoded["input_ids"], dtype=torch.long), ends
