"""Reports the metrics of a run to a tracker: Weights & Biases (wandb), or trackio, which needs no account.

A tracker is a package that shows metrics on a dashboard. Both packages have the same interface.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.extras import how_to_install

Tracker = Literal["none", "wandb", "trackio"]

PROJECT = "raml_trl"
"""The dashboard project of runs whose settings name no project."""


def run_group(directory: Path) -> str:
    """Return the dashboard group of the run in `directory`.

    If the run is a trial of a sweep, the group is the name of the sweep's directory. Otherwise it is the name of the
    run's parent directory.
    """
    parent = directory.resolve().parent
    return parent.parent.name if parent.name == "trials" else parent.name


def check_tracker(tracker: Tracker) -> None:
    """Check that the tracker can be used, so that a run fails before the work starts and not when it reports.

    Raises:
        InputError: if the tracker is not installed, or the user is not logged in.
    """
    if tracker == "none":
        return
    missing = InputError(f"report_to is {tracker}, which is not installed: {how_to_install(tracker)}")
    try:
        module = import_module(tracker)
    except ModuleNotFoundError as error:
        if error.name != tracker:
            raise
        raise missing from error
    if module.__file__ is None:  # a directory ./wandb, where wandb stores its runs, can be imported too
        raise missing
    if tracker == "wandb":
        try:
            module.login()  # at a terminal it asks for the API key now, instead of hours later
        except module.Error as error:
            remedy = "run wandb login, or set WANDB_MODE=offline"
            raise InputError(f"report_to is wandb: {' '.join(str(error).split())} ({remedy})") from error


def report(
    tracker: Tracker,
    *,
    project: str,
    group: str,
    name: str,
    settings: Mapping[str, object],
    metrics: Mapping[str, float],
) -> None:
    """Log `metrics` to the tracker as one run called `name`, with `settings`, in the group `group` of `project`.

    Do nothing if the tracker is `none`.
    """
    if tracker == "none":
        return
    module = import_module(tracker)
    module.init(project=project, group=group, name=name, config=dict(settings))
    module.log(dict(metrics))
    module.finish()
