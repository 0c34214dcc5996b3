"""The figures of a run in a dashboard: Weights & Biases, or trackio, which needs no account. They are used alike."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from raml_trl.runtime.errors import InputError

Tracker = Literal["none", "wandb", "trackio"]

PROJECT = "raml_trl"
"""Where runs are shown that name no project."""


def run_group(directory: Path) -> str:
    """What the run in `directory` is grouped by: the name of the directory above it; of a trial, that of its sweep."""
    above = directory.resolve().parent
    return above.parent.name if above.name == "trials" else above.name


def check_tracker(tracker: Tracker) -> None:
    """Find out before the work whether the figures can be reported after it.

    Raises:
        InputError: if the tracker is not installed, or will not let this user in.
    """
    if tracker == "none":
        return
    missing = InputError(f"report_to is {tracker}, which is not installed: pip install raml_trl[{tracker}]")
    try:
        module = import_module(tracker)
    except ModuleNotFoundError as error:
        if error.name != tracker:
            raise
        raise missing from error
    if module.__file__ is None:  # a directory of that name, such as wandb writes its runs into, passes for a package
        raise missing
    if tracker == "wandb":
        try:
            module.login()  # at a terminal it asks for the key: now, rather than in the night
        except module.Error as error:
            remedy = "run wandb login, or set WANDB_MODE=offline"
            raise InputError(f"report_to is wandb: {' '.join(str(error).split())} ({remedy})") from error


def report(
    tracker: Tracker,
    *,
    project: str,
    group: str,
    name: str,
    settings: Mapping[str, Any],
    figures: Mapping[str, float],
) -> None:
    """Log `figures` as one run of `project`."""
    if tracker == "none":
        return
    module: Any = import_module(tracker)
    module.init(project=project, group=group, name=name, config=dict(settings))
    module.log(dict(figures))
    module.finish()
