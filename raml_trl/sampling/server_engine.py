"""Draws completions from a server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp or a paid service."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least
from raml_trl.sampling.engine import Completion, Messages, SamplingSettings, keyed_seed
from raml_trl.sampling.server_requests import Reply, Server, event_loop

_OLD_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_SURROGATE = re.compile("[\ud800-\udfff]")
_Answer = tuple[str, int | None, bool]
"""The text of a completion, its number of tokens if the server counts them, and whether the model ended it."""


@dataclass(frozen=True)
class ServerEngine:
    """Draws completions from a server: one request per sample, repeated if it fails temporarily.

    A server may take settings that are not sent from the generation config of the model: `top_k` if it is 0, and, for
    example, `min_p` and a repetition penalty. To prevent this, start a vLLM server with `--generation-config vllm`.

    Args:
        url: address of the server up to and including `/v1`.
        model: name of the model on the server.
        api_key: sent as a bearer token; None sends no token.
        max_requests: maximum number of requests in flight at a time.
        timeout_seconds: limit for one attempt, from connecting to the last byte, time in the server's queue included.
        deadline_seconds: limit for one request, that is for all its attempts and the pauses between them.
        max_attempts: maximum number of attempts per request.
        max_response_bytes: limit for the body of one response.
        pause: called with the number of seconds to wait before the next attempt, and awaited; tests replace it.
        clock: returns a monotonic time in seconds, for the deadline; tests replace it.

    Raises:
        InputError: if the url or the key is malformed, or a maximum or limit is below 1.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    max_requests: int = 64
    timeout_seconds: float = 3600.0
    deadline_seconds: float = 4 * 3600.0
    max_attempts: int = 10
    max_response_bytes: int = 2**24
    pause: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        # The error messages show neither the url, which may contain a password, nor the key.
        if not re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d{1,5})?(/[\w./~-]*)?", self.url, re.ASCII):
            raise InputError("url is not the plain http(s) address of a server: give one like http://localhost:8000/v1")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise InputError("api_key is empty or contains white space or non-ASCII characters: check its source")
        check_at_least(self, **dict.fromkeys(("max_requests", "max_attempts", "max_response_bytes"), 1))
        check_at_least(self, timeout_seconds=1, deadline_seconds=1)

    def check(self) -> None:
        """Check that the server offers the model. The check passes if the server does not list its models.

        Raises:
            InputError: if the server does not offer the model, cannot be reached, or refuses the request.
        """
        server = self._server()
        with event_loop() as loop:
            request = server.request(server.client(), "GET", "/models", None, _read_models, jitter=0)
            models = asyncio.run_coroutine_threadsafe(request, loop).result()
        if models and self.model not in models:
            served = ", ".join(models[:20])
            raise InputError(f"model {self.model!r} is not served at {self.url}, which has {served}: name one of these")

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """Yield the completions as they arrive. Each request has its own seed (`keyed_seed`), which servers may ignore.

        Closing the iterator closes the connections, so that the server stops working on the open requests.

        Raises:
            InputError: if the server refuses a request, or all attempts of a request fail, or its deadline passes.
        """
        decoding: dict[str, float] = {"temperature": settings.temperature, "top_p": settings.top_p}
        if settings.top_k > 0:
            decoding["top_k"] = settings.top_k  # not part of OpenAI's protocol; OpenAI's own server rejects it

        server, slots = self._server(), asyncio.Semaphore(self.max_requests)
        client = server.client()
        limit_names = [_OLD_LIMIT]  # the last one is in use; OpenAI's reasoning models know only the new name

        async def complete(prompt: int, sample: int) -> Completion:
            key = keyed_seed(seed, prompt, sample)
            body = {"model": self.model, "messages": prompts[prompt], "seed": key, **decoding}

            async def ask(name: str) -> _Answer | Literal["another limit"]:
                limited = body | {name: settings.max_completion_length}
                read = _read_completion if name == _NEW_LIMIT else _read_first_completion
                return await server.request(client, "POST", "/chat/completions", limited, read, jitter=key)

            async with slots:
                answer = await ask(limit_names[-1])
                if answer == "another limit":
                    limit_names.append(_NEW_LIMIT)
                    answer = await ask(_NEW_LIMIT)
            assert not isinstance(answer, str)
            return Completion(prompt, sample, *answer)

        pairs = ((prompt, sample) for prompt in range(len(prompts)) for sample in range(settings.num_samples))
        with event_loop() as loop:
            submitted = (asyncio.run_coroutine_threadsafe(complete(*pair), loop) for pair in pairs)
            running = set(islice(submitted, 2 * self.max_requests))  # half of them wait for a slot
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= set(islice(submitted, len(done)))
                yield from (future.result() for future in done)

    def _server(self) -> Server:
        return Server(
            self.url,
            self.api_key,
            self.timeout_seconds,
            self.deadline_seconds,
            self.max_attempts,
            self.max_response_bytes,
            self.pause,
            self.clock,
        )


def _read_models(reply: Reply) -> list[str] | None:
    """Return the names of the models, an empty list if the server does not list them, or None for a malformed reply."""
    match reply:
        case Reply(status=404 | 405):
            return []
        case Reply(json={"data": [*models]}):
            return [str(model["id"]) for model in models if isinstance(model, dict) and "id" in model] or None
    return None


def _read_first_completion(reply: Reply) -> _Answer | Literal["another limit"] | None:
    """Read a completion like `_read_completion`, or the answer that the server wants another name for the limit."""
    return "another limit" if reply.wants_new_limit else _read_completion(reply)


def _read_completion(reply: Reply) -> _Answer | None:
    """Return the text, its number of tokens, and whether the model ended the text; None for a malformed reply.

    The number of tokens is None if the server does not count them.
    """
    match reply.json:
        case {"choices": [{"message": {**message}, **choice}, *_], **others}:
            text = _read_text(message.get("content"))
        case _:
            return None
    if text is None:
        return None
    usage = others.get("usage")
    num_tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(num_tokens) is not int or not 0 <= num_tokens < 2**31:
        num_tokens = None
    finished = choice.get("finish_reason") != "length"
    reasoning = _read_text(message.get("reasoning_content")) or _read_text(message.get("reasoning"))
    if reasoning:  # put the block back into the text; leave it open if the completion was cut inside the block
        end = "\n</think>\n\n" if text or finished else ""
        text = f"<think>\n{reasoning.strip()}{end}{text.lstrip()}"
    return text, num_tokens, finished


def _read_text(content: object) -> str | None:
    """Return the text of a message, which may come in parts; an empty text for null, and None for anything else.

    Halves of surrogate pairs, which no file can hold, become U+FFFD.
    """
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    if content is None:
        return ""
    return _SURROGATE.sub("\ufffd", content) if isinstance(content, str) else None
