"""Tests the arithmetic questions: correct sums, distinct trajectories, and splits without a common question."""

import re
from itertools import permutations

import numpy as np
import pytest

from raml_trl.data.arithmetic import (
    NUM_OPERANDS,
    SPLITS,
    VOCABULARY,
    ArithmeticQuestion,
    generate_questions,
    generate_trajectories,
)
from raml_trl.grading.grader import Grade, grade
from raml_trl.runtime.errors import InputError


def test_answer_is_the_last_digits_of_the_sums() -> None:
    question = ArithmeticQuestion((7, 7, 2), (6, 5, 6))
    assert question.text == "a=7+7+2,b=6+5+6"
    assert question.answer == "67"  # 7+7+2 = 16, 6+5+6 = 17


def test_trajectories_are_correct_in_every_step_and_distinct(rng: np.random.Generator) -> None:
    for question in generate_questions("sft", 50, rng):
        trajectories = generate_trajectories(question, 8, rng)
        assert len(set(trajectories)) == 8
        for text in trajectories:
            assert grade(text, question.answer, style="bare") == Grade(True, True, "correct")
            steps = re.findall(r"[ab](\d)\+(\d)=(\d);", text)
            assert all((int(left) + int(right)) % 10 == int(result) for left, right, result in steps)
            assert len(steps) <= 2 * (NUM_OPERANDS - 1)


def test_exit_probability(rng: np.random.Generator) -> None:
    [question] = generate_questions("sft", 1, rng)
    never = generate_trajectories(question, 20, rng, exit_probability=0.0)
    assert {text.count(";") for text in never} == {4}
    often = generate_trajectories(question, 20, rng, exit_probability=0.5)
    assert min(text.count(";") for text in often) < 4


def test_equal_operands_have_few_trajectories(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="gave only 6 different"):  # 4! / (2! 2!) orders of two steps of a and two of b
        generate_trajectories(ArithmeticQuestion((7, 7, 7), (5, 5, 5)), 7, rng, exit_probability=0.0)


@pytest.mark.long
def test_no_training_question_is_a_test_question_in_another_order(rng: np.random.Generator) -> None:
    def orders(question: ArithmeticQuestion) -> set[str]:
        return {
            ArithmeticQuestion(first, second).text
            for left, right in ((question.a, question.b), (question.b, question.a))
            for first in permutations(left)
            for second in permutations(right)
        }

    trained = {question.text for split in ("sft", "grpo") for question in generate_questions(split, 2_000, rng)}
    for question in generate_questions("test", 300, rng):
        assert not orders(question) & trained


def test_splits_cover_all_questions() -> None:
    assert sorted(hundredth for split in SPLITS.values() for hundredth in split) == list(range(100))


def test_same_seed_same_questions() -> None:
    first, again = (generate_questions("grpo", 100, np.random.default_rng(5)) for _ in range(2))
    assert first == again
    assert len({question.key for question in first}) == 100


@pytest.mark.long
def test_impossible_requests_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="distinct questions of split"):
        generate_questions("test", 6_000, rng)


def test_every_text_consists_of_the_vocabulary(rng: np.random.Generator) -> None:
    words = re.compile("|".join(re.escape(word) for word in sorted(VOCABULARY, key=len, reverse=True)))
    for question in generate_questions("test", 20, rng):
        for text in (question.text, *generate_trajectories(question, 4, rng)):
            assert words.sub("", text) == ""
