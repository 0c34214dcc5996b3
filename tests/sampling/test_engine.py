"""Tests that `TransformersEngine` draws every sample once, reproducibly, and decodes greedily at temperature 0."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.prompts import prompt_messages
from raml_trl.sampling.engine import Completion, SamplingSettings
from raml_trl.sampling.transformers_engine import TransformersEngine

PROMPTS = [prompt_messages(text, "bare") for text in ("a=1+2,b=3", "a=1+2+3+4+5,b=6", "a=1,b=2")]


@pytest.fixture(scope="module")
def loaded(model_dir: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)


def draw(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], **settings: float) -> list[Completion]:
    seed = settings.pop("seed", 0)
    defaults = {"num_samples": 4, "max_completion_length": 10, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    drawn = TransformersEngine(*loaded, batch_size=5).sample(
        PROMPTS, SamplingSettings(**(defaults | settings)), seed=seed
    )
    return list(drawn)


def test_each_sample_is_drawn_once(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    completions = draw(loaded)
    assert Counter((completion.prompt, completion.sample) for completion in completions) == Counter(
        (prompt, sample) for prompt in range(3) for sample in range(4)
    )
    assert {len(completion.text) > 0 for completion in completions} >= {True}
    assert all(1 <= completion.num_tokens <= 10 for completion in completions)
    assert len({completion.num_tokens for completion in completions}) > 1  # some end before the limit
    assert {completion.finished for completion in completions if completion.num_tokens < 10} == {True}
    assert False in {completion.finished for completion in completions if completion.num_tokens == 10}


def test_the_seed_decides_and_global_generators_keep_their_state(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    torch.manual_seed(123)  # a state different from the one that a draw without restoring would leave
    before = torch.get_rng_state()
    assert draw(loaded) == draw(loaded)
    assert torch.equal(before, torch.get_rng_state())
    assert draw(loaded) != draw(loaded, seed=1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_generation_config_of_the_checkpoint_changes_nothing(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    plain = draw(loaded, temperature=temperature)
    own: dict[str, Any] = loaded[0].generation_config.to_dict()
    for setting in (
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 10},
        {"suppress_tokens": list(range(4, 20))},
        {"num_beams": 2},
        {"do_sample": True, "min_p": 0.9},
    ):
        monkeypatch.setattr(loaded[0], "generation_config", GenerationConfig(**(own | setting)))
        assert draw(loaded, temperature=temperature) == plain, setting


def test_greedy_decoding_takes_the_most_likely_tokens(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = loaded
    for completion in draw(loaded, num_samples=1, temperature=0.0):
        ids = tokenizer.apply_chat_template(PROMPTS[completion.prompt], add_generation_prompt=True)["input_ids"]
        prompt_length = len(ids)
        for _ in range(completion.num_tokens):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert tokenizer.decode(ids[prompt_length:], skip_special_tokens=True) == completion.text
