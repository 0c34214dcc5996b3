"""A server behind a URL as an engine: against a real one on this machine, which fails in all the ways that they do."""

import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Event
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Completion, SamplingSettings
from raml_trl.sampling.server_engine import ServerEngine
from raml_trl.sampling.transformers_engine import TransformersEngine
from tests.helpers.openai_server import CUT, Answer, OpenAIServer, Reply, answer_with

PROMPTS = [prompt_messages(text, "bare") for text in ("a=1+2,b=3", "a=1+2+3+4+5,b=6", "a=1,b=2")]
SETTINGS = SamplingSettings(num_samples=4, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=0)
ONE = SamplingSettings(num_samples=1, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=0)
KEY = "sk-this-is-nobody-elses/business"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


class Waits(list[float]):
    """In place of waiting: notes how long it would have been."""

    def __call__(self, stopped: Event, seconds: float) -> bool:
        self.append(seconds)
        return stopped.is_set()


def draw(engine: ServerEngine, settings: SamplingSettings = SETTINGS, seed: int = 0) -> list[Completion]:
    return sorted(engine.sample(PROMPTS, settings, seed=seed), key=lambda one: (one.prompt, one.sample))


def refused(server: OpenAIServer, **settings: Any) -> str:
    """The error, which is one line."""
    with pytest.raises(InputError) as caught:
        list(ServerEngine(server.url, server.model, **settings).sample(PROMPTS[:1], ONE, seed=0))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_sample_once_as_it_was_asked_for(server: OpenAIServer) -> None:
    completions = draw(ServerEngine(server.url + "/", server.model, max_requests=5))
    assert [(one.prompt, one.sample) for one in completions] == [(prompt, n) for prompt in range(3) for n in range(4)]
    assert Counter(len(request["messages"]) for request in server.requests) == {1: 12}
    for request in server.requests:
        expected = {"model": "tiny", "max_tokens": 10, "temperature": 0.7, "top_p": 0.9}
        assert {name: value for name, value in request.items() if name not in ("messages", "seed")} == expected
    [same] = [request for request in server.requests if server.answer(request).content == completions[5].text]
    assert same["messages"] == PROMPTS[1]
    assert completions[5].num_tokens == server.answer(same).num_tokens
    assert completions[5].finished


def test_top_k_is_sent_where_it_says_something(server: OpenAIServer) -> None:
    draw(ServerEngine(server.url, server.model), SamplingSettings(1, 10, 1.0, 1.0, top_k=20))
    assert {request["top_k"] for request in server.requests} == {20}


def test_seeds_are_keyed(server: OpenAIServer) -> None:
    one_by_one = draw(ServerEngine(server.url, server.model, max_requests=1))
    seeds = [request["seed"] for request in server.requests]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert draw(ServerEngine(server.url, server.model, max_requests=7)) == one_by_one
    other = draw(ServerEngine(server.url, server.model), seed=1)
    assert not {one.text for one in other} & {one.text for one in one_by_one}


def test_no_more_in_flight_than_allowed() -> None:
    with OpenAIServer(seconds=0.02) as server:
        draw(ServerEngine(server.url, server.model, max_requests=3), SamplingSettings(7, 10, 1.0, 1.0, 0))
        assert server.most_in_flight == 3


def test_not_all_requests_are_in_line_at_once(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = []

    class Counted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **settings: Any) -> Any:
            submitted.append(arguments)
            return super().submit(*arguments, **settings)

    monkeypatch.setattr("raml_trl.sampling.server_engine.ThreadPoolExecutor", Counted)
    completions = ServerEngine(server.url, server.model, max_requests=2).sample(PROMPTS * 100, SETTINGS, seed=0)
    for drawn in range(1, 51):
        next(completions)
        assert len(submitted) <= drawn + 2 * 4  # of 1,200: those in flight or in line, and as many done together
    completions.close()


NO_TOKENS = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
FAULTS = [
    *(CUT, Reply(429), *(Reply(status, b"busy") for status in (500, 502, 503, 504))),
    *(Reply(200, malformed) for malformed in (b"<html>", b"[]", {}, {"choices": []}, NO_TOKENS)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.status} {fault.body}")
def test_what_fails_for_now_is_sent_again(server: OpenAIServer, fault: Reply) -> None:
    expected = draw(ServerEngine(server.url, server.model))
    server.requests.clear()
    server.faults += [fault, fault]
    waits = Waits()
    assert draw(ServerEngine(server.url, server.model, max_requests=2, pause=waits)) == expected
    assert len(waits) == 2
    assert len(server.requests) == 14
    assert len({request["seed"] for request in server.requests}) == 12


def test_a_reply_that_ends_early_is_no_reply(server: OpenAIServer) -> None:
    server.faults += [Reply(200, b'{"choices"', {"Content-Length": "1000"})]
    assert len(draw(ServerEngine(server.url, server.model, pause=Waits()))) == 12


def test_one_that_takes_too_long_is_sent_again(server: OpenAIServer) -> None:
    server.faults += [Reply(500, seconds=30)]
    started = time.monotonic()
    assert len(draw(ServerEngine(server.url, server.model, timeout_seconds=1, pause=Waits()))) == 12
    assert 1 <= time.monotonic() - started < 10
    assert len(server.requests) == 13


def test_waits_grow_and_are_keyed(server: OpenAIServer) -> None:
    def waited() -> Waits:
        server.faults += [CUT] * 9
        waits = Waits()
        list(ServerEngine(server.url, server.model, pause=waits).sample(PROMPTS[:1], ONE, seed=0))
        return waits

    first = waited()
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(first[:5], start=1))
    assert all(30 <= wait <= 60 for wait in first[5:])
    assert len(set(first[5:])) == 4
    assert waited() == first


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("77", 77, 77),
        ("77.5", 77.5, 77.5),
        ("in two hours", 7100, 7200),
        ("0", 1, 2),
        ("soon", 1, 2),
    ],
)
def test_the_server_may_ask_for_a_longer_wait(server: OpenAIServer, header: str, low: float, high: float) -> None:
    if header == "in two hours":  # as a date
        header = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    server.faults += [Reply(429, headers={"Retry-After": header})]
    waits = Waits()
    list(ServerEngine(server.url, server.model, pause=waits).sample(PROMPTS[:1], ONE, seed=0))
    [wait] = waits
    assert low <= wait <= high


