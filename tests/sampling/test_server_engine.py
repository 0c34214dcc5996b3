"""Tests `ServerEngine` with a local HTTP server that fails in the same ways as real servers."""

import asyncio
import logging
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Completion, SamplingSettings
from raml_trl.sampling.server_engine import ServerEngine
from raml_trl.sampling.transformers_engine import TransformersEngine
from tests.helpers.openai_server import CUT, Answer, OpenAIServer, Reply, answer_with
from tests.helpers.preloaded import python

PROMPTS = [prompt_messages(text, "bare") for text in ("a=1+2,b=3", "a=1+2+3+4+5,b=6", "a=1,b=2")]
SETTINGS = SamplingSettings(num_samples=4, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=0)
ONE = SamplingSettings(num_samples=1, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=0)
KEY = "sk-this-is-nobody-elses/business"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


class Waits(list[float]):
    """Stands in for `pause`: records the seconds to wait, and does not wait."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def draw(engine: ServerEngine, settings: SamplingSettings = SETTINGS, seed: int = 0) -> list[Completion]:
    return sorted(engine.sample(PROMPTS, settings, seed=seed), key=place)


def place(completion: Completion) -> tuple[int, int]:
    return completion.prompt, completion.sample


def refused(server: OpenAIServer, **settings: Any) -> str:
    """Request one sample, check that this raises an error whose message has one line, and return the message."""
    with pytest.raises(InputError) as caught:
        list(ServerEngine(server.url, server.model, **settings).sample(PROMPTS[:1], ONE, seed=0))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.long
def test_each_sample_is_requested_once_with_its_settings(server: OpenAIServer) -> None:
    completions = draw(ServerEngine(server.url + "/", server.model, max_requests=5))
    assert [(completion.prompt, completion.sample) for completion in completions] == [
        (prompt, n) for prompt in range(3) for n in range(4)
    ]
    assert Counter(len(request["messages"]) for request in server.requests) == {1: 12}
    for request in server.requests:
        expected = {"model": "tiny", "max_tokens": 10, "temperature": 0.7, "top_p": 0.9}
        assert {name: value for name, value in request.items() if name not in ("messages", "seed")} == expected
    [request] = [sent for sent in server.requests if server.answer(sent).content == completions[5].text]
    assert request["messages"] == PROMPTS[1]
    assert completions[5].num_tokens == server.answer(request).num_tokens
    assert completions[5].finished


@pytest.mark.long
def test_top_k_is_sent_unless_it_is_zero(server: OpenAIServer) -> None:
    draw(ServerEngine(server.url, server.model), SamplingSettings(1, 10, 1.0, 1.0, top_k=20))
    assert {request["top_k"] for request in server.requests} == {20}


def test_seeds_depend_on_the_sample_alone(server: OpenAIServer) -> None:
    sequential = draw(ServerEngine(server.url, server.model, max_requests=1))
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert draw(ServerEngine(server.url, server.model, max_requests=7)) == sequential
    other = draw(ServerEngine(server.url, server.model), seed=1)
    assert not {completion.text for completion in other} & {completion.text for completion in sequential}


def test_max_requests_limits_the_requests_in_flight() -> None:
    with OpenAIServer(seconds=0.02) as server:
        draw(ServerEngine(server.url, server.model, max_requests=3), SamplingSettings(7, 10, 1.0, 1.0, 0))
        assert server.most_in_flight == 3


def test_requests_are_submitted_as_samples_are_drawn(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted, submit = [], asyncio.run_coroutine_threadsafe

    def counted(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
        submitted.append(coroutine)
        return submit(coroutine, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", counted)
    completions = ServerEngine(server.url, server.model, max_requests=2).sample(PROMPTS * 100, SETTINGS, seed=0)
    for drawn in range(1, 51):
        next(completions)
        # Of 1,200 requests, 2 * max_requests are submitted in advance, and as many again if these all end at once.
        assert len(submitted) <= drawn + 2 * 4
    completions.close()


FAULTS = [
    *(CUT, Reply(429), *(Reply(status, b"busy") for status in (500, 502, 503, 504))),
    *(Reply(200, malformed) for malformed in (b"<html>", b"[]", {}, {"choices": []})),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.status} {fault.body}")
def test_temporary_failures_are_retried(server: OpenAIServer, fault: Reply) -> None:
    expected = draw(ServerEngine(server.url, server.model))
    server.requests.clear()
    server.faults += [fault, fault]
    waits = Waits()
    assert draw(ServerEngine(server.url, server.model, max_requests=2, pause=waits)) == expected
    assert len(waits) == 2
    assert len(server.requests) == 14
    assert len({request["seed"] for request in server.requests}) == 12


def test_a_truncated_reply_is_retried(server: OpenAIServer) -> None:
    server.faults += [Reply(200, b'{"choices"', {"Content-Length": "1000"})]
    assert len(draw(ServerEngine(server.url, server.model, pause=Waits()))) == 12


@pytest.mark.long
def test_an_attempt_that_times_out_is_retried(server: OpenAIServer) -> None:
    server.faults += [Reply(500, seconds=30)]
    started = time.monotonic()
    assert len(draw(ServerEngine(server.url, server.model, timeout_seconds=1, pause=Waits()))) == 12
    assert 1 <= time.monotonic() - started < 10
    assert len(server.requests) == 13


def test_waits_grow_and_are_reproducible(server: OpenAIServer) -> None:
    def record_waits() -> Waits:
        server.faults += [CUT] * 9
        waits = Waits()
        list(ServerEngine(server.url, server.model, pause=waits).sample(PROMPTS[:1], ONE, seed=0))
        return waits

    first = record_waits()
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(first[:5], start=1))
    assert all(30 <= wait <= 60 for wait in first[5:])
    assert len(set(first[5:])) == 4
    assert record_waits() == first


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("77", 77, 77),
        ("77.5", 77.5, 77.5),
        ("in nine minutes", 500, 540),
        ("0", 1, 2),
        ("soon", 1, 2),
    ],
)
def test_retry_after_lengthens_the_wait(server: OpenAIServer, header: str, low: float, high: float) -> None:
    if header == "in nine minutes":
        header = format_datetime(datetime.now(UTC) + timedelta(minutes=9), usegmt=True)
    server.faults += [Reply(429, headers={"Retry-After": header})]
    waits = Waits()
    list(ServerEngine(server.url, server.model, pause=waits).sample(PROMPTS[:1], ONE, seed=0))
    [wait] = waits
    assert low <= wait <= high


def test_a_long_retry_after_is_capped(server: OpenAIServer) -> None:
    server.faults += [Reply(429, headers={"Retry-After": "86400"})]
    waits = Waits()
    draw(ServerEngine(server.url, server.model, max_requests=1, pause=waits))
    assert waits == [600]


def test_no_wait_passes_the_deadline(server: OpenAIServer) -> None:
    server.faults += [Reply(429, headers={"Retry-After": "86400"})]
    waits = Waits()
    assert "failed 1 times" in refused(server, deadline_seconds=500, pause=waits)
    assert waits == []


def test_the_deadline_covers_all_attempts(server: OpenAIServer) -> None:
    times = iter([0.0, 0.0, 30.0, 31.0, 60.0])  # at the start, then before and after each of two attempts
    server.faults += [CUT] * 9
    message = refused(server, deadline_seconds=60, clock=lambda: next(times), pause=Waits())
    assert "failed 2 times" in message


@pytest.mark.long
def test_a_body_that_drips_is_stopped_by_the_deadline(server: OpenAIServer) -> None:
    server.faults += [Reply(200, b" " * 1_000, seconds_per_byte=0.1)]  # no single read takes long enough for a timeout
    started = time.monotonic()
    message = refused(server, deadline_seconds=1)
    assert time.monotonic() - started < 5
    assert "no reply (TimeoutError: it was not complete after 1 s)" in message
    until(lambda: server.in_flight == 0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 429, 500])
def test_an_oversized_body_is_refused(server: OpenAIServer, status: int) -> None:
    server.faults += [Reply(status, b" " * 100_001)]
    assert "more than max_response_bytes = 100000 bytes" in refused(server, max_response_bytes=100_000, pause=Waits())
    assert len(server.requests) == 1


def test_control_characters_stay_out_of_errors(server: OpenAIServer) -> None:
    server.faults += [Reply(400, b"bad \x1b[31mred\r\n\x00 \xe2\x80\xae\xff end")]
    assert "400 (bad [31mred \N{REPLACEMENT CHARACTER} end)" in refused(server)


def test_the_last_failure_is_reported_with_the_remedy(server: OpenAIServer) -> None:
    server.faults += [Reply(503, b"no\nroom")] * 3
    waits = Waits()
    message = refused(server, max_attempts=3, pause=waits)
    assert f"POST {server.url}/chat/completions failed 3 times, the last with 503 (no room); " in message
    assert "run the same command again" in message
    assert len(server.requests) == 3
    assert len(waits) == 2


def test_an_unreachable_server_is_named() -> None:
    with OpenAIServer() as server:
        pass
    message = refused(server, max_attempts=2, pause=Waits())
    assert server.url in message
    assert "no reply (ConnectionRefusedError" in message


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "change the setting"), (401, "API key"), (403, "API key"), (404, "up to its /v1"), (422, "the settings")],
)
def test_permanent_failures_are_not_retried(server: OpenAIServer, status: int, remedy: str) -> None:
    server.faults += [Reply(status, b"At most 512 tokens,\n" + b"please " * 200)]
    message = refused(server, pause=Waits())
    assert f"POST {server.url}/chat/completions is refused with {status} (At most 512 tokens, please" in message
    assert remedy in message.rpartition(";")[2]
    assert len(message) < 600
    assert len(server.requests) == 1


def test_redirects_are_not_followed(server: OpenAIServer) -> None:
    with OpenAIServer() as elsewhere:
        server.faults += [Reply(307, headers={"Location": f"{elsewhere.url}/chat/completions"})]
        assert "307" in refused(server, api_key=KEY)
        assert elsewhere.headers == []


def test_the_key_appears_in_no_log_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with OpenAIServer(api_key=KEY) as server:
        engine = ServerEngine(server.url, server.model, api_key=KEY, pause=Waits())
        server.faults += [Reply(429, f"{KEY} has had enough".encode(), {"Retry-After": "20"})]
        engine.check()
        assert len(draw(engine)) == 12
        server.faults += [Reply(500, f"who is {KEY}".encode())] * 10
        server.api_key = "another"
        errors = []
        for ask in (engine.check, lambda: list(engine.sample(PROMPTS[:1], ONE, seed=0))):
            with pytest.raises(InputError) as caught:
                ask()
            errors += traceback.format_exception(caught.value)
        server.api_key = KEY
        errors.append(refused(server, api_key=KEY, pause=Waits()))
    assert not any(KEY in text for text in [repr(engine), caplog.text, *errors])
    assert "*** has had enough" in caplog.text
    assert "Incorrect API key provided: Bearer ***" in "".join(errors)
    assert "who is ***" in errors[-1]


def test_no_key_is_sent_without_one(server: OpenAIServer) -> None:
    draw(ServerEngine(server.url, server.model))
    assert not any("Authorization" in headers for headers in server.headers)


def test_settings_of_the_openai_client_are_not_taken_from_the_environment(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Token: secret")
    draw(ServerEngine(server.url, server.model))
    names = {"Host", "Content-Type", "Content-Length", "Accept", "Accept-Encoding", "Connection", "User-Agent"}
    assert {name.title() for headers in server.headers for name in headers} == names


@pytest.mark.children
def test_openai_is_imported_only_for_servers() -> None:
    code = "import sys, raml_trl.sampling.loading; sys.exit('openai' in sys.modules)"
    subprocess.run([*python(), "-c", code], check=True)


@pytest.mark.parametrize("api_key", ["", "two words", f"{KEY}\n", "schlüssel"])
def test_malformed_keys_are_refused_without_showing_them(api_key: str) -> None:
    with pytest.raises(InputError, match="api_key") as caught:
        ServerEngine("http://localhost/v1", "tiny", api_key=api_key)
    assert not api_key or api_key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "ftp://localhost/v1", "file:///etc/passwd", "http://", "http:///v1", ""),
        *("http://me:secret@localhost/v1", "http://localhost/v1?key=secret", "http://localhost/v1#a", "http://a b/v1"),
        *("http://localhost:port/v1", "http://localhost/v1\nHost: evil", "http://lócalhost/v1"),
    ],
)
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="url is not") as caught:
        ServerEngine(url, "tiny")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["max_requests", "max_attempts", "max_response_bytes", "timeout_seconds", "deadline_seconds"]
)
def test_limits_start_at_one(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} must be 1 or more, got 0"):
        ServerEngine("https://[::1]:8000/v1", "tiny", **{setting: 0})


@pytest.mark.parametrize(
    ("answer", "text", "finished"),
    [
        (Answer("4", 1), "4", True),
        (Answer("4", 1, "length"), "4", False),
        (Answer(None, 1), "", True),
        (Answer("4", 1, message={"reasoning_content": "2+2"}), "<think>\n2+2\n</think>\n\n4", True),
        (Answer("\n\n4", 1, message={"reasoning": "\n2+2\n"}), "<think>\n2+2\n</think>\n\n4", True),
        (Answer(None, 1, message={"reasoning": "2+2"}), "<think>\n2+2\n</think>\n\n", True),
        (Answer(None, 1, "length", message={"reasoning": "2+"}), "<think>\n2+", False),
        (Answer("4", 1, message={"reasoning": ""}), "4", True),
    ],
)
def test_reasoning_in_a_field_of_its_own_is_restored(answer: Answer, text: str, finished: bool) -> None:
    with OpenAIServer(lambda _: answer) as server:
        completions = draw(ServerEngine(server.url, server.model), ONE)
    assert {(completion.text, completion.num_tokens, completion.finished) for completion in completions} == {
        (text, 1, finished)
    }


def test_check_finds_the_model(server: OpenAIServer) -> None:
    ServerEngine(server.url, server.model).check()
    with pytest.raises(InputError, match=r"'large' is not served at .*/v1, which has tiny, other: name one"):
        ServerEngine(server.url, "large").check()


@pytest.mark.parametrize("status", [404, 405])
def test_check_passes_a_server_that_lists_no_models(server: OpenAIServer, status: int) -> None:
    server.models = Reply(status)
    ServerEngine(server.url, "large").check()


@pytest.mark.parametrize("reply", [Reply(403), Reply(200, b"<html>"), Reply(200, {"data": ["tiny"]}), Reply(200, 1)])
def test_check_refuses_other_servers(server: OpenAIServer, reply: Reply) -> None:
    server.models = reply
    with pytest.raises(InputError, match=f"GET {server.url}/models"):
        ServerEngine(server.url, server.model, pause=Waits()).check()


SLOW = Reply(200, seconds=60)
LATER = Reply(503, headers={"Retry-After": "60"})


@pytest.mark.parametrize("fault", [SLOW, LATER], ids=["in flight", "waiting to retry"])
def test_closing_the_iterator_cancels_open_requests(server: OpenAIServer, fault: Reply) -> None:
    threads = threading.active_count()
    server.faults += [fault] * 3
    completions = ServerEngine(server.url, server.model, max_requests=4).sample(PROMPTS, SETTINGS, seed=0)
    next(completions)
    until(lambda: not server.faults)
    sent = len(server.requests)
    started = time.monotonic()
    completions.close()
    assert time.monotonic() - started < 5
    until(lambda: server.in_flight == 0)
    until(lambda: threading.active_count() == threads)
    assert len(server.requests) <= sent + 4


def test_an_error_cancels_open_requests(server: OpenAIServer) -> None:
    server.faults += [SLOW, SLOW, Reply(400)]
    started = time.monotonic()
    with pytest.raises(InputError, match="400"):
        draw(ServerEngine(server.url, server.model, max_requests=3))
    assert time.monotonic() - started < 5
    until(lambda: server.in_flight == 0)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.long
def test_a_served_model_gives_the_completions_of_a_local_one(model_dir: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)
    local = TransformersEngine(model, tokenizer, batch_size=1)
    greedy = SamplingSettings(num_samples=1, max_completion_length=10, temperature=0.0, top_p=1.0, top_k=0)
    with OpenAIServer(answer_with(local)) as server:
        served = draw(ServerEngine(server.url, server.model), greedy)
    assert served == sorted(local.sample(PROMPTS, greedy, seed=0), key=place)
