"""Identifies processes across machines, and finds out whether a process has ended.

A process number alone identifies no process: numbers are used again, and every machine and every container has its own.
"""

import os
import platform
import uuid
from functools import cache
from pathlib import Path
from typing import TypedDict

_STATE, _STARTED = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted after the name of the program: see proc(5)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Process(TypedDict):
    """Identifies a process. Two processes with equal values are the same process."""

    host: str
    pid: int
    started: str
    """Start time of the process, in clock ticks after the start of the machine. Empty if it is unknown."""
    place: str
    """Identifies the running system and the container, in which `pid` is unique."""


def this_process() -> Process:
    """Return the identity of this process."""
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "started": start_time(pid) or "", "place": _place()}


def has_ended(process: Process) -> bool | None:
    """Return whether a process has ended, or None if it runs on another machine or in another container."""
    if process["place"] != _place():
        return None
    started = start_time(process["pid"])
    return started is None or ("" not in (started, process["started"]) and started != process["started"])


def start_time(pid: int) -> str | None:
    """Return the start time of a process on this machine: None if it has ended, and "" if it cannot be read."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""  # the process of another user
    try:
        # The name of the program, in parentheses, may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""  # no Linux, or the process has just ended
    return None if fields[_STATE] in "ZX" else fields[_STARTED]  # a zombie has ended and waits for its parent


def launch_name() -> str:
    """Return a name that all processes of one launch share, and that no other launch has at the same time."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if ranks == "1":
        process = this_process()
        return f"{process['place']} {process['pid']} {process['started']}"
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    local = _place() if address in _LOOPBACK else ""
    return f"{ranks} processes {address} {port} {local}".strip()


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return f"{platform.node()} {uuid.getnode():x}"
