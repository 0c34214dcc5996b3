"""Servers and the Hub that answer late, never, too much, or in another form."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raml_trl.evaluation.samples import read_samples
from raml_trl.hub import client
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Completion, SamplingSettings
from raml_trl.sampling.server_engine import ServerEngine
from tests.helpers.openai_server import OpenAIServer, Reply

SERVERS, HUB = pytest.mark.disturbance("servers"), pytest.mark.disturbance("Hub")

ONE = SamplingSettings(num_samples=1, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=0)
PROMPT = [[{"role": "user", "content": "1+1"}]]


async def no_pause(_: float) -> None:
    """Wait for nothing."""


def ask(server: OpenAIServer, **limits: Any) -> Completion:
    settings: dict[str, Any] = {"max_attempts": 2, "pause": no_pause, **limits}
    [completion] = ServerEngine(server.url, server.model, **settings).sample(PROMPT, ONE, seed=0)
    return completion


def body(message: object, finish_reason: object = "stop", **others: object) -> dict[str, object]:
    return {"choices": [{"message": message, "finish_reason": finish_reason}], **others}


USAGE = {"usage": {"completion_tokens": 3}}
READ: dict[str, tuple[object, tuple[str, int | None, bool]]] = {
    "no usage": (body({"content": "x"}), ("x", None, True)),
    "usage null": (body({"content": "x"}, usage=None), ("x", None, True)),
    "usage without tokens": (body({"content": "x"}, usage={}), ("x", None, True)),
    "tokens null": (body({"content": "x"}, usage={"completion_tokens": None}), ("x", None, True)),
    "tokens as text": (body({"content": "x"}, usage={"completion_tokens": "3"}), ("x", None, True)),
    "10^30 tokens": (body({"content": "x"}, usage={"completion_tokens": 10**30}), ("x", None, True)),
    "content in parts": (
        body({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, **USAGE),
        ("ab", 3, True),
    ),
    "content in strings": (body({"content": ["a", "b"]}, **USAGE), ("ab", 3, True)),
    "content null": (body({"content": None}, **USAGE), ("", 3, True)),
    "no content": (body({}, **USAGE), ("", 3, True)),
    "finish_reason null": (body({"content": "x"}, None, **USAGE), ("x", 3, True)),
    "cut": (body({"content": "x"}, "length", **USAGE), ("x", 3, False)),
    "a surrogate": (body({"content": "a\ud800b"}, **USAGE), ("a\ufffdb", 3, True)),
    "reasoning": (body({"content": "2", "reasoning": "1+1"}, **USAGE), ("<think>\n1+1\n</think>\n\n2", 3, True)),
    "reasoning in parts": (
        body({"content": "2", "reasoning_content": [{"text": "1+"}, {"text": "1"}]}, **USAGE),
        ("<think>\n1+1\n</think>\n\n2", 3, True),
    ),
    "reasoning cut": (body({"content": None, "reasoning": "1+"}, "length", **USAGE), ("<think>\n1+", 3, False)),
    "reasoning null": (body({"content": "2", "reasoning": None}, **USAGE), ("2", 3, True)),
}


@SERVERS
@pytest.mark.parametrize("name", READ)
def test_replies_of_many_forms_are_read(name: str) -> None:
    content, expected = READ[name]
    with OpenAIServer() as server:
        server.faults.append(Reply(200, content))
        completion = ask(server)
    assert (completion.text, completion.num_tokens, completion.finished) == expected
    completion.text.encode()


@SERVERS
def test_means_omit_samples_without_a_number_of_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns: dict[str, list[object]] = {"question_id": ["a", "a", "b"], "correct": [True] * 3, "formatted": [True] * 3}
    columns |= {"num_tokens": [3, None, 5], "outcome": ["correct"] * 3, "vote": [0, 0, 0]}
    pq.write_table(pa.table(columns), tmp_path / "samples.parquet")
    assert read_samples(tmp_path / "samples.parquet").mean_tokens == 4
    assert "counted no tokens of 1 samples" in caplog.text


REFUSED: dict[str, object] = {
    "a list": [],
    "no choices": {"choices": []},
    "a number as content": body({"content": 3}),
    "message null": {"choices": [{"message": None}]},
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "5,000 digits": b'{"choices": ' + b"9" * 5000 + b"}",
    "no JSON": b"<html>\x1b[31mred\x00</html>",
}


@SERVERS
@pytest.mark.parametrize("name", REFUSED)
def test_replies_of_no_form_are_given_up_in_one_line(name: str) -> None:
    with OpenAIServer() as server:
        server.faults += [Reply(200, REFUSED[name])] * 2
        with pytest.raises(InputError, match="the last with a reply that is not one of this protocol") as error:
            ask(server)
    message = str(error.value)
    assert len(message) < 1_000
    assert message.isprintable()


@SERVERS
def test_a_server_that_wants_the_new_name_of_the_limit_gets_it() -> None:
    """OpenAI's reasoning models refuse `max_tokens`."""
    error = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    with OpenAIServer() as server:
        server.faults.append(Reply(400, error))
        settings = SamplingSettings(3, 10, 0.7, 0.9, 0)
        engine = ServerEngine(server.url, server.model, max_requests=1, pause=no_pause)
        assert len(list(engine.sample(PROMPT, settings, seed=0))) == 3
    names = [[name for name in request if name.startswith("max_")] for request in server.requests]
    assert names == [["max_tokens"], *[["max_completion_tokens"]] * 3]
    assert {request.get("max_tokens", request.get("max_completion_tokens")) for request in server.requests} == {10}


