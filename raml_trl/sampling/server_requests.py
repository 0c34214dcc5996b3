"""Sends requests to an OpenAI-compatible server with retries, deadlines and a limit for the size of a response.

The `openai` client builds and sends the requests. This module adds the limits and sets the headers, because the client
alone is not enough for runs of many hours: its timeout applies to each read instead of the whole response, it reads
responses of any length, and it takes keys and headers from environment variables.
"""

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import httpx2

from raml_trl.runtime.errors import InputError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 20.0
_MAX_BACKOFF_SECONDS = 60.0
_MAX_RETRY_AFTER_SECONDS = 600.0
_LOGGED_WAIT_SECONDS = 10.0
_MAX_ERROR_CHARACTERS = 300
_MAX_ERROR_BYTES = 2**16
_REMEDIES = {
    400: "change the setting it names",
    401: "give the API key of this server",
    403: "give an API key that may use this model",
    404: "give the url up to its /v1, and the name by which the server knows the model",
}
_DEFAULT_REMEDY = "check the url and the settings"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Reply:
    """The response to one attempt. Status 0 means that no response arrived; `content` then contains the reason."""

    status: int
    content: bytes
    retry_after_seconds: float = 0.0

    @property
    def json(self) -> object:
        """The parsed body of a response with status 200; None for any other response, and for unreadable JSON."""
        try:
            return json.loads(self.content) if self.status == 200 else None
        except (ValueError, RecursionError):
            return None

    @property
    def wants_new_limit(self) -> bool:
        """Whether the server refuses `max_tokens` and asks for `max_completion_tokens`, its successor."""
        return self.status == 400 and b"max_completion_tokens" in self.content


@dataclass(frozen=True)
class Server:
    """The address of a server and the limits for requests. The docstring of `ServerEngine` explains the fields."""

    url: str
    api_key: str | None = field(repr=False)
    timeout_seconds: float
    deadline_seconds: float
    max_attempts: int
    max_response_bytes: int
    pause: Callable[[float], Awaitable[object]] = field(repr=False)
    clock: Callable[[], float] = field(repr=False)

    def client(self) -> "AsyncOpenAI":
        """Create an `openai` client for this server. Several requests may share it."""
        from openai import AsyncOpenAI  # takes seconds to import

        return AsyncOpenAI(
            base_url=self.url,
            api_key="set by _Transport",
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),  # `_attempt` limits the total time
            http_client=httpx2.AsyncClient(
                transport=_Transport(self.api_key, self.max_response_bytes),
                follow_redirects=False,  # a redirect could send the key to another host
            ),
        )

    async def request(
        self,
        client: "AsyncOpenAI",
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        read: Callable[[Reply], _T | None],
        *,
        jitter: int,
    ) -> _T:
        """Send a request, and repeat it until `read` returns a value for the response. Return that value.

        Args:
            client: from `Server.client`.
            method: GET or POST, for messages.
            path: appended to the url, such as `/models`.
            body: sent as JSON with POST; None sends a GET request.
            read: returns the value in a response, or None if the attempt has failed.
            jitter: seed for the random part of the pauses between attempts.

        Raises:
            InputError: if the server refuses the request, or the attempts or the time run out.
        """
        name = f"{method} {self.url.rstrip('/')}{path}"
        deadline = self.clock() + self.deadline_seconds
        for attempt in range(1, self.max_attempts + 1):
            reply = await self._attempt(client, path, body, min(self.timeout_seconds, deadline - self.clock()))
            value = read(reply)
            if value is not None:
                return value
            reason = self._reason(reply)
            if 300 <= reply.status < 500 and reply.status != 429:
                raise InputError(f"{name} is refused with {reason}; {_REMEDIES.get(reply.status, _DEFAULT_REMEDY)}")
            backoff = min(2.0**attempt, _MAX_BACKOFF_SECONDS) * random.Random(jitter + attempt).uniform(0.5, 1)
            seconds = max(backoff, min(reply.retry_after_seconds, _MAX_RETRY_AFTER_SECONDS))
            if attempt == self.max_attempts or self.clock() + seconds >= deadline:
                break
            if seconds >= _LOGGED_WAIT_SECONDS:
                logger.warning(
                    "%s: %s, attempt %d of %d; next in %.0f s", name, reason, attempt, self.max_attempts, seconds
                )
            await self.pause(seconds)
        raise InputError(
            f"{name} failed {attempt} times, the last with {reason}; run the same command again once the server "
            f"answers within {self.timeout_seconds:.0f} s: it continues from here"
        )

    async def _attempt(
        self, client: "AsyncOpenAI", path: str, body: Mapping[str, object] | None, seconds: float
    ) -> Reply:
        from openai import APIConnectionError, APIStatusError

        try:
            async with asyncio.timeout(seconds):
                if body is None:
                    response = await client.get(path, cast_to=httpx2.Response)
                else:
                    response = await client.post(path, cast_to=httpx2.Response, body=body)
        except APIStatusError as error:
            response = error.response
        except APIConnectionError as error:
            return Reply(0, _root_cause(error).encode())
        except TimeoutError:
            return Reply(0, f"TimeoutError: it was not complete after {max(seconds, 0):.0f} s".encode())
        return Reply(response.status_code, response.content, _retry_after(response.headers.get("Retry-After")))

    def _reason(self, reply: Reply) -> str:
        """Describe a failed attempt in one line. The API key is masked, because a reply may repeat it."""
        status = {0: "no reply", 200: "a reply that is not one of this protocol"}.get(reply.status, str(reply.status))
        content = reply.content[:_MAX_ERROR_BYTES].decode(errors="replace")
        text = "".join(letter if letter.isprintable() else " " for letter in content)
        if self.api_key is not None:
            text = text.replace(self.api_key, "***")
        return f"{status} ({' '.join(text.split())[:_MAX_ERROR_CHARACTERS]})"


class _Transport(httpx2.AsyncBaseTransport):
    """Replaces the headers of the `openai` client by fixed ones, and rejects responses of more than `max_bytes`.

    The client would also send the organisation, the project and further headers from environment variables, which are
    meant only for OpenAI's server. Uncompressed responses are requested, because a compressed one may expand to any
    size.
    """

    def __init__(self, api_key: str | None, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "raml_trl",
            **({} if api_key is None else {"Authorization": f"Bearer {api_key}"}),
        }
        self.inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        kept = ("Host", "Content-Type", "Content-Length")
        request.headers = httpx2.Headers(
            {**{name: request.headers[name] for name in kept if name in request.headers}, **self.headers}
        )
        response = await self.inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        content = bytearray()
        try:
            async for chunk in response.stream:
                content += chunk
                if len(content) > self.max_bytes:
                    name, limit = f"{request.method} {request.url}", f"max_response_bytes = {self.max_bytes}"
                    raise InputError(f"{name} returns more than {limit} bytes; {_DEFAULT_REMEDY}")
        finally:
            await response.aclose()
        headers = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
        return httpx2.Response(response.status_code, headers=headers, content=bytes(content))


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Within the `with` block, run an asyncio event loop in a separate thread, and yield the loop.

    The thread is separate because a notebook already runs an event loop in the caller's thread. At the end of the
    block, the tasks that have not finished are cancelled, which closes their connections.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="server_engine", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"


def _retry_after(header: str | None) -> float:
    """Return how many seconds a Retry-After header (a number or a date) asks to wait, or 0 if it cannot be read."""
    if header is None:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d*)?", header):
        return float(header)
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
