"""n completions per prompt, outside training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """One sample: which prompt it continues, which of its n samples it is, and what was written."""

    prompt: int
    sample: int
    text: str
    num_tokens: int


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict[str, str]]],
    *,
    num_samples: int,
    max_completion_length: int,
    temperature: float,
    top_p: float,
    top_k: int,
    batch_size: int,
    seed: int,
) -> Iterator[Completion]:
    """`num_samples` completions of every prompt (chat messages), batch by batch, in any order.

    Prompts are sorted by length, so that a batch holds little padding. What is drawn is a function of the prompts,
    the settings (with `batch_size`) and the seed; the global generators are left as they were. The end token counts
    in `num_tokens`. `temperature` 0 decodes greedily.
    """
    prompt_ids: list[list[int]] = [_encode(tokenizer, prompt) for prompt in prompts]
    pairs = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(num_samples)]
    pairs.sort(key=lambda pair: len(prompt_ids[pair[0]]), reverse=True)
    decoding: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        decoding = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    generate: Any = model.generate
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        inputs: Any = tokenizer.pad(
            {"input_ids": [prompt_ids[prompt] for prompt, _ in batch]}, padding_side="left", return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + start)
            output = generate(**inputs, max_new_tokens=max_completion_length, **decoding)
        completions = output[:, inputs["input_ids"].size(1) :]
        lengths = _lengths(completions, model.generation_config.eos_token_id)
        for (prompt, sample), ids, length in zip(batch, completions.tolist(), lengths, strict=True):
            text = tokenizer.decode(ids[:length], skip_special_tokens=True)
            yield Completion(prompt, sample, str(text), length)


def _encode(tokenizer: Any, prompt: list[dict[str, str]]) -> list[int]:
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]


def _lengths(completions: torch.Tensor, eos_token_id: int | list[int] | None) -> list[int]:
    """Tokens of each row up to its first end token, that one included."""
    if eos_token_id is None:
        return [completions.size(1)] * len(completions)
    ends = torch.isin(completions, torch.tensor(eos_token_id, device=completions.device))
    first = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, completions.size(1))
    return first.tolist()
