"""Opens the run of a trainer in W&B or trackio, under the right project, group and name.

transformers logs to both, but it sets no group, starts a new W&B run when training resumes, and in trackio continues
any run of the same name. So this module opens the run; transformers and TRL log to it.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TrackioCallback

from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.runtime.trackers import PROJECT, Tracker, check_tracker, run_group

_TRANSFORMERS_PROJECT = "huggingface"  # the default of `project`
_TRACKERS: tuple[Tracker, ...] = ("wandb", "trackio")


@dataclass(frozen=True)
class DashboardRun:
    """How a run appears in a dashboard."""

    project: str
    group: str
    name: str
    key: str
    """Distinguishes the run from others of the same name."""
    settings: Mapping[str, object]
    """The settings that the user gave."""


def check_dashboards(config: TrainingArguments) -> None:
    """Check before training that the run can report to the dashboards in `report_to`.

    Raises:
        InputError: if a dashboard is not installed, or the user is not logged in.
    """
    if is_first_process():
        for tracker in _requested(config):
            check_tracker(tracker)


def dashboard_run(config: TrainingArguments, record: Run) -> DashboardRun:
    """Return how the run appears in a dashboard: its project, group, name, settings, and a key that identifies it.

    The key is drawn at random at the first start of the run and kept in `run.json`, so that a resumed run has the same.
    """
    if "dashboard_key" not in record.record:
        record.record["dashboard_key"] = secrets.token_hex(4)
        record.save(record.seconds)
    return DashboardRun(
        project=PROJECT if config.project == _TRANSFORMERS_PROJECT else config.project,
        group=run_group(record.directory),
        name=config.run_name or record.directory.name,
        key=record.record["dashboard_key"],
        settings=record.record["settings"],
    )


def open_dashboards(trainer: Trainer, record: Run) -> None:
    """Open the run in the dashboards that `report_to` names. Only the first process of a launch opens it."""
    requested = _requested(trainer.args)
    if not requested or not is_first_process():
        return
    run = dashboard_run(trainer.args, record)
    if "wandb" in requested:
        _open_wandb(run)
    # In the same place: TRL logs to trackio while later callbacks begin the training, so the run must be open by then.
    callbacks = trainer.callback_handler.callbacks
    callbacks[:] = [GroupedTrackio(run) if type(callback) is TrackioCallback else callback for callback in callbacks]


def close_dashboards(config: TrainingArguments) -> None:
    """End the W&B run, which transformers leaves open. transformers ends the trackio run itself."""
    if is_first_process() and "wandb" in _requested(config):
        import_module("wandb").finish()


def _requested(config: TrainingArguments) -> list[Tracker]:
    return [tracker for tracker in _TRACKERS if tracker in (config.report_to or [])]


def _open_wandb(run: DashboardRun) -> None:
    wandb: Any = import_module("wandb")
    if wandb.run is not None:
        return
    # If a W&B agent runs this process as a trial, W&B has already set id and name.
    agent = "WANDB_SWEEP_ID" in os.environ
    wandb.init(
        project=os.environ.get("WANDB_PROJECT", run.project),
        group=os.environ.get("WANDB_RUN_GROUP", run.group),
        config=run.settings,
        **({} if agent else {"name": os.environ.get("WANDB_NAME", run.name), "id": run.key, "resume": "allow"}),
    )


class GroupedTrackio(TrackioCallback):
    """transformers' trackio callback, which we extend to set the group and a unique name of the run."""

    def __init__(self, run: DashboardRun) -> None:
        super().__init__()
        self.run = run

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kwargs: object) -> None:
        # RaML: trackio resumes a run by its name, so the name must be unique.
        args.project, args.run_name = self.run.project, args.run_name or f"{self.run.name} {self.run.key}"
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            # RaML: `_Group` is the setting in which `trackio.init` keeps its `group`.
            self._trackio.config.update({**self.run.settings, "_Group": self.run.group})


@contextmanager
def messages_as_text(tables: dict[str, Any]) -> Iterator[None]:
    """Within the `with` block, replace the chat messages in `tables`, TRL's table of completions, by text."""
    messages = {name: tables[name] for name in ("prompt", "completion")}
    for name, cells in messages.items():
        tables[name] = [cell if isinstance(cell, str) else _text(cell) for cell in cells]
    try:
        yield
    finally:
        tables.update(messages)


def _text(messages: Sequence[Mapping[str, object]]) -> str:
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
