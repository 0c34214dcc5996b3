"""Measures how grading scales from one core to two, with one pool or with independent processes.

There are three arrangements. In `single`, a pool has one child, which shares a single core with the calling process. In
`pair`, a pool has two children, which share two cores with the calling process. In `two_processes`, there are two
independent processes. Each of them has its own core, its own pool with one child, and half of the pairs.

All pools and processes stay alive during the whole measurement, as in a training run. Only Linux lets a process choose
its cores.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Self

from raml_trl.grading.estimates import estimate
from raml_trl.grading.notation import normalise
from raml_trl.grading.numbers import exact
from raml_trl.grading.pool import GradingPool
from raml_trl.grading.reading import read
from raml_trl.grading.symbolic import parse_expression

Pairs = Sequence[tuple[str, str]]


def clear_caches() -> None:
    """Empties the caches of our grader in this process."""
    for cached in (normalise, exact, read, estimate, parse_expression):
        cached.cache_clear()


def two_cores() -> list[int]:
    """Returns two cores that this process may use, or [] if it has fewer or the system cannot assign cores."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:2]
    return cores if len(cores) == 2 else []


@contextmanager
def _only(cores: Sequence[int]) -> Iterator[None]:
    """Restricts this thread, and the processes that it starts, to `cores`."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(core: int, calls: Connection) -> None:
    """Is one of the `two_processes`: grades each list of pairs from `calls` on `core`, until an empty list arrives."""
    with _only([core]), GradingPool(1) as pool:
        while pairs := calls.recv():
            clear_caches()
            pool.grade(pairs, style="boxed")
            calls.send(len(pairs))


class Arrangements:
    """Context manager that keeps all three arrangements running, and measures the time that each of them takes."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._single, self._pair = stack.enter_context(GradingPool(1)), stack.enter_context(GradingPool(2))
            self._processes: list[Connection] = []
            context = multiprocessing.get_context("spawn")
            for core in self._cores:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(core, there), daemon=True)
                process.start()
                stack.callback(process.join)
                stack.callback(here.send, ())
                self._processes.append(here)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    def seconds(self, arrangement: str, pairs: Pairs) -> float:
        """Returns the wall-clock time in seconds in which `arrangement` (see the module's docstring) grades `pairs`.

        The processes that own a pool start with empty caches. The children keep what they have parsed before.
        """
        clear_caches()
        if arrangement == "two_processes":
            started = time.perf_counter()
            for number, process in enumerate(self._processes):
                process.send(list(pairs[number :: len(self._processes)]))
            for process in self._processes:
                process.recv()
            return time.perf_counter() - started
        pool, cores = (self._single, self._cores[:1]) if arrangement == "single" else (self._pair, self._cores)
        with _only(cores):
            started = time.perf_counter()
            pool.grade(pairs, style="boxed")
            return time.perf_counter() - started
