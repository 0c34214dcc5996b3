"""Locks an output directory, so that one run writes to it at a time, on local and on network file systems.

The lock is a file that names the process that holds it. Only one process can create the file, which all file systems
guarantee, whereas some network file systems do not support `flock`. A lock expires without help after a crash:

- on the same machine (and in the same container), as soon as its process has ended;
- elsewhere, `EXPIRY_SECONDS` after its process has touched the file for the last time. A thread of the process touches
  the file every `HEARTBEAT_SECONDS`.

To find out how long ago a file was touched, a process creates a new file and compares the modification times of both.
The file system sets both times, so the clocks of the machines may differ.

In a launch, the first process holds the lock of the run, and every other process holds a file of its own beside it. The
run is locked until the last of them has ended. The process that writes the final results holds one more file, so that
no second process writes them too.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import partial_path
from raml_trl.runtime.processes import Process, has_ended, launch_name, this_process

logger = logging.getLogger(__name__)

WhenLocked = Literal["refuse", "wait"]

HEARTBEAT_SECONDS = 10.0
"""Seconds between two signs of life of the process that holds a lock."""
EXPIRY_SECONDS = 300.0
"""Seconds without a sign of life after which the lock of a process on another machine expires."""

_LOCK = "_run.lock"  # transformers pushes no file of this directory whose name starts with "_"
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0  # for the launcher to end a process whose first process is refused
_WRITING_SECONDS = 5.0  # for a process to write its lock, on a disk without hard links
_VANISHED = 20  # how often in a row a directory may vanish before it is locked

Role = int | Literal["finish"]
"""What a process holds a lock for: its rank in the launch, or `finish` for the completion of the run."""


class Holder(TypedDict):
    """The content of a lock file."""

    process: Process
    rank: Role
    launch: str
    """Name of the launch; empty if the process has not written its lock yet."""


def is_lock(path: Path) -> bool:
    """Return whether `path` is a lock file, whether or not its process still runs."""
    return path.name.startswith(_LOCK)


def lock_path(directory: Path, rank: Role) -> Path:
    """Return the lock file of the process with this rank; with `finish`, that of the process that completes the run."""
    return directory / (_LOCK if rank == 0 else f"{_LOCK}-{rank}")


def holder_of(path: Path, *, expiry: float = EXPIRY_SECONDS) -> Holder | None:
    """Return the process that holds a lock, or None if the lock does not exist or has expired.

    `expiry` is the number of seconds without a sign of life after which the lock of a process on another machine
    expires.
    """
    found = _read(path)
    return None if found is None or _has_expired(path, found, expiry) else found[1]


def holds_lock(directory: Path) -> bool:
    """Return whether this process holds the lock of `directory`. The path may also be that of a file, or of nothing."""
    try:
        found = _read(lock_path(directory, 0))
    except PermissionError:
        return False
    return found is not None and found[1]["process"] == this_process()


def check_unlocked(directory: Path, when_locked: WhenLocked) -> Holder | None:
    """Return a process that holds a lock of `directory`, or None, without locking the directory.

    The directory need not exist. `when_locked` says what a run does if there is such a process, as in `locked`.

    Raises:
        InputError: if there is such a process and `when_locked` is `refuse`.
    """
    paths = sorted(filter(is_lock, directory.iterdir())) if directory.is_dir() else []
    holder = next((holder for path in paths if (holder := holder_of(path)) is not None), None)
    if holder is not None and when_locked == "refuse":
        raise _refusal(directory, holder)
    return holder


def has_crashed(path: Path) -> bool:
    """Return whether the process of a lock file ran on this machine and has ended without deleting the file.

    Whether a process on another machine or in another container has ended is unknown, so the result for it is false.
    """
    found = _read(path)
    return found is not None and has_ended(found[1]["process"]) is True


def describe(holder: Holder) -> str:
    """Return the words that name a process in messages."""
    process = holder["process"]
    return f"process {process['pid']} on {process['host']}"


def _refusal(directory: Path, holder: Holder) -> InputError:
    return InputError(
        f"output_dir {directory} is being written by {describe(holder)}: wait for its end, set when_locked: wait, or "
        "choose another directory"
    )


@dataclass
class DirectoryLock:
    """A lock that this process holds on a directory, with the thread that keeps it from expiring."""

    directory: Path
    holder: Holder
    heartbeat: float = HEARTBEAT_SECONDS
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> Path:
        return lock_path(self.directory, self.holder["rank"])

    def check(self) -> None:
        """Refuse to go on if this process no longer holds the lock.

        Raises:
            InputError: if the directory was deleted, or another process has taken the lock. Another process can take
                the lock if this process was stopped for longer than the lock lasts.
        """
        found = _read(self.path)
        if found is None:
            raise InputError(
                f"output_dir {self.directory} was deleted or emptied while the run wrote to it (its {self.path.name} "
                "is missing): run the same command again"
            )
        if found[1] != self.holder:
            raise InputError(
                f"output_dir {self.directory} is now written by {describe(found[1])}, because this process was stopped "
                "for longer than its lock lasts: let that process finish"
            )

    def leads(self) -> bool:
        """Return whether no process of the launch with a lower rank holds a lock on the directory."""
        rank = self.holder["rank"]
        return rank != "finish" and not any(holder_of(lock_path(self.directory, lower)) for lower in range(rank))

    def beat(self) -> None:
        """Touch the lock file every `heartbeat` seconds until `release` is called. A thread runs this method."""
        while not self._stopped.wait(self.heartbeat):
            with suppress(OSError):  # a failed touch is tried again, and `check` reports a lost lock
                found = _read(self.path)
                if found is not None and found[1] == self.holder:
                    os.utime(self.path)

    def release(self) -> None:
        """Delete the lock file if this process still holds the lock, and the directory if it is empty."""
        self._stopped.set()
        found = _read(self.path)
        with suppress(OSError):  # a lock on a disk that became read-only expires when this process ends
            if found is not None and found[1] == self.holder:
                self.path.unlink()
            self.directory.rmdir()  # unless files are left


@contextmanager
def locked(
    directory: Path,
    when_locked: WhenLocked,
    *,
    rank: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    expiry: float = EXPIRY_SECONDS,
    heartbeat: float = HEARTBEAT_SECONDS,
) -> Iterator[DirectoryLock]:
    """Create `directory` if it is missing, and hold its lock within the `with` block.

    Args:
        directory: the output directory of a run.
        when_locked: `refuse` raises an error if another run holds the lock; `wait` waits until that run has ended.
        rank: rank of this process in its launch. With `refuse`, the first process raises the error at once. Any other
            process first waits 30 seconds for the launcher to end it, so that normally a single process reports the
            error.
        clock: returns the time in seconds.
        sleep: waits for a number of seconds.
        expiry: seconds without a sign of life after which the lock of a process on another machine expires.
        heartbeat: seconds between two signs of life of this process.

    Raises:
        InputError: if another run holds the lock, or the directory cannot be written.
    """
    mine: Holder = {"process": this_process(), "rank": rank, "launch": launch_name()}
    patience = _PATIENCE_SECONDS if rank > 0 else 0.0
    started, warned = clock(), False
    try:
        while (other := _acquire_new(directory, mine, expiry)) is not None:
            limit = patience if other["launch"] else max(patience, _WRITING_SECONDS)
            if when_locked == "refuse" and clock() - started >= limit:
                raise _refusal(directory, other)
            if when_locked == "wait" and rank == 0 and not warned:
                logger.info("waiting for %s, which writes to %s", describe(other), directory)
                warned = True
            sleep(_POLL_SECONDS)
    except OSError as error:
        raise InputError(f"output_dir {directory} cannot be written: {error.strerror}") from error
    with _held(DirectoryLock(directory, mine, heartbeat)) as lock:
        yield lock


@contextmanager
def finishing(directory: Path) -> Iterator[bool]:
    """Yield True if this process may complete the run in `directory`, and False if another process is completing it.

    After True, no other process may complete the run within the `with` block.
    """
    mine: Holder = {"process": this_process(), "rank": "finish", "launch": launch_name()}
    if _acquire(directory, mine, EXPIRY_SECONDS) is not None:
        yield False
        return
    with _held(DirectoryLock(directory, mine)):
        yield True


@contextmanager
def _held(lock: DirectoryLock) -> Iterator[DirectoryLock]:
    """Keep a lock that was just taken from expiring, and release it at the end."""
    threading.Thread(target=lock.beat, name="lock", daemon=True).start()
    try:
        yield lock
    finally:
        lock.release()


def _acquire_new(directory: Path, mine: Holder, expiry: float, tries: int = _VANISHED) -> Holder | None:
    """Create `directory` if it is missing, and take the lock of a process, as `_acquire` does."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _acquire(directory, mine, expiry)
    except FileNotFoundError:  # another process has ended, and has just deleted the empty directory
        if tries == 1:
            raise
        return _acquire_new(directory, mine, expiry, tries - 1)


