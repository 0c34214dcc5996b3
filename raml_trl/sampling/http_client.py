"""JSON from a server by HTTP: asked for until there is an answer, and cut short when nobody waits for one any more."""

import json
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Event, get_ident
from typing import Any, TypeVar
from urllib.parse import urlsplit

from raml_trl.runtime.errors import InputError

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
class Reply:
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
class Client:
    """Asks until there is an answer, or nobody waits for one any more.

    With `http.client`, not `urllib.request`: a request in flight can be cut short, and no redirect is followed, along
    which the key would go to wherever that leads.
    """

    url: str
    api_key: str | None = field(repr=False)
    timeout_seconds: float
    max_attempts: int
    pause: Callable[[Event, float], object]
    """Waits so many seconds before another attempt, or until the event, and then gives true."""

    stopped: Event = field(default_factory=Event)
    sockets: dict[int, socket.socket] = field(default_factory=dict)  # by thread, its last one

    def stop(self) -> None:
        """End what is in flight, and what waits for another attempt."""
        self.stopped.set()
        for connected in list(self.sockets.values()):
            with suppress(OSError):  # closed by now
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # wakes the thread that reads; closing would not

    def ask(
        self, method: str, path: str, body: object, read: Callable[[Reply], _Found | None], *, jitter: int
    ) -> _Found:
        """What `read` finds in the first reply that holds it."""
        asked, attempts = f"{method} {self.url.rstrip('/')}{path}", self.max_attempts
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
            if attempt == attempts or self.pause(self.stopped, seconds):
                break
        remedy = "once the server answers, within timeout_seconds, the same command carries on"
        raise InputError(f"{asked} failed {attempts} times, the last with {reason}; {remedy}")

    def _exchange(self, method: str, path: str, body: object) -> Reply:
        headers = {"Content-Type": "application/json", "User-Agent": "raml_trl", "Connection": "close"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        base = urlsplit(self.url)
        content = None if body is None else json.dumps(body)
        try:
            with closing(_connect(base.scheme, base.hostname, base.port)) as connection:
                self.sockets[get_ident()] = connection.sock
                if self.stopped.is_set():  # only now: whoever stops before this line does not know of the socket
                    return Reply(0, b"stopped")
                connection.sock.settimeout(self.timeout_seconds)
                connection.request(method, base.path.rstrip("/") + path, content, headers)
                with connection.getresponse() as response:
                    return Reply(response.status, response.read(), _seconds(response.headers["Retry-After"]))
        except (OSError, HTTPException) as error:
            return Reply(0, f"{type(error).__name__}: {error}".encode())

    def _reason(self, reply: Reply) -> str:
        """What was wrong with it, on one line, without the key, which some servers repeat."""
        status = {0: "no reply", 200: "a reply that is not one of this protocol"}.get(reply.status, str(reply.status))
        said = reply.content.decode(errors="replace")
        if self.api_key is not None:
            said = said.replace(self.api_key, "***")
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
