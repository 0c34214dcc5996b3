"""Draws the trials of a sweep, and keeps their results on disk.

The list of trials is a pure function of the sweep file, the number of trials and a seed. The directory of a sweep
holds

    trials.json          the sweep, the number of trials and the seed, which determine the list
    trials/TRIAL/        the run of the trial
    logs/TRIAL.log       the output of the trial
    logs/TRIAL.json      the arguments of the trial
    results/TRIAL.json   how the trial ended; missing while it is unfinished
"""

import errno
import fcntl
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import IO

import numpy as np

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from raml_trl.sweeps.results import TrialResult, read_seconds
from raml_trl.sweeps.sweep_file import Parameter, Scalar, Settings, Sweep, sweep_identity

_TRIALS = "trials.json"
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def draw_trials(sweep: Sweep, count: int | None, seed: int) -> list[Settings]:
    """Return the parameters of `count` different trials.

    A list with a larger `count` starts with the same trials.

    Args:
        sweep: the sweep file.
        count: number of trials; None takes all combinations, which requires that no parameter is continuous.
        seed: determines the order of a grid and the values of a random search.

    Raises:
        InputError: if the sweep has fewer different trials than `count`.
    """
    limit = sweep.combinations
    if limit is not None and (count or 0) > limit:
        raise InputError(f"count is {count}, but {sweep.path} has only {limit} different trials")
    number = limit if count is None else count
    assert number is not None, "a continuous parameter is drawn at random, which requires a count"
    # RandomState, unlike Generator, promises the same stream in every version of NumPy.
    rng = np.random.RandomState(seed)
    trials = _shuffled_grid(sweep, rng) if sweep.method == "grid" else _random_trials(sweep, rng)
    return list(islice(trials, number))


def _shuffled_grid(sweep: Sweep, rng: np.random.RandomState) -> Iterator[Settings]:
    """Yield all combinations in random order, so that every setting is spread over the duration of the sweep."""
    names = sorted(sweep.swept)
    combinations = list(product(*(sweep.swept[name].values for name in names)))
    order = np.arange(len(combinations))
    rng.shuffle(order)
    for position in order:
        yield sweep.settings(dict(zip(names, combinations[position], strict=True)))


def _random_trials(sweep: Sweep, rng: np.random.RandomState) -> Iterator[Settings]:
    """Yield different trials; a trial that was already drawn is skipped."""
    drawn: set[str] = set()
    while True:
        settings = sweep.settings({name: _draw(parameter, rng) for name, parameter in sweep.swept.items()})
        name = sweep.trial_name(settings)
        if name not in drawn:
            drawn.add(name)
            yield settings


def _draw(parameter: Parameter, rng: np.random.RandomState) -> Scalar:
    if parameter.values:
        return parameter.values[rng.randint(len(parameter.values))]
    low, high = parameter.low, parameter.high
    if parameter.whole:
        return int(rng.randint(int(low), int(high) + 1))
    if parameter.log:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(max(value, low), high)  # rounding in the exponential may leave the range
    return float(rng.uniform(low, high))


