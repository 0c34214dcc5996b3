"""Defines `Engine`, the interface of all classes that draw n completions per prompt.

An engine is any object with the method `Engine.sample`. The modules `transformers_engine` (a model in this process),
`vllm_engine` (vLLM in this process) and `server_engine` (an OpenAI-compatible server) each contain one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Messages = list[dict[str, str]]
"""One prompt: chat messages with `role` and `content`."""


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw completions: `num_samples` per prompt, each of at most `max_completion_length` tokens.

    `temperature` 0 decodes greedily; `top_k` 0 keeps the whole vocabulary.
    """

    num_samples: int
    max_completion_length: int  # tokens
    temperature: float
    top_p: float
    top_k: int


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    Args:
        prompt: position of the prompt in the list of prompts.
        sample: position of the completion among the n completions of its prompt, from 0 to n - 1.
        num_tokens: number of tokens of the completion, including the end token; None if a server does not count them.
        finished: True if the model ended the text, False if the text was cut at the maximum length.
    """

    prompt: int
    sample: int
    text: str
    num_tokens: int | None
    finished: bool


class Engine(Protocol):
    """Draws n completions per prompt."""

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """Yield `settings.num_samples` completions of every prompt, each exactly once, in any order.

        The completions depend only on the prompts, the settings and the seed, as far as the engine can guarantee it.
        """
        ...


def keyed_seed(*key: int) -> int:
    """Return a seed that depends only on the numbers in `key`. The seed has 31 bits, which every server accepts."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "big") >> 1
