"""Trajectories as tokens: where they begin and end in the text, and which token crosses which place."""

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


def of(text: str, answer: str, tokenizer: Any = None) -> TrajectoryTokens:
    question = Question("q", "a=1+1+1,b=2+2+2", answer, "made")
    return tokenise(tokenizer or arithmetic_tokenizer(), question, 3, Trajectory(text, True, "m"), "bare")


def test_places_in_the_embedded_world() -> None:
    one = of(TEXT, "67")
    assert "".join(one.tokens) == TEXT
    assert one.tokens[0] == "<think>"
    assert one.thinking_start == 1
    assert one.tokens[one.thinking_end] == "</think>"
    assert one.tokens[one.box_after(0)] == "\\boxed{"
    assert one.stated == one.tokens.index("\\boxed{") + 3
    assert of(TEXT, "99").stated is None
    assert of("b1+6=7;\\boxed{67}", "67").thinking_end is None
    assert of("b1+6=7;\\boxed{67}", "67").thinking_start == 0
    assert of("b1+6=7;", "67").box_after(0) is None


def test_nothing_was_written() -> None:
    one = of("", "67")
    assert one.ids.shape == (0,)
    assert one.ids.dtype == torch.long
    assert (one.tokens, one.thinking_start, one.thinking_end, one.stated) == ([], 0, None, None)


def test_prompt_and_trajectory_are_what_the_chat_template_makes() -> None:
    tokenizer, one = arithmetic_tokenizer(), of(TEXT, "67")
    messages = [{"role": "user", "content": one.question.question}, {"role": "assistant", "content": TEXT}]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert torch.cat([one.prompt_ids, one.ids]).tolist() == whole[:-1]  # but for the end token


def test_a_template_that_opens_the_thinking() -> None:
    bpe = train_bpe([ENGLISH], 280)
    bpe.chat_template = "{{ messages[0].content + '<think>\n' }}"
    one = of("<think>\nwait</think>\\boxed{1}", "1", bpe)
    assert one.text == "wait</think>\\boxed{1}"
    assert one.thinking_start == 0
    assert bpe.decode(one.prompt_ids).endswith("<think>\n")


@given(st.text(st.sampled_from("aé1 .Ω\n≤{}\\"), min_size=1, max_size=30), st.integers(0, 30))
def test_prefixes_hold_what_they_say(text: str, character: int) -> None:
    one = of(text, "1", _BPE)
    character = min(character, len(text))
    lengths = [0, *one.ends]
    reached, within = one.reaches(character), one.within(character)
    assert lengths[reached] >= character
    assert reached == 0 or lengths[reached - 1] < character
    assert lengths[within] <= character
    assert within == len(one.ends) or lengths[within + 1] > character


_BPE = train_bpe([ENGLISH * 3, "é≤Ω" * 9], 280)


@pytest.mark.parametrize("answer", ["1.5", "\\frac{1}{2}", "x", "Ω", "12"])
def test_stub_and_answer_are_encoded_together(bpe: Any, answer: str) -> None:
    stub = "therefore\n\nthe answer is \\boxed{"
    stub_ids, answer_ids = encode_answer(bpe, stub, answer)
    assert torch.cat([stub_ids, answer_ids]).tolist() == bpe(stub + answer, add_special_tokens=False)["input_ids"]
    assert bpe.decode(stub_ids) == stub[: len(bpe.decode(stub_ids))]
    assert bpe.decode(answer_ids).endswith(answer)


def test_the_stub_keeps_its_last_token() -> None:
    tokenizer = arithmetic_tokenizer()
    stub_ids, answer_ids = encode_answer(tokenizer, "</think>\\boxed{", "67")
    assert tokenizer.convert_ids_to_tokens(stub_ids) == ["</think>", "\\boxed{"]
    assert tokenizer.convert_ids_to_tokens(answer_ids) == ["6", "7"]


def test_a_token_across_the_border_is_the_answers() -> None:
    tokenizer = train_bpe(["{x} {x} {x}"] * 50, 280)
    merged = tokenizer("{x", add_special_tokens=False)["input_ids"]
    assert len(merged) == 1, "the tokenizer learned no token across the border"
    stub_ids, answer_ids = encode_answer(tokenizer, "x{", "x")
    assert tokenizer.decode(answer_ids).strip() == "{x"
    assert tokenizer.decode(stub_ids) == "x"


def test_refused(bpe: Any) -> None:
    with pytest.raises(InputError, match="answer is empty"):
        encode_answer(bpe, "so ", "")