def test_giving_up_says_that_it_can_be_taken_up_again(server: OpenAIServer) -> None:
    server.faults += [Reply(503, b"no\nroom")] * 3
    waits = Waits()
    message = refused(server, max_attempts=3, pause=waits)
    assert f"POST {server.url}/chat/completions failed 3 times, the last with 503 (no room); " in message
    assert "the same command carries on" in message
    assert len(server.requests) == 3
    assert len(waits) == 2


def test_a_server_that_is_not_there_is_named() -> None:
    with OpenAIServer() as server:
        pass
    message = refused(server, max_attempts=2, pause=Waits())
    assert server.url in message
    assert "no reply (ConnectionRefusedError" in message


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "change the setting"), (401, "API key"), (403, "API key"), (404, "up to its /v1"), (422, "the settings")],
)
def test_what_will_never_do_is_refused_at_once(server: OpenAIServer, status: int, remedy: str) -> None:
    server.faults += [Reply(status, b"At most 512 tokens,\n" + b"please " * 200)]
    message = refused(server, pause=Waits())
    assert f"POST {server.url}/chat/completions is refused with {status} (At most 512 tokens, please" in message
    assert remedy in message.rpartition(";")[2]
    assert len(message) < 600
    assert len(server.requests) == 1


def test_a_redirect_is_refused(server: OpenAIServer) -> None:
    with OpenAIServer() as elsewhere:
        server.faults += [Reply(307, headers={"Location": f"{elsewhere.url}/chat/completions"})]
        assert "307" in refused(server, api_key=KEY)
        assert elsewhere.headers == []


def test_the_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
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
    told = [repr(engine), caplog.text, *errors]
    assert not any(KEY in text for text in told)
    assert "*** has had enough" in caplog.text
    assert "Incorrect API key provided: Bearer ***" in "".join(errors)
    assert "who is ***" in errors[-1]


def test_without_a_key_none_is_sent(server: OpenAIServer) -> None:
    draw(ServerEngine(server.url, server.model))
    assert not any("Authorization" in headers for headers in server.headers)


@pytest.mark.parametrize("api_key", ["", "two words", f"{KEY}\n", "schlüssel"])
def test_what_cannot_be_a_key_is_refused_unseen(api_key: str) -> None:
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
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="url is not") as caught:
        ServerEngine(url, "tiny")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["max_requests", "max_attempts", "timeout_seconds"])
def test_numbers_start_at_one(setting: str) -> None:
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
def test_thoughts_apart_from_the_text_are_put_back(answer: Answer, text: str, finished: bool) -> None:
    with OpenAIServer(lambda _: answer) as server:
        completions = draw(ServerEngine(server.url, server.model), ONE)
    assert {(one.text, one.num_tokens, one.finished) for one in completions} == {(text, 1, finished)}


def test_check_knows_the_models(server: OpenAIServer) -> None:
    ServerEngine(server.url, server.model).check()
    with pytest.raises(InputError, match=r"'large' is not served at .*/v1, which has tiny, other: name one"):
        ServerEngine(server.url, "large").check()


@pytest.mark.parametrize("status", [404, 405])
def test_check_passes_a_server_that_lists_none(server: OpenAIServer, status: int) -> None:
    server.models = Reply(status)
    ServerEngine(server.url, "large").check()


@pytest.mark.parametrize("reply", [Reply(403), Reply(200, b"<html>"), Reply(200, {"data": ["tiny"]}), Reply(200, 1)])
def test_check_stops_at_what_is_no_such_server(server: OpenAIServer, reply: Reply) -> None:
    server.models = reply
    with pytest.raises(InputError, match=f"GET {server.url}/models"):
        ServerEngine(server.url, server.model, pause=Waits()).check()


SLOW = Reply(200, seconds=60)
LATER = Reply(503, headers={"Retry-After": "60"})


@pytest.mark.parametrize("fault", [SLOW, LATER], ids=["in flight", "waiting for another attempt"])
def test_closing_ends_what_is_under_way(server: OpenAIServer, fault: Reply) -> None:
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


def test_an_error_ends_what_is_under_way(server: OpenAIServer) -> None:
    server.faults += [SLOW, SLOW, Reply(400)]
    started = time.monotonic()
    with pytest.raises(InputError, match="400"):
        draw(ServerEngine(server.url, server.model, max_requests=3))
    assert time.monotonic() - started < 5
    until(lambda: server.in_flight == 0)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_behind_a_server_writes_what_it_writes_here(model_dir: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)
    here = TransformersEngine(model, tokenizer, batch_size=1)
    greedy = SamplingSettings(num_samples=1, max_completion_length=10, temperature=0.0, top_p=1.0, top_k=0)
    with OpenAIServer(answer_with(here)) as server:
        there = draw(ServerEngine(server.url, server.model), greedy)
    assert there == sorted(here.sample(PROMPTS, greedy, seed=0), key=lambda one: one.prompt)
    assert {one.finished for one in there} <= {True, False}
