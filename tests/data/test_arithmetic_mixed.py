"""Tests the mixed arithmetic questions: their sizes, examples and wrong references."""

import re
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from raml_trl.data.arithmetic import ArithmeticQuestion, generate_questions, generate_trajectories
from raml_trl.data.arithmetic_mixed import (
    NAME,
    SIZES,
    WRONG_REFERENCE,
    generate_mixed_questions,
    mixed_reference,
    mixed_trajectories,
)
from raml_trl.data.config import PrepareDataConfig
from raml_trl.data.preparation import prepare
from raml_trl.data.reading import load_questions
from raml_trl.grading.grader import Grade, grade


def num_steps(question: ArithmeticQuestion) -> int:
    return sum(len(digits) - 1 for digits in question.sums.values())


def test_the_questions_of_the_demo_are_those_of_earlier_versions() -> None:
    digest, rng = blake2b(digest_size=8), np.random.default_rng([0, 1])
    for question in generate_questions("sft", 512, rng):
        for text in (question.text, question.answer, *generate_trajectories(question, 8, rng)):
            digest.update(text.encode() + b"\n")
    assert digest.hexdigest() == "c173de534fc805c2"


def test_sums_and_lengths_differ(rng: np.random.Generator) -> None:
    questions = generate_mixed_questions("grpo", 400, rng)
    assert len({question.key for question in questions}) == 400
    assert {question.split for question in questions} == {"grpo"}
    assert {len(question.sums) for question in questions} == {1, 2}
    assert {tuple(map(len, question.sums.values())) for question in questions} == {
        (size,) * number for size in SIZES for number in (1, 2)
    }
    tokens = [7 * num_steps(question) + 5 + len(question.answer) for question in questions]
    assert min(tokens) <= 7
    assert max(tokens) >= 70
    assert ArithmeticQuestion((7,)).text == "a=7"
    assert ArithmeticQuestion((7, 7), (6,)).answer == "46"


def test_a_fifth_of_the_prompts_have_examples_of_the_same_split(rng: np.random.Generator) -> None:
    questions = generate_mixed_questions("test", 500, rng)
    long = [question for question in questions if question.examples]
    assert 70 <= len(long) <= 130  # mean 100, standard deviation 9
    for question in long:
        assert 80 <= len(question.text) <= 200
        *examples, asked = question.text.split(";")
        assert asked == ArithmeticQuestion(question.a, question.b).text
        for shown, example in zip(examples, question.examples, strict=True):
            assert example.split == "test"
            assert example.key != question.key
            assert shown == f"{example.text}={example.answer}"
            sums = re.findall(r"[ab]=([\d+]+)", shown)
            assert shown.rpartition("=")[2] == "".join(str(sum(map(int, text.split("+"))) % 10) for text in sums)
    assert all(len(question.text) < 40 for question in questions if not question.examples)


def test_trajectories_are_correct_and_distinct(rng: np.random.Generator) -> None:
    for question in generate_mixed_questions("sft", 100, rng):
        trajectories = mixed_trajectories(question, 4, rng)
        assert 1 <= len(set(trajectories)) == len(trajectories) <= 4
        for text in trajectories:
            assert grade(text, question.answer, style="bare") == Grade(True, True, "correct")
            steps = re.findall(r"([ab])(\d)\+(\d)=(\d);", text)
            assert len(steps) <= num_steps(question)
            assert all((int(left) + int(right)) % 10 == int(result) for _, left, right, result in steps)
            names = [name for name, *_ in steps]
            assert names == sorted(names, reverse=True)
            for name, digits in question.sums.items():
                taken = [int(right) for sum_name, _, right, _ in steps if sum_name == name]
                assert tuple(taken) == digits[::-1][1 : 1 + len(taken)]
    assert mixed_trajectories(ArithmeticQuestion((7,)), 4, rng) == ["<think></think>\\boxed{7}"]


def test_a_tenth_of_the_references_are_wrong_by_question_and_seed(rng: np.random.Generator) -> None:
    questions = generate_mixed_questions("grpo", 1_000, rng)
    wrong = [question for question in questions if mixed_reference(question, 0)[1] == WRONG_REFERENCE]
    assert 65 <= len(wrong) <= 135  # mean 100, standard deviation 9.5
    for question in questions:
        reference, source = mixed_reference(question, 0)
        assert (reference == question.answer) == (source == NAME)
        assert len(reference) == len(question.answer)
        reordered = ArithmeticQuestion(question.a[::-1], question.b[::-1])
        assert mixed_reference(reordered, 0) == (reference, source)
    others = {question.key for question in questions if mixed_reference(question, 1)[1] == WRONG_REFERENCE}
    assert others != {question.key for question in wrong}
    for split in ("sft", "test"):
        clean = generate_mixed_questions(split, 200, rng)
        assert all(mixed_reference(question, 0) == (question.answer, NAME) for question in clean)


@pytest.mark.parametrize("split", ["grpo", "test"])
def test_prepared_data_mark_the_wrong_references(split: str, tmp_path: Path) -> None:
    config = PrepareDataConfig(dataset_name=NAME, dataset_split=split, num_questions=300, output_dir=str(tmp_path))
    counts = prepare(config, tmp_path)
    assert counts.questions == 300
    assert not counts.left_out
    questions = load_questions(str(tmp_path))
    wrong = 0
    for question in questions:
        sums = re.findall(r"[ab]=([\d+]+)", question.question.rpartition(";")[2])
        right = "".join(str(sum(map(int, text.split("+"))) % 10) for text in sums) == question.answer
        assert question.source == (NAME if right else WRONG_REFERENCE)
        wrong += not right
    assert wrong == 0 if split == "test" else 12 <= wrong <= 50
