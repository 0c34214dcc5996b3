"""One run per directory: a lock that refuses or waits, and that expires after a crash without help."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raml_trl import prepare_data
from raml_trl.data.config import PrepareDataConfig
from raml_trl.runtime import locks
from raml_trl.runtime.cli import run
from raml_trl.runtime.commands import COMMANDS
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.local_names import nothing_at
from raml_trl.runtime.locks import EXPIRY_SECONDS, DirectoryLock, Role, finishing, holder_of, is_lock, locked
from raml_trl.runtime.processes import has_ended, launch_name, start_time, this_process
from raml_trl.runtime.silence import UNRESPONSIVE, Silence, watched
from raml_trl.sweeps.agents import Agents
from raml_trl.sweeps.study import Study
from tests.disturbed.documented import assert_documented
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.disturbance("locks")

ARITHMETIC = ("--dataset_name", "arithmetic", "--dataset_split", "test", "--num_questions", "5")


def held_by(directory: Path, age: float = 0, rank: Role = 0, launch: str = "another launch", **changes: Any) -> Path:
    """Write the lock of another process into a directory, whose last sign of life is `age` seconds old."""
    directory.mkdir(exist_ok=True)
    path = locks.lock_path(directory, rank)
    path.write_text(json.dumps({"process": this_process() | changes, "rank": rank, "launch": launch}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_missing_path_is_not_taken_for_the_output_directory(tmp_path: Path) -> None:
    """The output directory exists only since this start, so nobody can mean it."""
    (tmp_path / "gropo.json").touch()
    nothing = "there is no such directory or file"
    with locked(tmp_path / "report", "refuse"):
        assert nothing_at(tmp_path / "repo") == nothing
        assert nothing_at(tmp_path / "grop.json") == f"{nothing}; did you mean {tmp_path / 'gropo.json'}?"
    held_by(tmp_path / "report", pid=1)
    assert nothing_at(tmp_path / "repo") == f"{nothing}; did you mean {tmp_path / 'report'}?"


def content(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_a_second_start_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start() -> int:
        monkeypatch.setattr(sys, "argv", ["prepare_data", *ARITHMETIC, "--output_dir", "out"])
        with pytest.raises(SystemExit) as stop:
            run(prepare_data.main, PrepareDataConfig)
        return stop.value.code

    monkeypatch.chdir(tmp_path)
    held_by(tmp_path / "out")
    before = content(tmp_path / "out")
    assert start() == 2
    error = capsys.readouterr().err
    assert_documented(error.replace("prepare_data", "train_sft").replace(" out ", " runs/demo/sft "))
    assert error == (
        f"raml-trl prepare_data: output_dir out is being written by process {os.getpid()} on {os.uname().nodename}: "
        "wait for its end, set when_locked: wait, or choose another directory\n"
    )
    assert content(tmp_path / "out") == before
    (tmp_path / "out" / "_run.lock").unlink()
    assert start() == 0
    assert not any(map(is_lock, (tmp_path / "out").iterdir()))


def test_every_command_takes_the_lock_except_sweep_which_locks_its_trials() -> None:
    unlocked = []
    for command in COMMANDS:
        tree = ast.parse((REPOSITORY / "raml_trl" / f"{command}.py").read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "run"]
        assert len(calls) == 1, command
        unlocked += [command for word in calls[0].keywords if word.arg == "shared"]
    assert unlocked == ["sweep"]


DEAD = 2**22  # greater than every process number of Linux


@pytest.mark.parametrize(
    ("age", "changes", "expired"),
    [
        (0, {}, False),
        (10 * EXPIRY_SECONDS, {}, False),  # stopped for long, but it runs
        (0, {"pid": DEAD}, True),
        (0, {"started": "1"}, True),  # its number has been used again
        (0, {"place": "another machine"}, False),
        (EXPIRY_SECONDS - 30, {"place": "another machine"}, False),
        (EXPIRY_SECONDS + 1, {"place": "another machine"}, True),
        (EXPIRY_SECONDS + 1, {"place": "another machine", "pid": DEAD}, True),
        (0, {"place": "another machine", "pid": DEAD}, False),  # numbers of other machines mean nothing here
    ],
)
def test_expiry(tmp_path: Path, age: float, changes: dict[str, Any], expired: bool) -> None:
    path = held_by(tmp_path, age, **changes)
    before = path.read_bytes()
    assert (holder_of(path) is None) == expired
    if expired:
        with locked(tmp_path, "refuse") as lock:
            assert holder_of(path) == lock.holder
    else:
        with pytest.raises(InputError, match="is being written by"), locked(tmp_path, "refuse"):
            pass
        assert path.read_bytes() == before
    assert list(tmp_path.glob("_*")) == ([] if expired else [path])


def test_a_lock_file_without_content_is_respected_until_it_is_old(tmp_path: Path) -> None:
    """Its process was killed after it had created the file, or is about to write it."""
    path, now = tmp_path / "_run.lock", [0.0]
    path.touch()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with (
        pytest.raises(InputError, match="an unknown host"),
        locked(tmp_path, "refuse", clock=lambda: now[0], sleep=sleep),
    ):
        pass
    assert 5 <= now[0] < 10
    os.utime(path, (time.time() - EXPIRY_SECONDS - 1,) * 2)
    with locked(tmp_path, "refuse"):
        pass


def test_a_lock_appears_together_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts at the same moment, or a kill, finds no empty lock."""
    link, appeared = os.link, []

    def observed(source: str, target: Path) -> None:
        assert not target.exists()
        appeared.append(json.loads(Path(source).read_text()))
        link(source, target)

    monkeypatch.setattr(os, "link", observed)
    with locked(tmp_path, "refuse") as lock:
        assert appeared == [lock.holder]
        assert [path.name for path in tmp_path.iterdir()] == ["_run.lock"]


