"""Draws completions from a transformers model in this process, without further packages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.sampling.engine import Completion, Messages, SamplingSettings

_NEUTRAL: dict[str, float | None] = {
    **{"num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "typical_p": 1.0},
    **dict.fromkeys(("min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "min_new_tokens", "max_time", "stop_strings")),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty")),
    **dict.fromkeys(("encoder_repetition_penalty", "watermarking_config")),
}
GREEDY: dict[str, float | None] = {
    **{"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
    **_NEUTRAL,
}
"""Arguments of `generate` for greedy decoding.

`generate` takes a setting that is not passed, such as a repetition penalty, from the generation config of the
checkpoint. All settings that change the choice of tokens are therefore passed.
"""


@dataclass(frozen=True)
class TransformersEngine:
    """Draws completions with `model.generate`, `batch_size` completions at a time.

    It reads only the special tokens from the generation config of the checkpoint.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """Yield the completions batch by batch.

        The prompts are sorted by length, so that a batch has little padding. The completions depend on the prompts, the
        settings, the seed and the batch size. Each batch seeds PyTorch's global random generators, and restores their
        state afterwards.
        """
        prompt_ids = [_encode(self.tokenizer, prompt) for prompt in prompts]
        pairs = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(settings.num_samples)]
        pairs.sort(key=lambda pair: len(prompt_ids[pair[0]]), reverse=True)
        decoding = GREEDY
        if settings.temperature > 0:
            sampled = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
            decoding = {**_NEUTRAL, "do_sample": True, **sampled}
        generate: Any = self.model.generate
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            inputs = self.tokenizer.pad(
                {"input_ids": [prompt_ids[prompt] for prompt, _ in batch]}, padding_side="left", return_tensors="pt"
            ).to(self.model.device)
            # `inference_mode` is not used, because tensors that the model caches in it, such as rotary frequencies,
            # cannot be used in training later.
            with torch.no_grad(), torch.random.fork_rng(devices):
                torch.manual_seed((seed * 1_000_003 + start) % 2**64)  # torch refuses larger seeds
                output = generate(**inputs, max_new_tokens=settings.max_completion_length, **decoding)
            completions = output[:, inputs["input_ids"].size(1) :]  # (batch, T), T is the longest completion
            ends = _find_ends(completions, self.model.generation_config.eos_token_id)
            for (prompt, sample), ids, (length, finished) in zip(batch, completions.tolist(), ends, strict=True):
                text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
                yield Completion(prompt, sample, str(text), length, finished)


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """Return the token ids of a prompt. If the last message is the assistant's, the model continues that message."""
    started = prompt[-1]["role"] == "assistant"
    encoded: Any = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=not started, continue_final_message=started
    )
    return encoded["input_ids"]


def _find_ends(completions: torch.Tensor, eos_token_id: int | list[int] | None) -> list[tuple[int, bool]]:
    """Return the length of each completion up to and including its first end token, and whether it has an end token.

    Args:
        completions: token ids, `(batch, T)` for T tokens in the longest completion.
        eos_token_id: the end tokens.
    """
    if eos_token_id is None:
        return [(completions.size(1), False)] * len(completions)
    ends = torch.isin(completions, torch.tensor(eos_token_id, device=completions.device))
    finished = ends.any(dim=1)
    lengths = torch.where(finished, ends.int().argmax(dim=1) + 1, completions.size(1))
    return list(zip(lengths.tolist(), finished.tolist(), strict=True))