@dataclass(frozen=True)
class Study:
    """The trials of a sweep, and their files in `directory`.

    `trials` maps the name of each trial to its parameters, in the order in which the trials were drawn.
    """

    directory: Path
    sweep: Sweep
    trials: dict[str, Settings]

    def run_directory(self, name: str) -> Path:
        """Return the directory of the run of the trial `name`."""
        return self.directory / "trials" / name

    def log_file(self, name: str) -> Path:
        """Return the file to which the processes of the trial `name` write their output."""
        return self.directory / "logs" / f"{name}.log"

    def settings_file(self, name: str) -> Path:
        """Return the file with the arguments of the trial `name`.

        In the command of a sweep, `${args_json_file}` expands to the path of this file.
        """
        return self.directory / "logs" / f"{name}.json"

    def result_file(self, name: str) -> Path:
        """Return the file that says how the trial `name` ended. It is missing while the trial is unfinished."""
        return self.directory / "results" / f"{name}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within the `with` block, keep other processes from changing the list and the results of the trials."""
        with (self.directory / ".trials.lock").open("ab") as file:
            lock_file(file, fcntl.LOCK_EX)
            yield

    def unfinished(self) -> list[str]:
        """Return the names of the trials that have no result."""
        return [name for name in self.trials if not self.result_file(name).exists()]

    def save_metric(self, name: str, metric: float) -> None:
        """Record that the trial `name` is complete, with the value of the sweep's metric."""
        write_json(self.result_file(name), {"status": "complete", "metric": metric, "reason": None})

    def save_failure(self, name: str, reason: str) -> None:
        """Record that the trial `name` failed, and why."""
        write_json(self.result_file(name), {"status": "failed", "metric": None, "reason": reason})

    def results(self) -> list[TrialResult]:
        """Return one result for each trial, as far as it is known. That of an unfinished trial says `unfinished`."""
        return [self._result(name) for name in self.trials]

    def _result(self, name: str) -> TrialResult:
        try:
            ending = json.loads(self.result_file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            ending = {"status": "unfinished", "metric": None, "reason": None}
        return TrialResult(
            name=name,
            parameters=self.trials[name],
            status=ending["status"],
            metric=ending["metric"],
            seconds=read_seconds(self.run_directory(name)),
            reason=ending["reason"],
            log=str(self.log_file(name)),
        )


def lock_file(file: IO[bytes], operation: int) -> None:
    """Lock an open file with `flock`.

    Raises:
        InputError: if the file system does not support `flock`.
        BlockingIOError: if another process has locked the file, and `operation` says not to wait.
    """
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        raise InputError(
            f"{file.name} cannot be locked, because its file system does not support flock ({error.strerror}): choose "
            "an output_dir on another file system, such as a local disk"
        ) from error


def open_study(directory: Path, sweep: Sweep, count: int | None, seed: int) -> Study:
    """Start or resume the study in `directory`, and return it. Results of failed trials are deleted, to run them again.

    Args:
        directory: the output directory of the sweep.
        sweep: the sweep file.
        count: number of trials; None takes all combinations of a grid.
        seed: determines the order of a grid and the values of a random search.

    Raises:
        InputError: if `directory` has results of another sweep, or the sweep has fewer different trials than `count`.
    """
    study = _study(directory, sweep, count, seed)
    identity = sweep_identity(sweep) | {"seed": seed}
    path = directory / _TRIALS
    with study.locked():
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = {name: before.get(name) for name in identity} != identity
            if changed and any((directory / "results").glob("*.json")):
                raise InputError(
                    f"{sweep.path} has changed since {directory} was started: choose another output_dir, or remove "
                    "that one"
                )
        write_json(path, identity | {"count": count})
        for result in study.results():
            if result.status == "failed":
                study.result_file(result.name).unlink()
    return study


def has_trials(directory: Path) -> bool:
    """Return whether `directory` has the list of the trials of a sweep, that is, whether the sweep has been started."""
    return (directory / _TRIALS).is_file()


def read_study(directory: Path, sweep: Sweep) -> Study:
    """Read the study in `directory` without changing anything.

    Raises:
        InputError: if no study was started in `directory`, or the sweep file has changed since the start.
    """
    path = directory / _TRIALS
    if not path.is_file():
        raise InputError(f"sweep {directory} has no trials yet: it has no {_TRIALS}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not sweep_identity(sweep).items() <= content.items():
        raise InputError(f"{sweep.path} has changed since {directory} was started: restore the file")
    return _study(directory, sweep, content["count"], content["seed"])


def _study(directory: Path, sweep: Sweep, count: int | None, seed: int) -> Study:
    trials = draw_trials(sweep, count, seed)
    return Study(directory, sweep, {sweep.trial_name(settings): settings for settings in trials})
