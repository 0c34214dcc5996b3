r"""The embedded world: questions, many correct trajectories for each, and a checkable answer, all from a seed.

A question asks for the last digits of two sums, `a=7+7+2,b=6+5+6`; the answer writes one after the other, `67`.
A trajectory adds up in steps, and is free in the order of the operands and in how the two sums interleave:

    <think>b5+6=1;a7+2=9;b1+6=7;a9+7=6;</think>\boxed{67}

So a question has dozens of correct trajectories, which is what makes the number of them per question (K) matter, and
a wrong step anywhere spoils the answer, which is what leaves reinforcement learning something to do. Before each step
a trajectory may jump to the answer (`exit_probability`): a bad habit for the model to copy and then to unlearn, and
what lets it answer a truncated trajectory at all.

Splits are disjoint by construction: the split of a question is a function of its operands alone, whatever their order
and whichever sum they stand in, so no test question is met in training in any order of operands.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raml_trl.runtime.errors import InputError

NUM_OPERANDS = 3
"""Digits in each of the two sums."""

SPLITS: dict[str, range] = {"test": range(0, 20), "sft": range(20, 50), "grpo": range(50, 100)}
"""Which hundredths of all questions belong to which split."""

SPECIAL_TOKENS: tuple[str, ...] = ("<pad>", "<eos>", "<user>", "<assistant>")
VOCABULARY: tuple[str, ...] = (*SPECIAL_TOKENS, "<think>", "</think>", "\\boxed{", "}", *"0123456789ab=+,;")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ message.content }}{{ eos_token }}"
    "{% else %}<user>{{ message.content }}<assistant>{% endif %}"
    "{% endfor %}"
)
"""A user turn already opens the assistant's, so the prompt is a prefix of prompt and completion."""


@dataclass(frozen=True)
class ArithmeticQuestion:
    """Two sums of digits, in the order in which the question writes them."""

    a: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"a={'+'.join(map(str, self.a))},b={'+'.join(map(str, self.b))}"

    @property
    def answer(self) -> str:
        return f"{sum(self.a) % 10}{sum(self.b) % 10}"

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """The same for every order of the operands and of the two sums."""
        return tuple(sorted((tuple(sorted(self.a)), tuple(sorted(self.b)))))

    @property
    def split(self) -> str:
        digest = hashlib.blake2b(repr(self.key).encode(), digest_size=8).digest()
        hundredth = int.from_bytes(digest, "big") % 100
        return next(split for split, hundredths in SPLITS.items() if hundredth in hundredths)


def generate_questions(split: str, num_questions: int, rng: np.random.Generator) -> list[ArithmeticQuestion]:
    """`num_questions` distinct questions of `split`, no two alike up to the order of operands.

    Raises:
        InputError: if the split does not hold that many questions.
    """
    assert split in SPLITS, split
    found: dict[tuple[tuple[int, ...], ...], ArithmeticQuestion] = {}
    attempts = 20 * num_questions + 10_000
    for _ in range(attempts):
        if len(found) == num_questions:
            break
        digits = [int(digit) for digit in rng.integers(10, size=2 * NUM_OPERANDS)]
        question = ArithmeticQuestion(tuple(digits[:NUM_OPERANDS]), tuple(digits[NUM_OPERANDS:]))
        if question.split == split:
            found.setdefault(question.key, question)
    if len(found) < num_questions:
        raise InputError(
            f"num_questions is {num_questions}, but only {len(found)} distinct questions of split {split!r} were found "
            f"in {attempts} draws: ask for fewer"
        )
    return list(found.values())


def generate_trajectories(
    question: ArithmeticQuestion, num_trajectories: int, rng: np.random.Generator, *, exit_probability: float = 0.05
) -> list[str]:
    """`num_trajectories` different correct trajectories of `question`.

    Raises:
        InputError: if that many different ones were not found (equal operands leave fewer orders).
    """
    found: dict[str, None] = {}
    attempts = 1_000 * num_trajectories
    for _ in range(attempts):
        if len(found) == num_trajectories:
            break
        steps = "".join(_steps(question, rng, exit_probability))
        found.setdefault(f"<think>{steps}</think>\\boxed{{{question.answer}}}")
    if len(found) < num_trajectories:
        raise InputError(
            f"num_trajectories is {num_trajectories}, but question {question.text!r} has only {len(found)} different "
            f"trajectories in {attempts} draws: ask for fewer"
        )
    return list(found)


def _steps(question: ArithmeticQuestion, rng: np.random.Generator, exit_probability: float) -> Iterator[str]:
    """The steps of one trajectory, cut short where it jumps to the answer."""
    operands = {"a": rng.permutation(question.a).tolist(), "b": rng.permutation(question.b).tolist()}
    running = {name: digits.pop() for name, digits in operands.items()}
    for name in rng.permutation(["a", "b"] * (NUM_OPERANDS - 1)).tolist():
        if rng.random() < exit_probability:
            return
        operand = operands[name].pop()
        result = (running[name] + operand) % 10
        yield f"{name}{running[name]}+{operand}={result};"
        running[name] = result
