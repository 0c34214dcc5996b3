"""Ends a command on SIGTERM, and on SIGUSR1, with which SLURM warns of the end of a job.

Outside training, the signal ends the command at once. No file is left half-written, because each is written in one
step, so the same command resumes the run. Training first finishes its optimizer step and saves a checkpoint (see
`training.stopping`).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGUSR1: os.EX_TEMPFAIL}
"""The exit code of a command that a signal has ended: 143 for SIGTERM, and 75 for SIGUSR1, which asks for a requeue."""


class Terminated(BaseException):
    """Raised to end the command because of a signal. It is no `Exception`, so `except Exception` does not catch it."""

    def __init__(self, number: signal.Signals, saved: str | None = None) -> None:
        self.number = number
        self.saved = saved
        """The checkpoint that was saved, if any."""
        super().__init__(number, saved)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.number]

    def __str__(self) -> str:
        saved = "" if self.saved is None else f" after saving {self.saved}"
        return f"ended by {self.number.name}{saved}; run the same command again to resume"


class StopRequest:
    """The first signal that this process has received in the block of `collected`; None if it has received none."""

    number: signal.Signals | None = None


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within the `with` block, SIGTERM and SIGUSR1 raise `Terminated` in the main thread."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number))

    with _handled_by(end):
        yield


@contextmanager
def collected() -> Iterator[StopRequest]:
    """Within the `with` block, SIGTERM and SIGUSR1 do not interrupt the program.

    The yielded `StopRequest` holds the first such signal, so that the program can end when it is ready.
    """
    request = StopRequest()

    def keep(number: int, _frame: FrameType | None) -> None:
        request.number = request.number or signal.Signals(number)

    with _handled_by(keep):
        yield request


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
