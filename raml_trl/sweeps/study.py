"""The study of a sweep: which trials there are, drawn once by Optuna into a file, and what has become of each."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file
from raml_trl.sweeps.sweep_file import Sweep, as_data

_NAME = "sweep"


def open_study(directory: Path, sweep: Sweep, count: int | None, seed: int) -> optuna.Study:
    """The study in `directory`: as it is, or drawn whole. What had failed in it is to be tried once again.

    Args:
        directory: of the sweep.
        sweep: what is swept.
        count: how many trials; None: all there are, which a grid knows.
        seed: of the order of a grid, and of what is drawn at random.

    Raises:
        InputError: if the study there has results of another sweep, or there are not as many different trials.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory / "trials.log"
    wanted = as_data(sweep) | {"count": count, "seed": seed}
    with _locked(directory / ".trials.lock"):
        if path.exists():
            study = _load(path)
            if study.user_attrs == wanted:
                _try_failed_again(study)
                return study
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
                raise InputError(
                    f"{sweep.path} is not what it was when {directory} was begun: choose another output_dir, or "
                    "remove that one"
                )
        with whole_file(path) as partial:
            partial.unlink(missing_ok=True)
            _draw(partial, sweep, count, seed, wanted)
        return _load(path)


def read_study(directory: Path, sweep: Sweep) -> optuna.Study:
    """The study in `directory`, as it stands: nothing is drawn or tried again.

    Raises:
        InputError: if no trials were drawn there, or they are of another sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory / "trials.log"
    if not path.is_file():
        raise InputError(f"sweep {directory} has no trials yet: there is no {path.name} in it")
    study = _load(path)
    if not as_data(sweep).items() <= study.user_attrs.items():
        raise InputError(f"{sweep.path} is not what it was when {directory} was begun")
    return study


def latest(study: optuna.Study, sweep: Sweep) -> dict[str, FrozenTrial]:
    """By name, the trial itself or its last repetition."""
    trials = study.get_trials(deepcopy=False)
    return {
        sweep.trial_name(sweep.settings(trial.params)): trial for trial in trials if trial.state != TrialState.PRUNED
    }


def _load(path: Path) -> optuna.Study:
    # The sampler has done its part when the study was drawn: it is not asked again.
    return optuna.load_study(study_name=_NAME, storage=_storage(path), sampler=optuna.samplers.RandomSampler())


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _draw(path: Path, sweep: Sweep, count: int | None, seed: int, attributes: dict[str, Any]) -> None:
    """Have Optuna's sampler draw all trials, none twice; they are then `RUNNING`, which is to say without an end."""
    limit = sweep.combinations
    if limit is not None and (count or 0) > limit:
        raise InputError(f"count is {count}, but {sweep.path} has only {limit} different trials")
    number = limit if count is None else count
    assert number is not None, "a continuous parameter is drawn at random, where count is required"
    sampler: optuna.samplers.BaseSampler
    if sweep.method == "grid":
        sampler = optuna.samplers.GridSampler({name: one.values for name, one in sweep.swept.items()}, seed=seed)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(storage=_storage(path), study_name=_NAME, sampler=sampler, direction=sweep.goal)
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    space = {name: _distribution(sweep, name) for name in sweep.swept}
    drawn: set[str] = set()
    while len(drawn) < number:
        trial = study.ask(space)
        name = sweep.trial_name(sweep.settings(trial.params))
        if name in drawn:
            study.tell(trial, state=TrialState.PRUNED)
        drawn.add(name)


def _distribution(sweep: Sweep, name: str) -> BaseDistribution:
    one = sweep.parameters[name]
    if one.values:
        return CategoricalDistribution(one.values)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.log)


def _try_failed_again(study: optuna.Study) -> None:
    """A repetition for every trial that failed and has none."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get("repeats") for trial in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.number not in repeated:
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={"repeats": trial.number},
                )
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
