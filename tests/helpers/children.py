"""Keeps the fast tests fast: a test that starts a child process must carry the marker `children`.

`make test-fast` leaves marked tests out. An audit hook sees each start of a process, so the marker cannot be forgotten.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHEAP = ("git", "uname")
"""Programs that take milliseconds. The client of openai calls `uname`."""

MARKED = ("children", "slow", "vllm")
"""Markers of tests that `make test-fast` leaves out."""


class ChildProcessWatch:
    """Fails a test that starts a child process without the marker `children`."""

    def __init__(self) -> None:
        self.test: pytest.Item | None = None

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Receive an audit event of the interpreter: https://docs.python.org/3/library/audit_events.html."""
        if event not in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn") or self.test is None:
            return
        program = Path(str(arguments[0])).name if arguments else "a copy of this process"
        if program not in CHEAP and not any(map(self.test.get_closest_marker, MARKED)):
            test, self.test = self.test, None  # report once
            pytest.fail(f"{test.nodeid} starts {program}: mark it with @pytest.mark.children")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item
        try:
            return (yield)
        finally:
            self.test = None


def watch_child_processes(config: pytest.Config) -> None:
    """Register the watch; an audit hook stays until the interpreter ends."""
    watch = ChildProcessWatch()
    config.pluginmanager.register(watch)
    sys.addaudithook(watch.audit)
