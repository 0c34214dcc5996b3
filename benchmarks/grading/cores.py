"""How grading scales from one core to two: the pool against itself, and against what the machine gives.

`one` is a pool of one, its child and its parent on one core; `two` a pool of two, all on two cores; `two_processes` two
processes that know nothing of each other, a pool of one and half of the pairs each, on a core each. All live as long as
the measurement, as in a training run. Python offers cores to a process on Linux only.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Self

from raml_trl.grading.notation import normalise
from raml_trl.grading.pool import GradingPool

Pairs = Sequence[tuple[str, str]]


def two_cores() -> list[int]:
    """Two cores of those this process may use; none where there are not two, or where none can be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:2]
    return cores if len(cores) == 2 else []


@contextmanager
def _only(cores: Sequence[int]) -> Iterator[None]:
    """This thread, and what it starts, on `cores` alone."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(core: int, calls: Connection) -> None:
    """A process with a pool of one, both on `core`, that grades what it is sent until it is sent nothing."""
    with _only([core]), GradingPool(1) as pool:
        while pairs := calls.recv():
            normalise.cache_clear()
            pool.grade(pairs, style="boxed")
            calls.send(len(pairs))


class Arrangements:
    """A context manager: `seconds` says what each arrangement takes for the same pairs."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._one, self._two = stack.enter_context(GradingPool(1)), stack.enter_context(GradingPool(2))
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
        """What `arrangement`, a name of the module's docstring, takes, nothing of which any parent has told before."""
        normalise.cache_clear()
        if arrangement == "two_processes":
            started = time.perf_counter()
            for number, process in enumerate(self._processes):
                process.send(list(pairs[number :: len(self._processes)]))
            for process in self._processes:
                process.recv()
            return time.perf_counter() - started
        pool, cores = (self._one, self._cores[:1]) if arrangement == "one" else (self._two, self._cores)
        with _only(cores):
            started = time.perf_counter()
            pool.grade(pairs, style="boxed")
            return time.perf_counter() - started
