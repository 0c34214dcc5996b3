"""Trajectories are encoded as tokens, and the places where their thinking and their answer start and end are found."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raml_trl.analysis.trajectories import TrajectoryTokens, encode_answer, tokenise
from raml_trl.build_model import arithmetic_tokenizer, train_bpe
from raml_trl.data.records import Question, Trajectory
from raml_trl.runtime.errors import InputError

TEXT = "<think>b1+6=7;a9+7=6;</think>\\boxed{67}"
ENGLISH = "We wait, then add: $\\frac{1}{2}+1=1.5$; therefore\n\nthe answer is \\boxed{1.5}. Ωμ!"


@pytest.fixture(scope="module")
def bpe() -> Any:
    return train_bpe([ENGLISH * 3, TEXT], 300)


def tokens_of(text: str, answer: str, tokenizer: Any = None) -> TrajectoryTokens:
    question = Question("q", "a=1+1+1,b=2+2+2", answer, "made")
    return tokenise(tokenizer or arithmetic_tokenizer(), question, 3, Trajectory(text, True, "m"), "bare")


def test_thinking_box_and_answer_are_located() -> None:
    trajectory = tokens_of(TEXT, "67")
    assert "".join(trajectory.tokens) == TEXT
    assert trajectory.tokens[0] == "<think>"
    assert trajectory.thinking_start == 1
    assert trajectory.tokens[trajectory.thinking_end] == "</think>"
    assert trajectory.tokens[trajectory.box_after(0)] == "\\boxed{"
    assert trajectory.stated == trajectory.tokens.index("\\boxed{") + 3
    assert tokens_of(TEXT, "99").stated is None
    assert tokens_of("b1+6=7;\\boxed{67}", "67").thinking_end is None
    assert tokens_of("b1+6=7;\\boxed{67}", "67").thinking_start == 0
    assert tokens_of("b1+6=7;", "67").box_after(0) is None


def test_an_empty_trajectory() -> None:
    trajectory = tokens_of("", "67")
    assert trajectory.ids.shape == (0,)
    assert trajectory.ids.dtype == torch.long
    assert (trajectory.tokens, trajectory.thinking_start, trajectory.thinking_end, trajectory.stated) == (
        [],
        0,
        None,
        None,
    )


def test_prompt_and_trajectory_match_the_chat_template() -> None:
    tokenizer, trajectory = arithmetic_tokenizer(), tokens_of(TEXT, "67")
    messages = [{"role": "user", "content": trajectory.question.question}, {"role": "assistant", "content": TEXT}]
    complete = tokenizer.apply_chat_template(messages)["input_ids"]
    assert torch.cat([trajectory.prompt_ids, trajectory.ids]).tolist() == complete[:-1]  # without the end token


def test_a_chat_template_that_opens_the_thinking_block() -> None:
    bpe = train_bpe([ENGLISH], 280)
    bpe.chat_template = "{{ messages[0].content + '<think>\n' }}"
    trajectory = tokens_of("<think>\nwait</think>\\boxed{1}", "1", bpe)
    assert trajectory.text == "wait</think>\\boxed{1}"
    assert trajectory.thinking_start == 0
    assert bpe.decode(trajectory.prompt_ids).endswith("<think>\n")


@given(st.text(st.sampled_from("aé1 .Ω\n≤{}\\"), min_size=1, max_size=30), st.integers(0, 30))
def test_prefix_lengths_match_their_characters(text: str, character: int) -> None:
    trajectory = tokens_of(text, "1", _BPE)
    character = min(character, len(text))
    lengths = [0, *trajectory.ends]
    reached, within = trajectory.reaches(character), trajectory.within(character)
    assert lengths[reached] >= character
    assert reached == 0 or lengths[reached - 1] < character
    assert lengths[within] <= character
    assert within == len(trajectory.ends) or lengths[within + 1] > character


_BPE = train_bpe([ENGLISH * 3, "é≤Ω" * 9], 280)


@pytest.mark.parametrize("answer", ["1.5", "\\frac{1}{2}", "x", "Ω", "12"])
def test_stub_and_answer_are_encoded_together(bpe: Any, answer: str) -> None:
    stub = "therefore\n\nthe answer is \\boxed{"
    stub_ids, answer_ids = encode_answer(bpe, stub, answer)
    assert torch.cat([stub_ids, answer_ids]).tolist() == bpe(stub + answer, add_special_tokens=False)["input_ids"]
    assert bpe.decode(stub_ids) == stub[: len(bpe.decode(stub_ids))]
    assert bpe.decode(answer_ids).endswith(answer)


def test_the_stub_keeps_its_tokens() -> None:
    tokenizer = arithmetic_tokenizer()
    stub_ids, answer_ids = encode_answer(tokenizer, "</think>\\boxed{", "67")
    assert tokenizer.convert_ids_to_tokens(stub_ids) == ["</think>", "\\boxed{"]
    assert tokenizer.convert_ids_to_tokens(answer_ids) == ["6", "7"]


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    tokenizer = train_bpe(["{x} {x} {x}"] * 50, 280)
    merged = tokenizer("{x", add_special_tokens=False)["input_ids"]
    assert len(merged) == 1, "the tokenizer learned no token across the border"
    stub_ids, answer_ids = encode_answer(tokenizer, "x{", "x")
    assert tokenizer.decode(answer_ids).strip() == "{x"
    assert tokenizer.decode(stub_ids) == "x"


def test_an_empty_answer_is_rejected(bpe: Any) -> None:
    with pytest.raises(InputError, match="answer is empty"):
        encode_answer(bpe, "so ", "")
