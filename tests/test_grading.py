"""Text and reference to a grade, and grade to reward."""

import json
from pathlib import Path

import pytest

from raml_trl.errors import InputError
from raml_trl.grading import Grade, extract_box, grade, readable
from raml_trl.prompts import STYLES, lay_out, prompt_messages, with_opening
from raml_trl.rewards import REWARDS, make_reward


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so \boxed{67}", "67"),
        (r"\boxed{1} and then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} then cut off \boxed{4", "3"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        ("no box", None),
        (r"\boxed{" + "1" * 2000 + "}", None),
        (r"\boxed{" * 50, None),
    ],
)
def test_last_complete_box(text: str, box: str | None) -> None:
    assert extract_box(text) == box


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (r"\boxed{67}", "67", True),
        (r"\boxed{067}", "67", True),
        (r"\boxed{68}", "67", False),
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{\frac43}", r"\frac{4}{3}", True),
        (r"\boxed{3}", r"3\sqrt{13}", False),  # a reference that is not wrapped would be read as 3
        (r"\boxed{3\sqrt{13}}", r"3\sqrt{13}", True),
        (r"\boxed{5}", "6 - 5i", False),
        (r"\boxed{1,000}", "1000", True),
        (r"<think>\boxed{67}</think>", "67", False),  # what is thought is not said
        (r"<think>\boxed{1}</think>\boxed{67}", "67", True),
        ("67", "67", False),
        ("", "67", False),
    ],
)
def test_correct(text: str, answer: str, correct: bool) -> None:
    assert grade(text, answer).correct is correct


@pytest.mark.parametrize(
    ("style", "text", "formatted"),
    [
        ("bare", r"<think>a1+2=3;</think>\boxed{34}", True),
        ("bare", r"<think></think>\boxed{34}", True),
        ("bare", r"<think>a1+2=3;\boxed{34}", False),
        ("bare", r"<think>a</think><think>b</think>\boxed{34}", False),
        ("bare", r"<think>a</think>\boxed{34}1", False),
        ("bare", r"<think>a</think>\boxed{3", False),
        ("boxed", r"anything \boxed{34} at all", True),
        ("boxed", "34", False),
        ("conclusion", "<think>\nx\n</think>\n<conclusion>\ny\nThe answer is \\boxed{3}\n</conclusion>", True),
        ("conclusion", "<think>\nx\n</think>\n<conclusion>\ny\n</conclusion>", False),
        ("conclusion", "<think>\nx\n<conclusion>\nThe answer is \\boxed{3}\n</conclusion>", False),
        ("conclusion", "<think>\nx\n</think>\nThe answer is \\boxed{3}", False),
    ],
)
def test_formatted(style: str, text: str, formatted: bool) -> None:
    assert grade(text, "3", style=style).formatted is formatted


@pytest.mark.parametrize("style", STYLES)
def test_what_is_laid_out_is_formatted_and_correct(style: str) -> None:
    for answer in ("12", r"\frac{1}{2}", r"\{1,2\}", "ANSWER"):
        text = lay_out("first this\nthen that", answer, style)
        assert STYLES[style].layout.fullmatch(text), text
        assert extract_box(text) == answer
    assert grade(lay_out("TRAJECTORY", "12", style), "12", style=style) == Grade(correct=True, formatted=True)


def test_the_opening_that_the_template_wrote() -> None:
    assert with_opening("so it is 3\n</think>\\boxed{3}") == "<think>\nso it is 3\n</think>\\boxed{3}"
    for text in ("<think>3</think>3", "3", "<think>cut off", "<think>a</think>b</think>c"):
        assert with_opening(text) == text


def test_layout_patterns_take_linear_time() -> None:
    for style in STYLES.values():
        for bad in ("<think>" * 20_000, "</think>" * 20_000, "\\boxed{" * 20_000, "a" * 200_000, "\n" * 200_000):
            style.layout.fullmatch(bad)  # quadratic patterns would take minutes here


def test_unreadable_reference_is_refused() -> None:
    assert readable("12")
    assert readable(r"\frac{1}{2}")
    assert not readable("")
    with pytest.raises(InputError, match="cannot be read"):
        grade(r"\boxed{1}", "")


def test_reward_is_equation_21() -> None:
    assert {Grade(True, True): 1, Grade(False, True): 0, Grade(True, False): -0.5, Grade(False, False): -1} == REWARDS
    metrics: dict[str, float] = {}
    columns: dict[str, list[bool]] = {}
    rewards = make_reward("bare")(
        prompts=[],
        completions=[
            [{"role": "assistant", "content": text}]
            for text in (r"<think></think>\boxed{34}", r"<think></think>\boxed{35}", r"\boxed{34}", "34")
        ],
        answer=["34"] * 4,
        log_metric=metrics.__setitem__,
        log_extra=columns.__setitem__,
    )
    assert rewards == [1, 0, -0.5, -1]
    assert metrics == {"correct": 0.5, "formatted": 0.5}
    assert columns["correct"] == [True, False, True, False]


def test_prompts() -> None:
    assert prompt_messages("1+1", "bare") == [{"role": "user", "content": "1+1"}]
    system, user = prompt_messages("1+1", "conclusion")
    assert (system["role"], user) == ("system", {"role": "user", "content": "1+1"})
    assert prompt_messages("1+1", "boxed")[0]["content"].startswith("1+1\n\n")
    with pytest.raises(InputError, match="'shouted' is unknown"):
        prompt_messages("1+1", "shouted")


def test_every_reference_of_aime_is_graded_right_against_its_own_box(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "aime24.jsonl").read_text().splitlines()]
    for row in rows:
        assert grade(rf"\boxed{{{row['answer']}}}", row["answer"]).correct, row["id"]
