"""Generates arithmetic questions that differ: in difficulty, in length, in their prompts and in their references.

As in `arithmetic`, a question asks for the last digit of each sum, but it has one or two sums. A sum adds 1, 2, 4 or 6
digits (`SIZES`), and two sums of a question add equally many. The trajectories have between 6 tokens, for one sum of a
single digit, and 77 tokens, for ten steps. They take the operands from the end of the question to its beginning.
Therefore, the distance between a step and its operand in the text depends little on the number of digits, and a small
model soon learns to find the operand. A wrong step spoils the answer, so a model solves short questions more often than
long ones.

- A fifth of the questions have examples before the question, each with its answer: `a=7+2=9;a=1,b=3+3=16;a=4+8+5`. The
  examples come from the same split and make prompts of 80 to about 140 tokens.
- In the split `grpo`, a tenth of the questions have a wrong reference, which no correct trajectory agrees with. The
  column `source` marks them, so that they can be counted and left out.

Vocabulary, chat template and splits are those of `arithmetic`.
"""

import hashlib
from dataclasses import replace

import numpy as np

from raml_trl.data.arithmetic import ArithmeticQuestion, draw_trajectory, generate_questions

NAME = "arithmetic_mixed"
"""The name of the dataset, and the `source` of its questions with a correct reference."""

WRONG_REFERENCE = f"{NAME}: wrong reference"
"""The `source` of the questions with a wrong reference."""

SIZES = (1, 2, 4, 6)
"""The possible numbers of digits in a sum."""

EXIT_PROBABILITY = 0.03
"""Probability that a trajectory skips to the answer, before each step."""

_SHARE_OF_EXAMPLES = 0.2
_EXAMPLES_LENGTH = (80, 110)
_HUNDREDTHS_WRONG = 10


def draw_question(rng: np.random.Generator) -> ArithmeticQuestion:
    """Draw a question, of any split and without examples: one or two sums of 1, 2, 4 or 6 digits each (`SIZES`)."""
    digits = rng.integers(10, size=(rng.integers(1, 3), rng.choice(SIZES)))
    return ArithmeticQuestion(*map(tuple, digits.tolist()))


def generate_mixed_questions(split: str, num_questions: int, rng: np.random.Generator) -> list[ArithmeticQuestion]:
    """Draw `num_questions` random questions of `split` with `rng`, and put examples before a fifth of them.

    No two questions have the same `key`, so they differ in more than the order of their digits and sums. Only few such
    questions with few digits exist, so the share of questions with few digits falls as `num_questions` grows.

    Raises:
        InputError: if the random draws do not find that many different questions.
    """
    questions = generate_questions(split, num_questions, rng, draw=draw_question)
    return [_add_examples(question, rng) if rng.random() < _SHARE_OF_EXAMPLES else question for question in questions]


def _add_examples(question: ArithmeticQuestion, rng: np.random.Generator) -> ArithmeticQuestion:
    """Put solved questions of the same split before `question`, until its text reaches a length drawn at random."""
    length = rng.integers(*_EXAMPLES_LENGTH)
    while len(question.text) < length:
        example = draw_question(rng)
        if example.split == question.split and example.key != question.key:
            question = replace(question, examples=(*question.examples, example))
    return question


def mixed_trajectories(question: ArithmeticQuestion, num_trajectories: int, rng: np.random.Generator) -> list[str]:
    """Draw `num_trajectories` correct trajectories of `question`, and return the different ones among them.

    Trajectories of a question differ only in the steps that they skip, so most of those drawn are repetitions, and
    fewer than `num_trajectories` are returned.
    """
    drawn = (
        draw_trajectory(question, rng, exit_probability=EXIT_PROBABILITY, from_end=True)
        for _ in range(num_trajectories)
    )
    return list(dict.fromkeys(drawn))


def mixed_reference(question: ArithmeticQuestion, seed: int) -> tuple[str, str]:
    """Return the reference answer of a question, and its `source`.

    The question and `seed` alone decide whether the reference is wrong. The last digit of a wrong reference differs
    from that of the answer.
    """
    if question.split != "grpo":
        return question.answer, NAME
    digest = hashlib.blake2b(repr((seed, question.key)).encode(), digest_size=8).digest()
    shift, hundredth = divmod(int.from_bytes(digest, "big"), 100)
    if hundredth >= _HUNDREDTHS_WRONG:
        return question.answer, NAME
    return f"{question.answer[:-1]}{(int(question.answer[-1]) + 1 + shift % 9) % 10}", WRONG_REFERENCE
