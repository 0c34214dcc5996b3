"""Completions from any server that speaks OpenAI's protocol, by its URL: vLLM, SGLang, llama.cpp, or a paid service."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import Any

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least
from raml_trl.sampling.engine import Completion, Messages, SamplingSettings, keyed_seed
from raml_trl.sampling.http_client import Client, Reply


@dataclass(frozen=True)
class ServerEngine:
    """One request for every sample, `max_requests` at once; what fails for now is sent again, `max_attempts` in all.

    What a request does not name is as the server has it: `top_k` 0 is not sent, and vLLM then takes the default that
    comes with the model, unless it was started with `--generation-config vllm`.

    Raises:
        InputError: if the url or the key cannot be one, or a number is too small.
    """

    url: str  # up to its /v1
    model: str
    api_key: str | None = field(default=None, repr=False)
    max_requests: int = 64
    timeout_seconds: float = 3600.0  # of one request: the server's queue and the whole completion
    max_attempts: int = 10
    pause: Callable[[Event, float], object] = field(default=Event.wait, repr=False)

    def __post_init__(self) -> None:
        # Neither is shown: a url may hold a password, and http.client quotes a key that it cannot send.
        if not re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d{1,5})?(/[\w./~-]*)?", self.url, re.ASCII):
            raise InputError("url is not the plain http(s) address of a server: give one like http://localhost:8000/v1")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise InputError("api_key is empty or holds white space or letters that no key has: check where it is from")
        check_at_least(self, max_requests=1, timeout_seconds=1, max_attempts=1)

    def check(self) -> None:
        """Ask the server whether it has the model. One that does not list its models passes.

        Raises:
            InputError: if it has not, cannot be reached, or refuses.
        """
        models = self._client().ask("GET", "/models", None, _read_models, jitter=0)
        if models and self.model not in models:
            served = ", ".join(models[:20])
            raise InputError(f"model {self.model!r} is not served at {self.url}, which has {served}: name one of these")

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """The completions as they arrive, each with a seed of its own (`keyed_seed`), for servers that honour one.

        Closing the iterator cuts the requests in flight short, and so the server's work on them.

        Raises:
            InputError: if the server refuses a request, or fails it `max_attempts` times.
        """
        client, pool = self._client(), ThreadPoolExecutor(self.max_requests)
        decoding: dict[str, Any] = {"temperature": settings.temperature, "top_p": settings.top_p}
        if settings.top_k > 0:
            decoding["top_k"] = settings.top_k  # not a word of OpenAI's, whose own server refuses it

        def complete(prompt: int, sample: int) -> Completion:
            key = keyed_seed(seed, prompt, sample)
            request = {"model": self.model, "messages": prompts[prompt], "seed": key, **decoding}
            request["max_tokens"] = settings.max_completion_length
            return Completion(prompt, sample, *client.ask("POST", "/chat/completions", request, _read_text, jitter=key))

        pairs = ((prompt, sample) for prompt in range(len(prompts)) for sample in range(settings.num_samples))
        submitted = (pool.submit(complete, *pair) for pair in pairs)
        try:
            running = set(islice(submitted, 2 * self.max_requests))  # as many in line as in flight, never all there are
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= set(islice(submitted, len(done)))
                yield from (future.result() for future in done)
        finally:
            client.stop()
            pool.shutdown(cancel_futures=True)

    def _client(self) -> Client:
        return Client(self.url, self.api_key, self.timeout_seconds, self.max_attempts, self.pause)


def _read_models(reply: Reply) -> list[str] | None:
    """The names of the models; none where a server does not tell."""
    match reply:
        case Reply(status=404 | 405):
            return []
        case Reply(json={"data": [*models]}):
            return [str(model["id"]) for model in models if isinstance(model, dict) and "id" in model] or None
    return None


def _read_text(reply: Reply) -> tuple[str, int, bool] | None:
    """Text, tokens, and whether it ended by itself."""
    match reply.json:
        case {
            "choices": [{"message": {"content": str() | None as content, **rest}, "finish_reason": str(reason)}, *_],
            "usage": {"completion_tokens": int(num_tokens)},
        }:
            text, finished = content or "", reason != "length"
        case _:
            return None
    thoughts = rest.get("reasoning_content") or rest.get("reasoning")
    if thoughts:  # put back as the model wrote them; a thought that was cut stays open
        end = "\n</think>\n\n" if text or finished else ""
        text = f"<think>\n{str(thoughts).strip()}{end}{text.lstrip()}"
    return text, num_tokens, finished
