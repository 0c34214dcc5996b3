"""A trajectory taken apart: what opens its thinking, the thinking, and what leads from there to the answer."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raml_trl.analysis.sentences import split_sentences
from raml_trl.analysis.trajectories import ANSWERING, THINKING, TrajectoryTokens, encode_answer
from raml_trl.prompts import find_style, lay_out


@dataclass(frozen=True)
class Thinking:
    """The thinking of a trajectory: its tokens from `start` to `end`, and what is asked once it, or less, is read.

    `stub` ends the thinking and opens the box. It is the same whatever is left of the thinking, so that answers and
    losses can be compared: `stub_ids` `(S,)` and `answer_ids` `(A,)` are encoded by themselves.
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
        """Prompt and what comes before the thinking, `(P,)`."""
        return torch.cat([self.tokens.prompt_ids, self.tokens.ids[: self.start]])

    @property
    def text(self) -> str:
        return self.first(self.end - self.start)

    def first(self, count: int) -> str:
        """The text of the first `count` tokens of the thinking, of all if there are no more."""
        ends = (0, *self.tokens.ends)
        return self.tokens.text[ends[self.start] : ends[min(self.start + count, self.end)]]

    def lay_out(self, text: str, answer: str, style: str) -> str:
        """A trajectory in the layout of `style` with `text` for its thinking, in a block if this one stands in one."""
        if ANSWERING in self.stub and ANSWERING not in find_style(style).template:
            text = f"{THINKING}\n{text.strip()}\n{ANSWERING}"
        return lay_out(text, answer, style)


def find_thinking(tokenizer: Any, tokens: TrajectoryTokens, stub: str) -> Thinking:
    """The thinking of a trajectory, without the space around it.

    It ends at `</think>`; in a block that was never ended, as where a sample was cut off, all of it is thinking. In a
    trajectory without a block it ends before the sentence with the last box, in whose place the answer is forced.

    Args:
        stub: what leads from a trajectory to its answer. The end of a thinking block is put before it if it has none
            and there is a block to be ended.

    Raises:
        InputError: if the reference answer is empty.
    """
    text, ends = tokens.text, tokens.ends
    begin, over = text.find(THINKING) + len(THINKING), text.rfind(ANSWERING)
    block = over >= 0 or THINKING in text or _opened(tokenizer, tokens.prompt_ids)
    if THINKING not in text:
        begin = 0
    if block and ANSWERING not in stub:
        stub = f"\n{ANSWERING}{stub}"
    if over < begin:
        over = len(text) if block else _before_answer(text)
    inside = text[begin:over]
    begin += len(inside) - len(inside.lstrip())
    over = max(begin, over - len(inside) + len(inside.rstrip()))
    start = bisect_right(ends, begin)  # a token that reaches into the thinking is part of it
    end = start if over == begin else max(start, tokens.reaches(over))
    stub_ids, answer_ids = encode_answer(tokenizer, stub, tokens.question.answer)
    return Thinking(tokens, start, end, stub, stub_ids, answer_ids)


def _before_answer(text: str) -> int:
    """Characters of `text` before the sentence with its last box; all, if it has none."""
    box = text.rfind("\\boxed")
    before = 0
    for sentence in split_sentences(text):
        if before + len(sentence) > box >= 0:
            break
        before += len(sentence)
    return before


def _opened(tokenizer: Any, prompt_ids: Tensor) -> bool:
    """Whether the chat template opens a thinking block."""
    return str(tokenizer.decode(prompt_ids[-16:])).rstrip().endswith(THINKING)