def test_a_file_system_without_hard_links_has_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with locked(tmp_path, "refuse") as lock:
        assert holder_of(lock.path) == lock.holder
        with pytest.raises(InputError, match="is being written by"), locked(tmp_path, "refuse"):
            pass


def test_a_process_of_the_launch_may_still_write_its_lock(tmp_path: Path) -> None:
    """Without hard links, its file is empty for a moment, and does not name its launch yet."""
    tmp_path.joinpath("_run.lock-1").touch()

    def write(_seconds: float) -> None:
        held_by(tmp_path, rank=1, launch=launch_name())

    with locked(tmp_path, "refuse", sleep=write) as lock:
        assert holder_of(lock.path) == lock.holder


@pytest.mark.children
def test_a_process_that_waits_for_its_parent_has_ended(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    process = this_process() | {"pid": child, "started": start_time(child) or "unknown"}
    deadline = time.monotonic() + 10
    while not has_ended(process):
        assert time.monotonic() < deadline
    os.waitpid(child, 0)
    assert has_ended(process)


def test_waiting_starts_when_the_other_run_has_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, waits = held_by(tmp_path), []

    def sleep(_seconds: float) -> None:
        waits.append(path.exists())
        if len(waits) == 3:
            path.unlink()

    caplog.set_level("INFO")
    with locked(tmp_path, "wait", sleep=sleep) as lock:
        assert waits == [True] * 3
        assert holder_of(path) == lock.holder
    assert [record.message.partition(",")[2] for record in caplog.records] == [f" which writes to {tmp_path}"]


def test_waiting_outlives_a_directory_that_the_other_run_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is refused deletes its new directory when it ends."""
    directory = tmp_path / "new"
    with ExitStack() as other:
        other.enter_context(locked(directory, "refuse"))
        with locked(directory, "wait", sleep=lambda _: other.close()) as lock:
            lock.check()
    mkdir = Path.mkdir

    def deleted_at_once(path: Path, *arguments: Any, **named: Any) -> None:
        monkeypatch.undo()
        mkdir(path, *arguments, **named)
        assert path == directory
        directory.rmdir()

    monkeypatch.setattr(Path, "mkdir", deleted_at_once)
    with locked(directory, "refuse") as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_completes_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "out", "refuse"), finishing(tmp_path / "out") as first:
            for _ in range(2):
                with finishing(tmp_path / "out") as second:
                    assert (first, second) == (True, False)
    path = held_by(tmp_path, rank="finish", place="another machine")
    with finishing(tmp_path) as alone:
        assert not alone
    held_by(tmp_path, rank="finish", pid=DEAD)
    with finishing(tmp_path) as alone:
        assert alone
    assert not path.exists()


def test_the_other_processes_of_a_launch_join_it_and_keep_it_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "a1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with locked(tmp_path, "refuse", rank=1):
        with locked(tmp_path, "refuse", rank=0):
            assert sorted(path.name for path in tmp_path.iterdir()) == ["_run.lock", "_run.lock-1"]
        monkeypatch.setenv("MASTER_PORT", "29501")
        with pytest.raises(InputError, match="is being written by"), locked(tmp_path, "refuse", rank=0):
            pass
    assert not tmp_path.exists()
    with locked(tmp_path, "refuse", rank=0):
        pass


def test_a_later_process_of_a_refused_launch_leaves_the_report_to_the_first(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    held_by(tmp_path)
    with pytest.raises(InputError), locked(tmp_path, "refuse", rank=1, clock=lambda: now[0], sleep=sleep):
        pass
    assert now[0] >= 30


def test_launches_on_one_machine_have_different_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {launch_name()}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for address, port in (("127.0.0.1", "1"), ("127.0.0.1", "2"), ("a1", "1")):
        monkeypatch.setenv("MASTER_ADDR", address)
        monkeypatch.setenv("MASTER_PORT", port)
        names.add(launch_name())
    assert len(names) == 4


def test_a_run_without_its_directory_or_lock_ends(tmp_path: Path) -> None:
    with locked(tmp_path / "out", "refuse") as lock:
        lock.check()
        lock.path.rename(tmp_path / "kept")
        with pytest.raises(InputError, match="was deleted or emptied while the run wrote to it"):
            lock.check()
        held_by(tmp_path / "out", pid=7)
        with pytest.raises(InputError, match="is now written by process 7"):
            lock.check()
    assert (tmp_path / "out" / "_run.lock").exists()  # that of the other process


def test_the_heartbeat_keeps_a_lock_young_but_not_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = held_by(tmp_path, age=1000)
    read, faults = locks._read, [errno.ESTALE, errno.EIO]

    def read_on_a_network(path: Path) -> Any:
        if faults:
            number = faults.pop()
            raise OSError(number, os.strerror(number))
        return read(path)

    monkeypatch.setattr(locks, "_read", read_on_a_network)
    mine = DirectoryLock(tmp_path, json.loads(path.read_text()), heartbeat=0.01)
    thread = threading.Thread(target=mine.beat)
    thread.start()
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < time.time() - 500:
        assert time.monotonic() < deadline
    held_by(tmp_path, age=1000, pid=7)
    time.sleep(0.1)
    assert path.stat().st_mtime < time.time() - 500
    mine.release()
    thread.join()
    assert path.exists()


def test_a_lock_that_was_taken_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = held_by(tmp_path)
    before = path.read_bytes()
    locks._remove(path, b"the expired lock that this process has read")
    assert path.read_bytes() == before
    locks._remove(path, before)
    assert list(tmp_path.iterdir()) == []


RACE = """
import os, sys, time, random
from pathlib import Path
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.locks import locked
directory, seed, until = Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
random.seed(seed)
while time.monotonic() < until:
    try:
        with locked(directory / "run", "wait", sleep=lambda _: time.sleep(random.random() / 100)):
            os.close(os.open(directory / "inside", os.O_CREAT | os.O_EXCL))
            if random.random() < 0.1:  # killed while it holds the lock, and nothing cleans up
                os.unlink(directory / "inside")
                os.kill(os.getpid(), 9)
            time.sleep(random.random() / 500)
            os.unlink(directory / "inside")
            with open(directory / f"times-{os.getpid()}", "a") as file:
                file.write(".")
    except InputError:
        pass
"""


@pytest.mark.children
@pytest.mark.long
def test_processes_that_race_and_crash_hold_the_lock_one_at_a_time(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed, seconds = int.from_bytes(os.urandom(4), "big"), 2.0
    sys.stdout.write(f"seed {seed}\n")
    started: list[subprocess.Popen[bytes]] = []
    deadline = time.monotonic() + seconds
    codes: list[int] = []
    while time.monotonic() < deadline or started:
        for process in [process for process in started if process.poll() is not None]:
            started.remove(process)
            codes.append(process.returncode)
        while len(started) < 4 and time.monotonic() < deadline:
            seed += 1
            left = str(max(0.1, deadline - time.monotonic()))
            words = [sys.executable, "-c", RACE, str(tmp_path), str(seed), left]
            started.append(subprocess.Popen(words, cwd=REPOSITORY))
        time.sleep(0.01)
    assert set(codes) <= {0, -signal.SIGKILL}, codes
    assert -signal.SIGKILL in codes
    assert sum(len(path.read_text()) for path in tmp_path.glob("times-*")) > 10
    record_property("cases", codes.count(-signal.SIGKILL))


def test_silence_counts_only_the_time_in_which_this_process_runs(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    silence = Silence(path, interval=1)
    assert [silence.measure(1) for _ in range(3)] == [0, 0, 0]  # no such process yet
    path.touch()
    assert [silence.measure(1) for _ in range(4)] == [0, 1, 2, 3]
    assert silence.measure(3600) == 5  # this machine was suspended
    silence.path = path / "x"  # any fault of the file system
    assert silence.measure(1) == 5
    silence.path = path
    assert silence.measure(1) == 6
    os.utime(path, (1, 1))
    assert silence.measure(1) == 0


def test_a_silent_process_ends_the_launch_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, codes = threading.Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    held_by(tmp_path, rank=1, pid=7, place="another machine")
    with watched(tmp_path, rank=0, num_processes=2, limit=0.1, program="raml-trl train_grpo", end=end):
        assert ended.wait(10)
    assert capsys.readouterr().err == (
        f"raml-trl train_grpo: rank 1 (process 7 on {os.uname().nodename}) has not responded for 0 seconds: ending the "
        "launch; run the same command again to resume\n"
    )
    assert codes == [UNRESPONSIVE]


def test_a_killed_process_is_left_to_the_launcher(tmp_path: Path) -> None:
    held_by(tmp_path, rank=1, pid=DEAD)
    codes: list[int] = []
    with watched(tmp_path, rank=0, num_processes=2, limit=0.05, program="raml-trl evaluate", end=codes.append):
        time.sleep(0.3)
    assert codes == []


def test_a_trial_that_another_machine_runs_is_not_started_again(tmp_path: Path) -> None:
    """Its log can be locked here, as on a file system without `flock`."""
    study = Study(tmp_path, SimpleNamespace(metric="accuracy"), {"a": {}})
    study.run_directory("a").parent.mkdir()
    path = held_by(study.run_directory("a"), place="another machine")
    agents = Agents(study)
    with agents._claimed("a") as log:
        assert log is None
    path.unlink()
    with agents._claimed("a") as log:
        assert log is not None