@SERVERS
def test_a_server_that_refuses_both_names_is_refused() -> None:
    error = {"error": {"message": "max_completion_tokens is too large"}}
    with OpenAIServer() as server:
        server.faults += [Reply(400, error)] * 2
        with pytest.raises(InputError, match=r"is refused with 400 .*max_completion_tokens is too large"):
            ask(server)


@SERVERS
def test_a_server_that_drips_is_left_after_the_deadline() -> None:
    with OpenAIServer() as server:
        content = json.dumps(body({"content": "x"}, **USAGE)).encode()
        server.faults += [Reply(200, content, seconds_per_byte=0.1)] * 2
        started = time.monotonic()
        with pytest.raises(InputError, match="failed 1 times, the last with no reply"):
            ask(server, timeout_seconds=60, deadline_seconds=1)
        assert time.monotonic() - started < 5


@SERVERS
def test_attempts_and_pauses_have_one_deadline() -> None:
    """The first attempt and its pause leave no time for a second one, which is not made."""
    with OpenAIServer() as server:
        server.faults += [Reply(503, {}, {"Retry-After": "500"})] * 9
        with pytest.raises(InputError, match="failed 3 times, the last with 503"):
            ask(server, max_attempts=9, deadline_seconds=1500, clock=iter([0, 0, 0, 500, 500, 1000, 1000]).__next__)
    assert len(server.requests) == 3


@SERVERS
def test_a_body_without_end_is_left() -> None:
    with OpenAIServer() as server:
        server.faults.append(Reply(200, b" " * (2**24 + 1)))
        with pytest.raises(InputError, match="returns more than max_response_bytes = 16777216 bytes"):
            ask(server)


@SERVERS
def test_the_key_is_not_repeated() -> None:
    key = "a-key-of-no-known-form"
    with OpenAIServer() as server:
        server.faults.append(Reply(400, {"error": f"no such key: {key}"}))
        with pytest.raises(InputError, match=r"no such key: \*\*\*") as error:
            ask(server, api_key=key)
    assert key not in str(error.value)


@SERVERS
@pytest.mark.parametrize("header", ["999999", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "nan", "soon"])
def test_the_wait_that_a_server_asks_for_is_limited(header: str) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    with OpenAIServer() as server:
        server.faults.append(Reply(429, {}, {"Retry-After": header}))
        ask(server, pause=wait)
    [seconds] = waits
    assert 0 < seconds <= 600


