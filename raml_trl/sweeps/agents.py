"""Runs the trials of a study in agents. An agent is a thread that runs one trial after another.

A trial is one run of the command of a sweep file, with one combination of values. A study is the list of trials of a
sweep, with the directory that holds their results. The processes of a trial form a process group, so that they can be
stopped together.

An agent claims a trial by locking the log file of the trial with `flock`. The log is also the standard output of the
trial's processes, so it stays locked until the last of these processes has ended, even if the agent is killed. If a
trial has no result and its log is not locked, the trial was therefore never started or was interrupted, and the next
free agent runs it. Agents on other machines see the same locks if they share the file system.
"""

import fcntl
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tqdm import tqdm

from raml_trl.runtime.errors import USER_ERROR, InputError, one_line
from raml_trl.runtime.files import write_json
from raml_trl.runtime.locks import holder_of, lock_path
from raml_trl.runtime.runs import is_complete
from raml_trl.runtime.stopping import EXIT_CODES, Terminated
from raml_trl.sweeps.results import TrialResult, read_metric
from raml_trl.sweeps.study import Study, lock_file
from raml_trl.sweeps.sweep_file import Settings, expand

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_LONGEST_REASON = 500  # bytes of a log
_StopSignals = tuple[tuple[signal.Signals, float | None], ...]
"""The signals that stop a trial, each with the seconds to wait for its end before the next signal is sent."""

_STOP_AT_ONCE: _StopSignals = ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, None))
# A training first ends its step, with an evaluation that is due, and saves a checkpoint.
_STOP_AFTER_CHECKPOINT: _StopSignals = ((signal.SIGTERM, 300.0), *_STOP_AT_ONCE)


class Stopped(Exception):
    """Raised when the agents are told to stop while a trial runs. No result is saved, so the trial can be resumed."""