def _acquire(directory: Path, mine: Holder, expiry: float) -> Holder | None:
    """Take the lock of a process. Return None if it was taken, otherwise the process that is in the way."""
    own = lock_path(directory, mine["rank"])
    for path in sorted(path for path in directory.iterdir() if is_lock(path)):
        found = _read(path)
        if found is None:
            continue
        if _has_expired(path, found, expiry):
            _remove(path, found[0])
        elif path == own or found[1]["launch"] != mine["launch"]:
            return found[1]
    try:
        _create(own, json.dumps(mine))
    except FileExistsError:  # another process was faster
        found = _read(own)
        return _acquire(directory, mine, expiry) if found is None else found[1]
    return None


def _create(path: Path, content: str) -> None:
    """Create a file with its content at once, so that no other process sees it empty.

    Raises:
        FileExistsError: if there is such a file.
    """
    draft = partial_path(path)
    try:
        draft.write_text(content, encoding="utf-8")
        draft.chmod(0o644)  # other users of the directory may read it
        try:
            os.link(draft, path)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
            _create_in_steps(path, content)
    finally:
        draft.unlink(missing_ok=True)


def _create_in_steps(path: Path, content: str) -> None:
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(content)
    except OSError:  # the disk is full
        path.unlink()
        raise


def _read(path: Path) -> tuple[bytes, Holder] | None:
    """Return the content of a lock file, raw and parsed, or None if there is no such file."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return content, json.loads(content)
    except ValueError:  # the process is about to write it, or was killed before it could
        unknown: Process = {"host": "an unknown host", "pid": 0, "started": "", "place": ""}
        return content, {"process": unknown, "rank": 0, "launch": ""}


def _has_expired(path: Path, found: tuple[bytes, Holder], expiry: float) -> bool:
    ended = has_ended(found[1]["process"])
    if ended is not None:
        return ended
    try:
        return _now(path.parent) - path.stat().st_mtime > expiry
    except FileNotFoundError:  # it has just been released
        return True


def _now(directory: Path) -> float:
    """Return the time of the file system, which may be that of another machine."""
    clock = partial_path(directory / "clock")
    try:
        with clock.open("x") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        clock.unlink(missing_ok=True)


def _remove(path: Path, content: bytes) -> None:
    """Delete an expired lock, but not a lock that another process has taken in the meantime."""
    aside = partial_path(path)
    try:
        path.rename(aside)
    except FileNotFoundError:  # another process has deleted it
        return
    if aside.read_bytes() != content:
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
