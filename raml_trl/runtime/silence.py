"""Ends a launch in which a process has stopped responding, and names that process.

A process that is stopped, or whose machine has failed, does not end. The other processes of the launch would wait for
it: without end on some backends, on others until a collective times out. Therefore, every process watches the process
with the next lower rank, and the first process watches the last one. The sign of life of a process is that it touches
its lock file (see `locks`).
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raml_trl.runtime.locks import describe, has_crashed, holder_of, lock_path

UNRESPONSIVE = 69
"""Exit code of a process that ends its launch because another process does not respond (EX_UNAVAILABLE)."""

_CHECKS = 10  # per time limit
_LONGEST_INTERVAL = 60.0  # seconds between two checks


class Silence:
    """Measures for how long a file has not been touched.

    Only time in which this process was running counts. Otherwise, after a suspension of this machine, all other
    processes would seem silent.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self.path = path
        self.interval = interval
        self.seconds = 0.0
        self._touched: float | None = None

    def measure(self, elapsed: float) -> float:
        """Return for how many seconds the file has not been touched; 0 if it does not exist.

        If the file system cannot say when the file was touched, the time since the last call does not count.
        `elapsed` is the number of seconds since the last call.
        """
        try:
            touched = self.path.stat().st_mtime
        except FileNotFoundError:  # the process has not started, or has ended
            touched = None
        except OSError:  # a fault of the file system, such as a stale handle, says nothing about the process
            return self.seconds
        if touched is None or touched != self._touched:
            self._touched, self.seconds = touched, 0.0
        else:
            self.seconds += min(elapsed, 2 * self.interval)
        return self.seconds


@contextmanager
def watched(
    directory: Path,
    *,
    rank: int,
    num_processes: int,
    limit: float,
    program: str,
    clock: Callable[[], float] = time.monotonic,
    end: Callable[[int], object] = os._exit,
) -> Iterator[None]:
    """Within the `with` block, end this process if the process that it watches does not respond for `limit` seconds.

    The launcher then ends the other processes. A launch of one process is not watched. A process that has ended counts
    as responding: a launcher notices its end, and processes without a launcher do not need each other.

    Args:
        directory: the output directory, with the lock files of all processes.
        rank: rank of this process.
        num_processes: number of processes in the launch.
        limit: seconds without a sign of life after which the launch ends.
        program: name of the command, for the message.
        clock: returns the time in seconds.
        end: ends this process with an exit code. An exception would not do, because it does not reach a main thread
            that waits in a collective.
    """
    watched_rank = (rank - 1) % num_processes
    silence = Silence(lock_path(directory, watched_rank), min(limit / _CHECKS, _LONGEST_INTERVAL))
    stopped = threading.Event()

    def watch() -> None:
        before = clock()
        while not stopped.wait(silence.interval):
            now = clock()
            if silence.measure(now - before) >= limit and not has_crashed(silence.path):
                holder = holder_of(silence.path, expiry=math.inf)
                name = "" if holder is None else f" ({describe(holder)})"
                sys.stderr.write(
                    f"{program}: rank {watched_rank}{name} has not responded for {limit:.0f} seconds: ending the "
                    "launch; run the same command again to resume\n"
                )
                sys.stderr.flush()
                end(UNRESPONSIVE)
                return
            before = now

    if num_processes > 1:
        threading.Thread(target=watch, name="silence", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()
