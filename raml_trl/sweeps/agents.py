"""The trials of a sweep, run as processes by any number of agents, each by one.

Whoever runs a trial holds a lock on its log, which is the standard output of all that the trial starts: it lasts as
long as one of them lives, also where the agent is killed, and no longer. So a trial without an end whose log is free
was cut off, and whoever comes first starts it again.
"""

import fcntl
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import optuna
from optuna.trial import FrozenTrial, TrialState

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from raml_trl.sweeps.results import Outcome, read_metric, read_seconds
from raml_trl.sweeps.study import latest, read_study
from raml_trl.sweeps.sweep_file import Settings, Sweep, expand

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_PATIENCE = ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, None))
"""How a trial is stopped, and how many seconds it has to end before it is told less kindly."""


class Stopped(Exception):
    """The agents are to stop: the trial is left as it is."""


def read_outcomes(directory: Path, sweep: Sweep) -> list[Outcome]:
    """Of every trial of `sweep` in `directory`, as they stand.

    Raises:
        InputError: if no trials were drawn there, or they are of another sweep.
    """
    return Agents(directory, sweep, read_study(directory, sweep)).outcomes()


@dataclass
class Agents:
    """Runs the trials of `study` until all have an end; every agent is a thread that calls `work`.

    `extra` is passed to every trial beside its parameters and its `output_dir`. `stop`, once set, ends all agents.
    """

    directory: Path
    sweep: Sweep
    study: optuna.Study
    extra: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self, device: str | None = None) -> None:
        """Run one trial after the other, and wait for those that others run, lest one be cut off.

        Args:
            device: what `CUDA_VISIBLE_DEVICES` is to be for the trials.

        Raises:
            InputError: if the command cannot be started, or a trial that ended well has no metric of that name.
        """
        while not self.stop.is_set() and (left := self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
            for trial in left:
                with self._claimed(trial) as log:
                    if log is not None:
                        try:
                            self._run(trial, log, device)
                        except Stopped:
                            return
                        break
            else:
                self.stop.wait(5 * _POLL_SECONDS)

    def outcomes(self) -> list[Outcome]:
        """Of every trial, in the order in which they were drawn."""
        found = []
        for name, trial in latest(self.study, self.sweep).items():
            statuses = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed"}
            found.append(
                Outcome(
                    name=name,
                    parameters=self.sweep.settings(trial.params),
                    status=statuses.get(trial.state, "unfinished"),
                    metric=trial.value if trial.state == TrialState.COMPLETE else None,
                    seconds=read_seconds(self.directory / "trials" / name),
                    reason=trial.user_attrs.get("reason"),
                    log=str(self._log(name)),
                )
            )
        return found

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    @contextmanager
    def _claimed(self, trial: FrozenTrial) -> Iterator[IO[bytes] | None]:
        """The log of a trial, locked; None if somebody runs it, or has brought it to its end."""
        path = self._log(self.sweep.trial_name(self.sweep.settings(trial.params)))
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            unfinished = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            yield log if trial.number in {one.number for one in unfinished} else None

    def _run(self, trial: FrozenTrial, log: IO[bytes], device: str | None) -> None:
        settings = self.sweep.settings(trial.params)
        name = self.sweep.trial_name(settings)
        own = self.directory / "trials" / name
        environment = dict(os.environ)
        # `python` and `accelerate` are to be those of this environment, whether or not it is activated.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        everything: Settings = {**settings, "output_dir": str(own), **self.extra}
        json_file = self.directory / "logs" / f"{name}.json"
        write_json(json_file, everything)
        command = expand(self.sweep, everything, json_file, environment)
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        code = self._wait(command, environment, log)
        if code == 0:
            metric = read_metric(own, self.sweep.metric)
            if metric == metric and abs(metric) != float("inf"):
                self.study.tell(trial.number, metric)
                return
            reason = f"{self.sweep.metric} is {metric}"
        else:
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        self.study.tell(trial.number, state=TrialState.FAIL)
        logger.warning("%s failed (%s): see %s", name, reason, log.name)

    def _wait(self, command: list[str], environment: dict[str, str], log: IO[bytes]) -> int:
        """The exit code of `command`, all of whose processes are gone by then unless it is 0."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,  # Ctrl-C is for the agents alone, which pass it on to whole groups
            )
        except OSError as error:
            raise InputError(f"{self.sweep.path}: {command[0]} cannot be started: {error.strerror}") from error
        while (code := process.poll()) is None:
            if self.stop.wait(_POLL_SECONDS):
                _end(process)
                raise Stopped
        if code != 0:
            _signal_group(process, signal.SIGKILL)
        return code


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in _PATIENCE:
        _signal_group(process, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        _signal_group(process, signal.SIGKILL)  # what it leaves behind
        return


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        logger.debug("the group %d is gone", process.pid)
