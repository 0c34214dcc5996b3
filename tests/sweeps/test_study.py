"""The list of trials is a pure function of the sweep file, the number of trials and a seed."""

import errno
import fcntl
import math
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import is_complete, open_run, require_complete
from raml_trl.sweeps.study import draw_trials, open_study
from tests.sweeps.examples import sweep_of


def test_a_grid_is_the_product_with_each_trial_once(tmp_path: Path) -> None:
    parameters = {
        "b": {"values": ["x", "y", None]},
        "a": {"min": 1, "max": 3},
        "c": {"value": 0.5},
        "d": {"values": [True, False]},
    }
    sweep = sweep_of(tmp_path, parameters=parameters)
    trials = draw_trials(sweep, None, 0)
    expected = [
        dict(zip("bacd", values, strict=True)) for values in product(["x", "y", None], [1, 2, 3], [0.5], [True, False])
    ]
    assert len(trials) == 18
    assert all(settings in trials for settings in expected)
    assert [list(settings) for settings in trials] == [["b", "a", "c", "d"]] * 18
    assert {type(settings["d"]) for settings in trials} == {bool}
    assert draw_trials(sweep, None, 0) == trials
    assert draw_trials(sweep, 7, 0) == trials[:7]
    assert draw_trials(sweep, None, 1) != trials


def test_grids_keep_the_order_that_optuna_gave_them(tmp_path: Path) -> None:
    """A sweep that was started by a version with Optuna resumes in the same order."""
    parameters = {"b": {"values": ["x", "y", None]}, "a": {"min": 1, "max": 3}, "d": {"values": [True, False]}}
    sweep = sweep_of(tmp_path, parameters=parameters)
    # From GridSampler(search_space, seed=0) of Optuna 5.0.0. "xF1" is b = x, d = False, a = 1.
    order = "xF1 xT2 yT2 NT2 yT3 NT1 yT1 NT3 NF3 yF2 xF2 xF3 NF2 yF1 xT1 NF1 yF3 xT3"
    trials = draw_trials(sweep, None, 0)
    assert " ".join(f"{str(trial['b'])[0]}{str(trial['d'])[0]}{trial['a']}" for trial in trials) == order


RANDOM: dict[str, dict[str, Any]] = {
    "rate": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"},
    "power": {"min": -4, "max": 0, "distribution": "log_uniform"},
    "share": {"min": 0.0, "max": 1},
    "steps": {"min": 10, "max": 20},
    "kind": {"values": ["x", "y"]},
}


def test_random_trials_depend_on_the_seed_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="random", parameters=RANDOM)
    trials = draw_trials(sweep, 60, 3)
    assert draw_trials(sweep, 60, 3) == trials
    assert draw_trials(sweep, 60, 4) != trials
    rates, powers = [trial["rate"] for trial in trials], [trial["power"] for trial in trials]
    assert all(1e-6 <= rate <= 1e-2 for rate in rates)
    assert 15 < sum(rate < 1e-4 for rate in rates) < 45  # half of the range in the logarithm
    assert all(math.exp(-4) <= power <= 1 for power in powers)
    assert {type(trial["steps"]) for trial in trials} == {int}
    assert {trial["steps"] for trial in trials} == set(range(10, 21))
    assert {trial["kind"] for trial in trials} == {"x", "y"}


def test_a_longer_random_list_extends_the_shorter(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="random", parameters=RANDOM)
    trials = draw_trials(sweep, 40, 3)
    assert [draw_trials(sweep, count, 3) for count in (1, 17, 40)] == [trials[:1], trials[:17], trials]
    first, longer = (list(open_study(tmp_path, sweep, count, 3).trials.values()) for count in (17, 40))
    assert (first, longer) == (trials[:17], trials)


def test_a_trial_that_fails_early_may_delete_its_record_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tmp_path, sweep_of(tmp_path), None, 0)
    [name] = study.trials
    directory, is_file = study.run_directory(name), Path.is_file

    def fails_after_the_look(path: Path) -> bool:
        found = is_file(path)
        if path == directory / "run.json":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", fails_after_the_look)
    for read, expected in (
        (lambda: study.results()[0].seconds, None),
        (lambda: is_complete(directory), False),
        (lambda: require_complete(str(directory)), None),
    ):
        open_run(directory, "toy", {})
        assert read() is expected
        assert not directory.joinpath("run.json").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_flock_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(
        InputError, match=r"\.trials\.lock cannot be locked, .* does not support flock \(.*another file"
    ):
        open_study(tmp_path, sweep_of(tmp_path), None, 0)


def test_random_search_draws_no_trial_twice(tmp_path: Path) -> None:
    for parameter in ({"values": [1, 2, 3]}, {"min": 1, "max": 3}):
        sweep = sweep_of(tmp_path, method="random", parameters={"a": parameter, "b": {"values": [1, 2, 3]}})
        trials = draw_trials(sweep, 9, 0)
        assert sorted((trial["a"], trial["b"]) for trial in trials) == list(product([1, 2, 3], repeat=2))
        (tmp_path / "more").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"count is 10, but .* has only 9 different trials"):
            open_study(tmp_path / "more", sweep, 10, 0)
        assert os.listdir(tmp_path / "more") == []