def trial_environment() -> dict[str, str]:
    """Return the environment variables of a trial.

    `python` and `accelerate` are those of this process, whether or not their virtual environment is activated.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return dict(os.environ) | {"PATH": path}


def run_trials(study: Study, devices: Sequence[str | None], extra: Mapping[str, str]) -> list[TrialResult]:
    """Run the trials of `study` that have no result, and return the results of all trials.

    Args:
        study: the trials.
        devices: one entry per agent, the value of `CUDA_VISIBLE_DEVICES` for its trials. None keeps the value of the
            environment.
        extra: arguments that every trial gets in addition to its parameters and `output_dir`.

    Raises:
        InputError: if the command cannot be started, or a complete run does not have the sweep's metric.
    """
    agents = Agents(study, extra)
    results = study.results()
    with ThreadPoolExecutor(len(devices)) as pool, tqdm(total=len(results), desc="sweep", unit="trial") as bar:
        pending = {pool.submit(agents.work, device) for device in devices}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                results = study.results()
                statuses = [result.status for result in results]
                bar.set_postfix(failed=statuses.count("failed"), refresh=False)
                bar.update(len(statuses) - statuses.count("unfinished") - bar.n)
        except Terminated:  # schedulers send the signal to the trials too, which must have the time to save
            agents.stop_signals = _STOP_AFTER_CHECKPOINT
            raise
        finally:
            agents.stop.set()  # after Ctrl-C or an error, the remaining agents must end
    return results


@dataclass
class Agents:
    """The agents of `study`: each is a thread that calls `work`, which returns when every trial has a result.

    Every trial gets the arguments `extra` in addition to its parameters and `output_dir`. Setting the event `stop` ends
    all agents, and their trials with `stop_signals`.
    """

    study: Study
    extra: Mapping[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    stop_signals: _StopSignals = _STOP_AT_ONCE
    _resumed: set[str] = field(default_factory=set)
    """The trials that a signal has ended, and that are run once more. If that happens again, they have failed."""

    def work(self, device: str | None = None) -> None:
        """Run one trial after another until every trial has a result.

        If other agents are running all trials that have no result, this agent waits. If one of those trials is then
        interrupted, this agent runs it.

        Args:
            device: value of `CUDA_VISIBLE_DEVICES` for the trials; None keeps the value of the environment.

        Raises:
            InputError: if the command cannot be started, or a complete run does not have the sweep's metric.
        """
        while not self.stop.is_set() and (unfinished := self.study.unfinished()):
            for name in unfinished:
                with self._claimed(name) as log:
                    if log is not None:
                        try:
                            self._run(name, log, device)
                        except Stopped:
                            return
                        break
            else:
                self.stop.wait(5 * _POLL_SECONDS)

    @contextmanager
    def _claimed(self, name: str) -> Iterator[IO[bytes] | None]:
        """Lock the trial's log and yield it. Yield None if another agent runs the trial or has just finished it."""
        path = self.study.log_file(name)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as log:
            try:
                lock_file(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield None if self._is_running(name) or self.study.result_file(name).exists() else log

    def _is_running(self, name: str) -> bool:
        """Return whether a process holds the lock of the trial's run.

        Some network file systems do not support `flock`, but they all support the lock of a run.
        """
        return holder_of(lock_path(self.study.run_directory(name), 0)) is not None

    def _run(self, name: str, log: IO[bytes], device: str | None) -> None:
        """Run the trial and save its result. If its run is already complete, only read the metric."""
        run_directory = self.study.run_directory(name)
        code = 0 if is_complete(run_directory) else self._execute(name, log, device)
        if code == USER_ERROR and self._is_running(name):
            return  # it was refused, because another agent started the trial at the same time
        if _ended_by_signal(code) and name not in self._resumed:
            self._resumed.add(name)
            logger.warning("%s was ended by a signal: it is resumed", name)
            self.stop.wait(5 * _POLL_SECONDS)  # the signal may be on its way to this process too
            return
        if code == 0:
            metric = read_metric(run_directory, self.study.sweep.metric)
            if math.isfinite(metric):
                self.study.save_metric(name, metric)
                return
            reason = f"{self.study.sweep.metric} is {metric}"
        else:
            said = _last_line(log)
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            reason += f": {said}" if said and code > 0 else ""
        self.study.save_failure(name, reason)
        logger.warning("%s failed (%s): see %s", name, reason, log.name)

    def _execute(self, name: str, log: IO[bytes], device: str | None) -> int:
        """Run the trial's command, and return its exit code."""
        environment = trial_environment()
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        arguments: Settings = {
            **self.study.trials[name],
            "output_dir": str(self.study.run_directory(name)),
            **self.extra,
        }
        write_json(self.study.settings_file(name), arguments)
        command = expand(self.study.sweep, arguments, self.study.settings_file(name), environment)
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        return self._wait(command, environment, log)

    def _wait(self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> int:
        """Run `command` and return its exit code. If it fails, kill the processes left in its process group."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,  # Ctrl-C then reaches only the agents, which stop the trials
            )
        except OSError as error:
            raise InputError(f"{self.study.sweep.path}: {command[0]} cannot be started: {error.strerror}") from error
        while (code := process.poll()) is None:
            if self.stop.wait(_POLL_SECONDS):
                _end(process, self.stop_signals)
                raise Stopped
        if code != 0:
            _signal_group(process, signal.SIGKILL)
        return code


def _last_line(log: IO[bytes]) -> str:
    """Return the end of the last line that a trial wrote into its log, which names the error of a command of ours."""
    with Path(log.name).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_REASON))
        lines = file.read().decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    return "" if last.startswith("$ ") else one_line(last)  # only the command is there


def _ended_by_signal(code: int) -> bool:
    """Return whether an exit code is that of a process that SIGTERM or SIGUSR1 has ended, and that can be resumed."""
    return code in EXIT_CODES.values() or -code in EXIT_CODES


def _end(process: subprocess.Popen[bytes], stop_signals: _StopSignals) -> None:
    for number, seconds in stop_signals:
        _signal_group(process, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        _signal_group(process, signal.SIGKILL)  # children may outlive the process
        return


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        logger.debug("process group %d has already ended", process.pid)
