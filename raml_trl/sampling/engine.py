"""n completions per prompt outside training: what is asked of an engine, and what it gives.

An engine is anything with the method `sample` of `Engine`: `transformers_engine` (a model in this process),
`vllm_engine` (vLLM in this process) and `server_engine` (any server that speaks OpenAI's protocol, by URL).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Messages = list[dict[str, str]]
"""One prompt: chat messages with `role` and `content`."""


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn. `temperature` 0 decodes greedily; `top_k` 0 keeps the whole vocabulary."""

    num_samples: int
    max_completion_length: int  # tokens
    temperature: float
    top_p: float
    top_k: int


@dataclass(frozen=True)
class Completion:
    """One sample: which prompt it continues, which of its n samples it is, and what was written.

    The end token counts in `num_tokens`. `finished` is False where the completion was cut at its greatest length.
    """

    prompt: int
    sample: int
    text: str
    num_tokens: int
    finished: bool


class Engine(Protocol):
    """Draws completions."""

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """`settings.num_samples` completions of every prompt, each exactly once, in any order.

        What is drawn is a function of the prompts, the settings and the seed, as far as the engine can promise it.
        """
        ...


def keyed_seed(*key: int) -> int:
    """A function of the key: a seed of 31 bits, which every server takes."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "big") >> 1
