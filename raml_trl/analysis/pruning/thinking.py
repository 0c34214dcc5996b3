"""Finds the thinking of a trajectory, and prepares the stub (the text that introduces the answer) to follow it."""

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from raml_trl.analysis.text import split_sentences
from raml_trl.analysis.trajectories import ANSWERING, THINKING, TrajectoryTokens, encode_answer, opens_thinking
from raml_trl.prompts import find_style, lay_out


@dataclass(frozen=True)
class Thinking:
    """The thinking of a trajectory, and the stub and the reference answer that follow it.

    The thinking is `tokens.ids[start:end]`. `stub` closes the thinking and opens the box; `stub_ids` `(S,)` are its
    tokens. The stub stays the same however much of the thinking is kept, so that answers and losses can be compared.
    `answer_ids` `(A,)` are the tokens of the reference answer.
    """

    tokens: TrajectoryTokens
    start: int
    end: int
    stub: str
    stub_ids: Tensor
    answer_ids: Tensor

    @property
    def ids(self) -> Tensor:
        """Tokens of the thinking, `(N,)`."""
        return self.tokens.ids[self.start : self.end]

    @property
    def opening_ids(self) -> Tensor:
        """Tokens of the prompt and of the trajectory before the thinking, `(P,)`."""
        return torch.cat([self.tokens.prompt_ids, self.tokens.ids[: self.start]])

    @property
    def text(self) -> str:
        """Text of the thinking."""
        return self.first(self.end - self.start)

    def first(self, count: int) -> str:
        """Return the text of the first `count` tokens of the thinking, or all of its text if it has fewer."""
        ends = (0, *self.tokens.ends)
        return self.tokens.text[ends[self.start] : ends[min(self.start + count, self.end)]]

    def lay_out(self, text: str, answer: str, style: str) -> str:
        """Write a trajectory with the thinking `text`, and `answer` in its box, in the layout of `style`.

        `text` is put into a `<think>` block if the thinking of this trajectory is in one.
        """
        if ANSWERING in self.stub and ANSWERING not in find_style(style).template:
            text = f"{THINKING}\n{text.strip()}\n{ANSWERING}"
        return lay_out(text, answer, style)


def find_thinking(tokenizer: PreTrainedTokenizerBase, tokens: TrajectoryTokens, stub: str) -> Thinking:
    """Find the thinking of a trajectory, without the white space around it.

    In a thinking block, the thinking ends at `</think>`, or at the end of the text if the block is never closed, as in
    a truncated sample. Without a block, the thinking ends before the sentence with the last box, because this sentence
    gives the answer, and pruning lets the model answer anew. With neither block nor box, it is the whole text.

    Args:
        tokenizer: tokenizer of the model.
        tokens: the trajectory.
        stub: text between a trajectory and its answer.

    Returns:
        The thinking and the stub that follows it. If the trajectory has a thinking block that `stub` does not close,
        `</think>` is put before `stub`.

    Raises:
        InputError: if the question of the trajectory has an empty reference answer.
    """
    text, ends = tokens.text, tokens.ends
    begin, over = text.find(THINKING) + len(THINKING), text.rfind(ANSWERING)
    block = over >= 0 or THINKING in text or opens_thinking(tokenizer, tokens.prompt_ids)
    if THINKING not in text:
        begin = 0
    if block and ANSWERING not in stub:
        stub = f"\n{ANSWERING}{stub}"
    if over < begin:
        over = len(text) if block else _before_answer(text)
    inside = text[begin:over]
    begin += len(inside) - len(inside.lstrip())
    over = max(begin, over - len(inside) + len(inside.rstrip()))
    start = bisect_right(ends, begin)  # a token that reaches into the thinking belongs to it
    end = start if over == begin else max(start, tokens.reaches(over))
    stub_ids, answer_ids = encode_answer(tokenizer, stub, tokens.question.answer)
    return Thinking(tokens, start, end, stub, stub_ids, answer_ids)


def _before_answer(text: str) -> int:
    """Return the number of characters before the sentence with the last box; all characters if there is no box."""
    box = text.rfind("\\boxed")
    before = 0
    for sentence in split_sentences(text):
        if before + len(sentence) > box >= 0:
            break
        before += len(sentence)
    return before
