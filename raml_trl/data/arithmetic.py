r"""Generates arithmetic questions with many correct trajectories each and a checkable answer, all from a seed.

A question such as `a=7+7+2,b=6+5+6` asks for the last digit of each of two sums, here of 16 and 17, so its answer is
`67`. A trajectory adds one operand per step and keeps only the last digit of the result. It may take the operands of a
sum in any order, and alternate between the two sums in any order:

    <think>b5+6=1;a7+2=9;b1+6=7;a9+7=6;</think>\boxed{67}

Here the first step, `b5+6=1`, adds two operands of the sum b, and the third step, `b1+6=7`, adds the last one.

So a question has dozens of correct trajectories, and the number of trajectories per question (K) can be varied. A
single wrong step spoils the answer, which leaves reinforcement learning something to improve. Before each step, with
the probability `exit_probability`, a trajectory skips the remaining steps and states the answer. A model that is
trained on these trajectories also learns to skip steps, a bad habit that reinforcement learning can remove, and it
learns to state an answer after truncated reasoning.

The splits share no question by construction. Two questions that differ only in the order of the operands, or of the two
sums, are in the same split, so no test question occurs in training in any order.

This module draws the questions of the dataset `arithmetic`. `arithmetic_mixed` draws other sizes.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from raml_trl.runtime.errors import InputError

NUM_OPERANDS = 3
"""Number of digits that each of the two sums adds."""

SPLITS: dict[str, range] = {"test": range(0, 20), "sft": range(20, 50), "grpo": range(50, 100)}
"""A question is in the split whose range contains the hash of its operands, modulo 100."""

MOST_TRAJECTORIES = 529
"""The number of different trajectories of a question whose operands all differ, those that skip steps included."""

SPECIAL_TOKENS: tuple[str, ...] = ("<pad>", "<eos>", "<user>", "<assistant>")
VOCABULARY: tuple[str, ...] = (*SPECIAL_TOKENS, "<think>", "</think>", "\\boxed{", "}", *"0123456789ab=+,;")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ message.content }}{{ eos_token }}"
    "{% else %}<user>{{ message.content }}<assistant>{% endif %}"
    "{% endfor %}"
)
"""A prompt ends with `<assistant>`, so the text of a whole conversation begins with the text of its prompt."""


@dataclass(frozen=True)
class ArithmeticQuestion:
    """A question: the digits that it adds in each of its one or two sums, in the order in which its text names them.

    A question with one sum has no digits in `b`. The text begins with the `examples`: other questions, each with its
    answer.
    """

    a: tuple[int, ...]
    b: tuple[int, ...] = ()
    examples: tuple["ArithmeticQuestion", ...] = ()

    @property
    def sums(self) -> dict[str, tuple[int, ...]]:
        """The digits that each sum adds, by the name of the sum, `a` or `b`."""
        return {name: digits for name, digits in (("a", self.a), ("b", self.b)) if digits}

    @property
    def text(self) -> str:
        shown = "".join(f"{example.text}={example.answer};" for example in self.examples)
        return shown + ",".join(f"{name}={'+'.join(map(str, digits))}" for name, digits in self.sums.items())

    @property
    def answer(self) -> str:
        return "".join(str(sum(digits) % 10) for digits in self.sums.values())

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """The operands in a sorted order: sorted within each sum, and then the two sums themselves.

        Two questions have the same key if they differ only in the order of operands within a sum, or of the two sums.
        """
        return tuple(sorted((tuple(sorted(self.a)), tuple(sorted(self.b)))))

    @property
    def split(self) -> str:
        digest = hashlib.blake2b(repr(self.key).encode(), digest_size=8).digest()
        hundredth = int.from_bytes(digest, "big") % 100
        return next(split for split, hundredths in SPLITS.items() if hundredth in hundredths)


def split_size(split: str) -> int:
    """Return the number of questions in a split of `arithmetic`; those that differ only in order count as one."""
    sums = list(combinations_with_replacement(range(10), NUM_OPERANDS))
    return sum(ArithmeticQuestion(*pair).split == split for pair in combinations_with_replacement(sums, 2))


def draw_question(rng: np.random.Generator) -> ArithmeticQuestion:
    """Draw a question with two sums of `NUM_OPERANDS` digits each. It may belong to any split."""
    digits = [int(digit) for digit in rng.integers(10, size=2 * NUM_OPERANDS)]
    return ArithmeticQuestion(tuple(digits[:NUM_OPERANDS]), tuple(digits[NUM_OPERANDS:]))


def generate_questions(
    split: str,
    num_questions: int,
    rng: np.random.Generator,
    *,
    draw: Callable[[np.random.Generator], ArithmeticQuestion] = draw_question,
) -> list[ArithmeticQuestion]:
    """Draw `num_questions` random questions of `split` with `rng`. No two of them have the same `key`.

    Args:
        split: a key of `SPLITS`.
        num_questions: the number of questions.
        rng: the generator that `draw` gets.
        draw: draws one question, which may belong to any split. Questions of other splits than `split` are discarded.

    Raises:
        InputError: if the random draws do not find that many different questions, because the split is too small.
    """
    assert split in SPLITS, split
    questions: dict[tuple[tuple[int, ...], ...], ArithmeticQuestion] = {}
    attempts = 20 * num_questions + 10_000
    for _ in range(attempts):
        if len(questions) == num_questions:
            break
        question = draw(rng)
        if question.split == split:
            questions.setdefault(question.key, question)
    if len(questions) < num_questions:
        raise InputError(
            f"num_questions is {num_questions}, but {attempts} draws gave only {len(questions)} distinct questions of "
            f"split {split!r}: reduce num_questions"
        )
    return list(questions.values())


def generate_trajectories(
    question: ArithmeticQuestion, num_trajectories: int, rng: np.random.Generator, *, exit_probability: float = 0.05
) -> list[str]:
    """Draw `num_trajectories` different correct trajectories of `question` with `rng`.

    Before each step, a trajectory skips to the answer with the probability `exit_probability`.

    Raises:
        InputError: if the random draws give fewer different trajectories. A question with equal operands has fewer
            trajectories than other questions.
    """
    trajectories: dict[str, None] = {}
    attempts = 1_000 * num_trajectories
    for _ in range(attempts):
        if len(trajectories) == num_trajectories:
            break
        trajectories.setdefault(draw_trajectory(question, rng, exit_probability=exit_probability))
    if len(trajectories) < num_trajectories:
        raise InputError(
            f"num_trajectories is {num_trajectories}, but {attempts} draws for question {question.text!r} gave only "
            f"{len(trajectories)} different trajectories: reduce num_trajectories"
        )
    return list(trajectories)


def draw_trajectory(
    question: ArithmeticQuestion, rng: np.random.Generator, *, exit_probability: float, from_end: bool = False
) -> str:
    """Draw a correct trajectory of `question` with `rng`.

    Args:
        question: the question.
        rng: the generator.
        exit_probability: the probability to skip to the answer, before each step.
        from_end: take the operands from the end of the question to its beginning. Otherwise their order is random, and
            the steps of the sums `a` and `b` are mixed at random.
    """
    steps = "".join(_steps(question, rng, exit_probability, from_end=from_end))
    return f"<think>{steps}</think>\\boxed{{{question.answer}}}"


def _steps(
    question: ArithmeticQuestion, rng: np.random.Generator, exit_probability: float, *, from_end: bool
) -> Iterator[str]:
    """Yield the steps of one trajectory, such as `b5+6=1;`, until it ends or skips to the answer."""
    operands = {
        name: list(digits) if from_end else rng.permutation(digits).tolist() for name, digits in question.sums.items()
    }
    running = {name: digits.pop() for name, digits in operands.items()}
    longest = max(map(len, operands.values()))
    turns = [name for turn in range(longest) for name, digits in operands.items() if turn < len(digits)]
    for name in sorted(turns, reverse=True) if from_end else rng.permutation(turns).tolist():
        if rng.random() < exit_probability:
            return
        operand = operands[name].pop()
        result = (running[name] + operand) % 10
        yield f"{name}{running[name]}+{operand}={result};"
        running[name] = result
