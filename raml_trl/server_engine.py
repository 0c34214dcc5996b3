"""Completions from any server that speaks OpenAI's protocol, by its URL: vLLM, SGLang, llama.cpp, or a paid service."""

import hashlib
import json
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import islice
from threading import Event, get_ident
from typing import Any, TypeVar
from urllib.parse import urlsplit

from raml_trl.errors import InputError
from raml_trl.sampling import Completion, Messages, SamplingSettings
from raml_trl.validation import check_at_least

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 20.0
_LONGEST_WAIT_SECONDS = 60.0  # between two attempts, unless the server asks for more
_NOTABLE_WAIT_SECONDS = 10.0  # is worth a line in the log
_REMEDIES = {
    400: "change the setting it names",
    401: "give the API key of this server",
    403: "give an API key that may use this model",
    404: "give the url up to its /v1, and the name by which the server knows the model",
}
_REMEDY = "check the url and the settings"

_Found = TypeVar("_Found")


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
    """Waits so many seconds before another attempt, or until the event, and then gives true."""

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
        models = _Client(self).ask("GET", "/models", None, _read_models, jitter=0)
        if models and self.model not in models:
            served = ", ".join(models[:20])
            raise InputError(f"model {self.model!r} is not served at {self.url}, which has {served}: name one of these")

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """The completions as they arrive, each with a seed of its own (`keyed_seed`), for servers that honour one.

        Closing the iterator cuts the requests in flight short, and so the server's work on them.

        Raises:
            InputError: if the server refuses a request, or fails it `max_attempts` times.
        """
        client, pool = _Client(self), ThreadPoolExecutor(self.max_requests)
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
            pool.shutdown(wait=False, cancel_futures=True)
            client.stop()
            pool.shutdown()


def keyed_seed(*key: int) -> int:
    """A function of the key: a seed of 31 bits, which every server takes."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "big") >> 1


@dataclass(frozen=True)
class _Reply:
    """What a server sent. Status 0: nothing, and `content` says why."""

    status: int
    content: bytes
    wait_seconds: float = 0.0  # that it asks for, before another attempt

    @property
    def json(self) -> Any:
        """What it says, if it is a good one."""
        try:
            return json.loads(self.content) if self.status == 200 else None
        except ValueError:
            return None


@dataclass(frozen=True)
class _Client:
    """Asks until there is an answer, or nobody waits for one any more.

    With `http.client`, not `urllib.request`: a request in flight can be cut short, and no redirect is followed, along
    which the key would go to wherever that leads.
    """

    engine: ServerEngine
    stopped: Event = field(default_factory=Event)
    sockets: dict[int, socket.socket] = field(default_factory=dict)  # by thread, its last one

    def stop(self) -> None:
        """End what is in flight, and what waits for another attempt."""
        self.stopped.set()
        for connected in list(self.sockets.values()):
            with suppress(OSError):  # closed by now
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # wakes the thread that reads; closing would not

    def ask(
        self, method: str, path: str, body: object, read: Callable[[_Reply], _Found | None], *, jitter: int
    ) -> _Found:
        """What `read` finds in the first reply that holds it."""
        asked, attempts = f"{method} {self.engine.url.rstrip('/')}{path}", self.engine.max_attempts
        for attempt in range(1, attempts + 1):
            reply = self._exchange(method, path, body)
            found = read(reply)
            if found is not None:
                return found
            reason = self._reason(reply)
            if 300 <= reply.status < 500 and reply.status != 429:
                raise InputError(f"{asked} is refused with {reason}; {_REMEDIES.get(reply.status, _REMEDY)}")
            backoff = min(2.0**attempt, _LONGEST_WAIT_SECONDS) * random.Random(jitter + attempt).uniform(0.5, 1)
            seconds = max(backoff, reply.wait_seconds)
            if seconds >= _NOTABLE_WAIT_SECONDS:
                logger.warning("%s: %s, attempt %d of %d; next in %.0f s", asked, reason, attempt, attempts, seconds)
            if attempt == attempts or self.engine.pause(self.stopped, seconds):
                break
        remedy = "once the server answers, within timeout_seconds, the same command carries on"
        raise InputError(f"{asked} failed {attempts} times, the last with {reason}; {remedy}")

    def _exchange(self, method: str, path: str, body: object) -> _Reply:
        headers = {"Content-Type": "application/json", "User-Agent": "raml_trl", "Connection": "close"}
        if self.engine.api_key is not None:
            headers["Authorization"] = f"Bearer {self.engine.api_key}"
        base = urlsplit(self.engine.url)
        content = None if body is None else json.dumps(body)
        try:
            with closing(_connect(base.scheme, base.hostname, base.port)) as connection:
                self.sockets[get_ident()] = connection.sock
                if self.stopped.is_set():  # only now: whoever stops before this line does not know of the socket
                    return _Reply(0, b"stopped")
                connection.sock.settimeout(self.engine.timeout_seconds)
                connection.request(method, base.path.rstrip("/") + path, content, headers)
                with connection.getresponse() as response:
                    return _Reply(response.status, response.read(), _seconds(response.headers["Retry-After"]))
        except (OSError, HTTPException) as error:
            return _Reply(0, f"{type(error).__name__}: {error}".encode())

    def _reason(self, reply: _Reply) -> str:
        """What was wrong with it, on one line, without the key, which some servers repeat."""
        status = {0: "no reply", 200: "a reply that is not one of this protocol"}.get(reply.status, str(reply.status))
        said = reply.content.decode(errors="replace")
        if self.engine.api_key is not None:
            said = said.replace(self.engine.api_key, "***")
        return f"{status} ({' '.join(said.split())[:300]})"


def _connect(scheme: str, host: str | None, port: int | None) -> HTTPConnection:
    assert host is not None
    if scheme == "http":
        connection = HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
    else:
        connection = HTTPSConnection(host, port, timeout=_CONNECT_SECONDS, context=_tls())
    connection.connect()
    return connection


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all the certificates there are: once is enough


def _seconds(retry_after: str | None) -> float:
    """What the header asks for: seconds or a date. 0 where it is neither."""
    if retry_after is None:
        return 0.0
    if re.fullmatch(r"\d{1,6}(\.\d*)?", retry_after):
        return float(retry_after)
    try:
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0


def _read_models(reply: _Reply) -> list[str] | None:
    """The names of the models; none where a server does not tell."""
    match reply:
        case _Reply(status=404 | 405):
            return []
        case _Reply(json={"data": [*models]}):
            return [str(model["id"]) for model in models if isinstance(model, dict) and "id" in model] or None
    return None


def _read_text(reply: _Reply) -> tuple[str, int, bool] | None:
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
