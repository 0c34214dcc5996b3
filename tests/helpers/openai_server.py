"""A local server that implements the part of OpenAI's protocol for chat completions.

    with OpenAIServer() as server:
        server.faults += [Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}), CUT]
        engine = ServerEngine(server.url, server.model)
        ...
        assert len(server.requests) == 12

The function `answer` maps a request to its answer. By default the answer depends on the messages and the seed; with
`answer_with`, an engine gives the answers. The replies in `faults` are sent to the next requests for completions.
"""

import hashlib
import json
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from raml_trl.sampling.engine import Engine, SamplingSettings

Request = dict[str, Any]


class Reply(NamedTuple):
    """A reply. A `body` that is not bytes is sent as JSON. Status 0 closes the connection without a reply."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = {}
    seconds: float = 0.0  # delay before the reply is sent
    seconds_per_byte: float = 0.0  # if not 0, the body is sent byte by byte


CUT = Reply(0)


class Answer(NamedTuple):
    """A completion. `message` holds further fields of the server's message."""

    content: str | None
    num_tokens: int
    finish_reason: str = "stop"
    message: Mapping[str, str] = {}


def answer_by_seed(request: Request) -> Answer:
    """Return a text that differs for different messages and seeds."""
    key = json.dumps([request["messages"], request["seed"]], sort_keys=True)
    return Answer(hashlib.sha256(key.encode()).hexdigest(), 1 + request["seed"] % 7)


def answer_with(engine: Engine) -> Callable[[Request], Answer]:
    """Answer with the completions of `engine`, one request at a time."""
    lock = threading.Lock()

    def answer(request: Request) -> Answer:
        limits = (request["max_tokens"], request["temperature"], request["top_p"], request.get("top_k", 0))
        with lock:
            [completion] = engine.sample([request["messages"]], SamplingSettings(1, *limits), seed=request["seed"])
        return Answer(completion.text, completion.num_tokens, "stop" if completion.finished else "length")

    return answer


class OpenAIServer:
    """A server that runs inside a `with` block. Each answer takes `seconds`. Requests need `api_key`, if it is set."""

    model = "tiny"

    def __init__(
        self, answer: Callable[[Request], Answer] = answer_by_seed, *, seconds: float = 0.0, api_key: str | None = None
    ) -> None:
        self.answer, self.seconds, self.api_key = answer, seconds, api_key
        self.models = Reply(200, {"object": "list", "data": [{"id": self.model, "object": "model"}, {"id": "other"}]})
        self.faults: deque[Reply] = deque()
        self.requests: list[Request] = []  # the requests for completions, in order of arrival
        self.headers: list[dict[str, str]] = []  # the headers of all requests
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def complete(self, request: Request) -> Reply:
        """Return the reply to a request for a completion."""
        with self.lock:
            self.requests.append(request)
            if self.faults:
                return self.faults.popleft()
        answer = self.answer(request)
        message = {"role": "assistant", "content": answer.content, **answer.message}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        usage = {"prompt_tokens": 3, "completion_tokens": answer.num_tokens, "total_tokens": 3 + answer.num_tokens}
        return Reply(200, {"object": "chat.completion", "choices": [choice], "usage": usage}, seconds=self.seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # all clients may connect at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, openai: OpenAIServer, *arguments: Any) -> None:
        self.openai = openai
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._reply(self._refusal() or (self.openai.models if self.path == "/v1/models" else Reply(404)))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.openai.lock:
            self.openai.in_flight += 1
            self.openai.most_in_flight = max(self.openai.most_in_flight, self.openai.in_flight)
        reply = self._refusal() or (
            self.openai.complete(request) if self.path == "/v1/chat/completions" else Reply(404)
        )
        self._wait(reply.seconds)
        with self.openai.lock:
            self.openai.in_flight -= 1  # now, before the client can receive the reply
        self._reply(reply)

    def _refusal(self) -> Reply | None:
        """Return an error if the key is wrong. The error repeats the key, as some real servers do."""
        with self.openai.lock:
            self.openai.headers.append(dict(self.headers))
        given = self.headers["Authorization"]
        if self.openai.api_key is None or given == f"Bearer {self.openai.api_key}":
            return None
        return Reply(401, {"error": {"message": f"Incorrect API key provided: {given}", "type": "invalid_api_key"}})

    def _reply(self, reply: Reply) -> None:
        self.close_connection = True
        if reply.status == 0:
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            size = 1 if reply.seconds_per_byte else max(len(body), 1)
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                self._wait(reply.seconds_per_byte)
        except ConnectionError:
            pass  # the client has closed the connection

    def _wait(self, seconds: float) -> None:
        """Wait, but stop when the client closes the connection, which makes the connection readable."""
        select.select([self.connection], [], [], seconds)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
