"""Trajectories as the tokens a model reads, and where in them thinking ends and the answer is first stated."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from raml_trl.analysis.text import first_statement
from raml_trl.data.records import Question, Trajectory
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError

THINKING, ANSWERING = "<think>", "</think>"


@dataclass(frozen=True)
class TrajectoryTokens:
    """The `number`-th trajectory of a question: `text` is `prompt_ids` `(P,)` and then `ids` `(T,)`.

    `ends` `(T,)` are the characters of `text` up to the end of each token.
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
        """What each token stands for in `text`, `(T,)`; together they are `text`."""
        return [self.text[start:end] for start, end in pairwise((0, *self.ends))]

    @property
    def thinking_start(self) -> int:
        """The prefix length at which the thinking begins: after `<think>`, where the model wrote it."""
        place = self.text.find(THINKING)
        return 0 if place < 0 else self.reaches(place + len(THINKING))

    @property
    def thinking_end(self) -> int | None:
        """The prefix length at which the thinking is over, before `</think>`; None if it never is."""
        place = self.text.rfind(ANSWERING)
        return None if place < 0 else self.within(place)

    @property
    def stated(self) -> int | None:
        """The prefix length at which the reference answer first stands in the text; None if it never does."""
        place = first_statement(self.text, self.question.answer)
        return None if place is None else self.reaches(place)

    def box_after(self, character: int) -> int | None:
        """The prefix length before the first box that opens at `character` or later; None if there is none."""
        place = self.text.find("\\boxed", character)
        return None if place < 0 else self.within(place)

    def within(self, character: int) -> int:
        """The greatest prefix length that holds no more than the first `character` characters."""
        return bisect_right(self.ends, character)

    def reaches(self, character: int) -> int:
        """The smallest prefix length that holds the first `character` characters."""
        return bisect_left(self.ends, character) + 1 if character else 0


def tokenise(tokenizer: Any, question: Question, number: int, trajectory: Trajectory, style: str) -> TrajectoryTokens:
    """`trajectory`, which may be empty, after its question's prompt. A `<think>` of the chat template is left to it.

    Raises:
        InputError: if the tokenizer cannot say where its tokens stand.
    """
    messages = prompt_messages(question.question, style)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    text = trajectory.text
    if prompt.rstrip().endswith(THINKING):
        text = text.removeprefix(THINKING).removeprefix("\n")
    ids, ends = _encode(tokenizer, text)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return TrajectoryTokens(question, number, trajectory, text, torch.tensor(prompt_ids), ids, ends)


def encode_answer(tokenizer: Any, stub: str, answer: str) -> tuple[Tensor, Tensor]:
    """The tokens of what leads to an answer, `(S,)`, and those of the answer, `(A,)`, encoded together.

    A token that holds characters of both is the answer's: it is what the model has to find.

    Raises:
        InputError: if the answer is empty.
    """
    if not answer:
        raise InputError("an answer is empty: leave its question out")
    ids, ends = _encode(tokenizer, stub + answer)
    first = sum(end <= len(stub) for end in ends)
    return ids[:first], ids[first:]


def _encode(tokenizer: Any, text: str) -> tuple[Tensor, tuple[int, ...]]:
    """Tokens of `text`, without special ones, and the characters up to the end of each."""
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} does not say where its tokens stand: a fast one is needed"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = tuple(end for _, end in encoded["offset_mapping"])  # bytes of one character may be tokens of the same end
    return torch.tensor(encoded["input_ids"], dtype=torch.long), ends
