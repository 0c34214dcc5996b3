"""Grades many completions at once. Computer algebra runs in child processes, which may hang or crash without harm.

A pair is a predicted answer with its reference. The calling process decides all pairs that need no algebra. It sends
the other pairs to child processes (module `worker`) that live as long as the pool. Each comparison has a deadline, and
a child that dies or misses a deadline is replaced.

The calling process never runs algebra, because it could limit the time only by SIGALRM. This signal works on the main
thread only and cannot interrupt a single long instruction of the interpreter.
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

from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.grader import SECONDS, Grade, Outcome, decide_without_algebra, formatted

STARTING_SECONDS = 120
"""Time limit, in seconds, for the start of a child process. A start takes a second or two, more on a busy machine."""

LOOKAHEAD = 16
"""Number of pairs that are kept waiting, per child.

A free child prefers a waiting pair with an expression that it has parsed before, because that takes less time.
"""

Pair = tuple[str | None, str]
"""The predicted answer (None if the completion has no box), and the reference."""


class GradingPool:
    """Grades with up to `num_workers` child processes. The pool is a context manager that ends the children on exit.

    A child starts when a pair needs algebra and no child is free. `seconds` is the time limit of one comparison: if it
    takes longer, its outcome is "timeout", and the child is replaced. Any thread may grade, but calls run one after the
    other. A forked process, or a process that receives the pool by
    pickling, starts its own children.
    """

    def __init__(self, num_workers: int, *, seconds: float = SECONDS) -> None:
        assert num_workers > 0, num_workers
        assert seconds > 0, seconds
        self._num_workers = num_workers
        self._seconds = seconds
        self._reset()

    def _reset(self) -> None:
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
        """End the children. The next call of `grade` or `compare` starts new ones."""
        if self._process != os.getpid():  # the children belong to the parent of this fork
            return
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def grade(self, pairs: Sequence[tuple[str, str]], *, style: str) -> list[Grade]:
        """Grade completions against their reference answers, and return one grade per pair, in order.

        Args:
            pairs: each completion, without the prompt, with its reference, as it would be written inside the box.
            style: a key of `prompts.STYLES`; a completion is `formatted` if it has the layout of this style.

        Raises:
            InputError: if `style` is unknown.
        """
        layouts = [formatted(text, style) for text, _ in pairs]
        outcomes = self.compare([(extract_answer(text), answer) for text, answer in pairs])
        return [Grade(outcome == "correct", layout, outcome) for outcome, layout in zip(outcomes, layouts, strict=True)]

    def compare(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Compare predicted answers, as written inside the box, with references. Return the outcomes in order."""
        if self._process != os.getpid():  # after a fork, children and lock belong to the parent
            self._reset()
        decided: dict[Pair, Outcome | None] = {}

        def undecided() -> Iterator[Pair]:
            for pair in dict.fromkeys(pairs):  # samples often agree: compare each pair once
                decided[pair] = decide_without_algebra(*pair)
                if decided[pair] is None:
                    yield pair

        with self._lock:
            by_algebra = self._ask_children(undecided())
        return [decided[pair] or by_algebra[pair] for pair in pairs]

    def _ask_children(self, pairs: Iterator[Pair]) -> dict[Pair, Outcome]:
        """Let the children compare distinct `pairs`, and return the outcomes.

        Take further pairs from the iterator while the children work, so that this process does not wait for them.
        """
        outcomes: dict[Pair, Outcome] = {}
        readers: dict[str, _Child] = {}
        waiting, retried = list(islice(pairs, self._num_workers)), set[Pair]()
        busy: list[_Child] = []
        try:
            while waiting or busy:
                while waiting and len(busy) < self._num_workers:
                    busy.append(self._idle.pop() if self._idle else _Child(self._seconds))
                    busy[-1].take(_next_for(busy[-1], waiting, readers))
                arrived = list(islice(pairs, 1 if len(waiting) < LOOKAHEAD * self._num_workers else 0))
                waiting.extend(arrived)
                for child, outcome in _settled(busy, patient=not arrived):
                    busy.remove(child)
                    if outcome in ("timeout", "crash"):
                        child.kill()
                    else:
                        self._idle.append(child)
                    # A child may die before it starts, or for a reason unrelated to the pair: retry once.
                    if outcome == "crash" and child.pair not in retried:
                        retried.add(child.pair)
                        waiting.append(child.pair)
                    elif child.ready:
                        outcomes[child.pair] = outcome
                    else:
                        raise RuntimeError("raml_trl.grading.worker does not start: see its message on stderr")
        finally:  # after an interrupt, nobody waits for the replies of the busy children
            for child in busy:
                child.kill()
        return outcomes


class _Child:
    """A child process that grades. `pair` was given to it last; it must print its next line before `deadline`."""

    pair: Pair
    deadline: float

    def __init__(self, seconds: float) -> None:
        command = [sys.executable, "-m", "raml_trl.grading.worker", str(seconds)]
        # A new session keeps Ctrl-C away from the child. Without buffering, `wait` sees every reply.
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
        """Send `pair` to the child once the child is ready. The time limit of the pair excludes the child's start."""
        self.pair, self.deadline = pair, time.monotonic() + STARTING_SECONDS
        if self.ready:
            self._ask()

    def hear(self) -> Outcome | None:
        """Read a line of the child's output, and return the outcome in it; None if the line says that it is ready."""
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
        with suppress(BrokenPipeError):  # the child has died: `hear` finds its stdout closed
            self._requests.write(json.dumps({"predicted": predicted, "answer": answer}).encode() + b"\n")


def _next_for(child: _Child, waiting: list[Pair], readers: dict[str, _Child]) -> Pair:
    """Remove from `waiting` the pair that needs the least parsing by `child`, and return it.

    Parsing is most of the work, and a child caches the expressions that it has parsed. The first choice is therefore a
    pair with an expression in the cache of `child`, the second a pair with expressions new to all children, and the
    last a pair with an expression in the cache of another child.

    Args:
        child: the free child.
        waiting: the pairs to choose from.
        readers: maps each expression to the child that parsed it last; updated for the chosen pair.
    """

    def parsing_cost(pair: Pair) -> int:
        known = {readers.get(expression or "") for expression in pair} - {None}
        return 0 if child in known else 1 + bool(known)

    pair = min(waiting, key=parsing_cost)  # the first of equals
    waiting.remove(pair)
    readers.update(dict.fromkeys(filter(None, pair), child))
    return pair


def _settled(children: Sequence[_Child], *, patient: bool) -> list[tuple[_Child, Outcome]]:
    """Return each child that has finished its pair, died or missed its deadline, with the outcome of the pair.

    If `patient`, wait until a child replies or the first deadline passes. Otherwise return at once.
    """
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
