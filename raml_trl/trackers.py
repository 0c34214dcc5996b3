"""The figures of a run in a dashboard: Weights & Biases, or trackio, which needs no account. They are used alike."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from raml_trl.errors import InputError

Tracker = Literal["none", "wandb", "trackio"]


def check_tracker(tracker: Tracker) -> None:
    """Find out before the work whether the figures can be reported after it.

    Raises:
        InputError: if the tracker is not installed.
    """
    if tracker == "none":
        return
    try:
        import_module(tracker)
    except ModuleNotFoundError as error:
        if error.name != tracker:
            raise
        raise InputError(f"report_to is {tracker}, which is not installed: pip install raml_trl[{tracker}]") from error


def report(
    tracker: Tracker, *, project: str, name: str, settings: Mapping[str, Any], figures: Mapping[str, float]
) -> None:
    """Log `figures` as one run of `project`."""
    if tracker == "none":
        return
    module: Any = import_module(tracker)
    module.init(project=project, name=name, config=dict(settings))
    module.log(dict(figures))
    module.finish()
