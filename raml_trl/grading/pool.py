"""Grades of many texts at once: algebra is done in child processes, which may hang or die without harm.

A time limit inside a process needs SIGALRM and the main thread, and does not end one long instruction. So math-verify
never runs in the calling process: what takes no algebra is told at once, and the rest goes to children
(`grading_worker`) that live as long as the pool. Each comparison has a deadline, and a child that overruns or dies is
replaced.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from typing import Self

from raml_trl.grading.grader import SECONDS, Grade, Outcome, extract_answer, formatted, tell

STARTING_SECONDS = 120
"""A child takes a second or two; the rest is for a busy machine."""

LOOKAHEAD = 16
"""Pairs that wait, per child: among so many there is likely one that is akin to what the child has read."""

Pair = tuple[str | None, str]
"""What was predicted, None if there is no box, and the reference."""


class GradingPool:
    """A context manager of at most `num_workers` children, started when there is something for them to compare.

    `seconds` is the deadline of one comparison. Any thread may grade, one at a time; a process that is forked off,
    or is sent the pool, starts children of its own.
    """

    def __init__(self, num_workers: int, *, seconds: float = SECONDS) -> None:
        assert num_workers > 0, num_workers
        assert seconds > 0, seconds
        self._num_workers = num_workers
        self._seconds = seconds
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: list[_Child] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[int], Self], tuple[int]]:
        return partial(type(self), seconds=self._seconds), (self._num_workers,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children. The next call of `grade` or `compare` starts others."""
        if self._process != os.getpid():  # they are not this process's
            return
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def grade(self, pairs: Sequence[tuple[str, str]], *, style: str) -> list[Grade]:
        """Judge completions against their reference answers: one grade for each, in order, whatever they are.

        Args:
            pairs: the completion, without the prompt, and the reference, as it would stand inside the box.
            style: a key of `prompts.STYLES`, whose layout decides `formatted`.

        Raises:
            InputError: if `style` is unknown.
        """
        layouts = [formatted(text, style) for text, _ in pairs]
        outcomes = self.compare([(extract_answer(text), answer) for text, answer in pairs])
        return [Grade(outcome == "correct", layout, outcome) for outcome, layout in zip(outcomes, layouts, strict=True)]

    def compare(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Hold answers, as they stand inside the box, against their references: one outcome for each, in order."""
        if self._process != os.getpid():  # forked off: the children and the lock are the other process's
            self._begin()
        told: dict[Pair, Outcome | None] = {}

        def untold() -> Iterator[Pair]:
            for pair in dict.fromkeys(pairs):  # samples often agree: each pair once
                told[pair] = tell(*pair)
                if told[pair] is None:
                    yield pair

        with self._lock:
            by_algebra = self._ask_children(untold())
        return [told[pair] or by_algebra[pair] for pair in pairs]

    def _ask_children(self, pairs: Iterator[Pair]) -> dict[Pair, Outcome]:
        """What the children make of `pairs`, which differ from each other, and are looked for while they work."""
        outcomes: dict[Pair, Outcome] = {}
        readers: dict[str, _Child] = {}
        waiting, retried = list(islice(pairs, self._num_workers)), set[Pair]()
        busy: list[_Child] = []
        try:
            while waiting or busy:
                while waiting and len(busy) < self._num_workers:
                    busy.append(self._idle.pop() if self._idle else _Child(self._seconds))
                    busy[-1].take(_next_for(busy[-1], waiting, readers))
                found = list(islice(pairs, 1 if len(waiting) < LOOKAHEAD * self._num_workers else 0))
                waiting.extend(found)
                for child, outcome in _settled(busy, patient=not found):
                    busy.remove(child)
                    if outcome in ("timeout", "crash"):
                        child.kill()
                    else:
                        self._idle.append(child)
                    # A child may die before it has begun, or through no fault of the pair: one more try.
                    if outcome == "crash" and child.pair not in retried:
                        retried.add(child.pair)
                        waiting.append(child.pair)
                    elif child.ready:
                        outcomes[child.pair] = outcome
                    else:
                        raise RuntimeError("raml_trl.grading.worker does not start: what it says is on stderr")
        finally:  # an interrupted call leaves children whose answers nobody waits for
            for child in busy:
                child.kill()
        return outcomes


class _Child:
    """A process and the pair it was given last. What it says next is due at `deadline`."""

    pair: Pair
    deadline: float

    def __init__(self, seconds: float) -> None:
        command = [sys.executable, "-m", "raml_trl.grading.worker", str(seconds)]
        # In a session of its own, Ctrl-C does not reach it; unbuffered, one reply is one line to wait for.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._seconds = seconds
        self.ready = False

    def fileno(self) -> int:
        return self._replies.fileno()

    def take(self, pair: Pair) -> None:
        """Put `pair` to the child, once it is ready: starting does not count towards the deadline."""
        self.pair, self.deadline = pair, time.monotonic() + STARTING_SECONDS
        if self.ready:
            self._ask()

    def hear(self) -> Outcome | None:
        """Read what it says: what became of its pair, or None if it is only now ready for it."""
        reply = self._replies.readline()
        if not reply:
            return "crash"
        if self.ready:
            return json.loads(reply)
        self.ready = True
        self._ask()
        return None

    def kill(self) -> None:
        with self._process:  # closes its pipes and waits for its end
            self._process.kill()

    def _ask(self) -> None:
        self.deadline = time.monotonic() + self._seconds
        predicted, answer = self.pair
        with suppress(BrokenPipeError):  # it has died, and its stdout will tell
            self._requests.write(json.dumps({"predicted": predicted, "answer": answer}).encode() + b"\n")


def _next_for(child: _Child, waiting: list[Pair], readers: dict[str, _Child]) -> Pair:
    """Take out of `waiting` the pair that costs least reading; `readers` has who read an expression last.

    To read is most of the work, and who has read an expression is quick with those like it. So a child takes what it
    has read one side of, else what nobody has, and last what another child has, rather than be idle.
    """

    def strange(pair: Pair) -> int:
        known = {readers.get(expression or "") for expression in pair} - {None}
        return 0 if child in known else 1 + bool(known)

    pair = min(waiting, key=strange)  # of equals the first
    waiting.remove(pair)
    readers.update(dict.fromkeys(filter(None, pair), child))
    return pair


def _settled(children: Sequence[_Child], *, patient: bool) -> list[tuple[_Child, Outcome]]:
    """Those whose pair is done with, and what became of it. If `patient`, wait until a child speaks or is overdue."""
    first = min(child.deadline for child in children)
    heard = wait([child.fileno() for child in children], max(0.0, first - time.monotonic()) if patient else 0)
    settled: list[tuple[_Child, Outcome]] = []
    for child in children:
        if child.fileno() in heard:
            outcome = child.hear()
            if outcome is not None:
                settled.append((child, outcome))
        elif child.deadline <= time.monotonic():
            settled.append((child, "timeout" if child.ready else "crash"))
    return settled