@contextmanager
def silent_server(drip: bytes = b"") -> Iterator[str]:
    """A server that accepts every connection, and sends `drip` once a tenth of a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_connections: list[socket.socket] = []
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                open_connections.append(listener.accept()[0])
            except OSError:
                return

    def drip_on() -> None:
        while drip and not stopped.wait(0.1):
            for connection in list(open_connections):
                try:
                    connection.sendall(drip)
                except OSError:
                    open_connections.remove(connection)

    threading.Thread(target=serve, daemon=True).start()
    threading.Thread(target=drip_on, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        for connection in open_connections:
            connection.close()
        listener.close()


@HUB
@pytest.mark.parametrize("drip", [b"", b"H"])
def test_a_hub_that_does_not_answer_is_retried_and_given_up(
    drip: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "PAUSES_SECONDS", (0, 0))
    started = time.monotonic()
    with silent_server(drip) as url, httpx2.Client(timeout=None) as http:
        with pytest.raises(InputError, match=r"the Hub model me/it: .*did not answer within 0 s.*; no local file"):
            client.insist(lambda: http.get(url), "model me/it", seconds=0.3)
        assert time.monotonic() - started < 10
    assert len([line for line in caplog.messages if "trying again" in line]) == 2


@HUB
@pytest.mark.parametrize(("size", "seconds"), [(1_000, 0), (50_000, 1)])
def test_an_upload_has_time_for_its_bytes(
    size: int, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte has 20 seconds, besides ten times the limit of other calls, which is almost 0 here."""
    ended = threading.Event()

    class Silent:
        def upload_folder(self, **_: object) -> None:
            ended.wait(30)

    monkeypatch.setattr(client, "HfApi", Silent)
    monkeypatch.setattr(client, "PAUSES_SECONDS", ())
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.001)
    (tmp_path / "data.bin").write_bytes(bytes(size))
    started = time.monotonic()
    with pytest.raises(InputError, match=f"did not answer within {seconds} s"):
        client.push_folder(tmp_path, "me/it", repo_type="model", message="m")
    assert time.monotonic() - started >= 20 * size / 1e6
    ended.set()


@HUB
@pytest.mark.parametrize("error", [KeyError("name"), TypeError("NoneType"), AttributeError("id")])
def test_answers_of_another_schema_are_one_line(error: Exception) -> None:
    def call() -> None:
        raise error

    with pytest.raises(InputError, match="the Hub model me/it: its answer is not one of the Hub's protocol"):
        client.insist(call, "model me/it")


@HUB
def test_the_token_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "my-secret-0123456789"
    monkeypatch.setattr(client, "get_token", lambda: token)

    def call() -> None:
        raise ValueError(f"bad header: Bearer {token}\x1b[2J\x00, key {token}, and hf_abcdefghijklmnop")

    with pytest.raises(InputError) as error:
        client.insist(call, "model me/it")
    message = str(error.value)
    assert token not in message
    assert "hf_abc" not in message
    assert message.isprintable()


@HUB
@pytest.mark.parametrize(("header", "seconds"), [("999999", 300), ("9" * 5000, 1), ("-5", 1), ("20", 20)])
def test_the_wait_that_the_hub_asks_for_is_limited(
    header: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = httpx2.Response(429, headers={"Retry-After": header}, request=httpx2.Request("GET", "http://x"))
    answers, waits = iter([client.HfHubHTTPError("busy", response=response)]), []

    def call() -> str:
        for error in answers:
            raise error
        return "done"

    monkeypatch.setattr(client.time, "sleep", waits.append)
    assert client.insist(call, "model me/it") == "done"
    assert waits == [seconds]


@HUB
def test_a_wait_of_5000_digits_is_no_wait() -> None:
    response = httpx2.Response(429, headers={"Retry-After": "9" * 5000}, request=httpx2.Request("GET", "http://x"))
    assert client._retry_after(client.HfHubHTTPError("busy", response=response)) == 0
