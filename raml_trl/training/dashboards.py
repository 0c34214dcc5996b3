"""Where a training run stands in W&B and in trackio: in which project and group, under which name.

transformers writes into both, but knows of no group, begins a resumed run anew in W&B, and in trackio carries on with
any run of the same name. So the run is opened here; what is logged stays transformers' and TRL's to write.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import TrackioCallback

from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.runtime.trackers import PROJECT, Tracker, check_tracker, run_group

_THEIR_PROJECT = "huggingface"  # what transformers puts where none is named
_TRACKERS: tuple[Tracker, ...] = ("wandb", "trackio")


@dataclass(frozen=True)
class Place:
    """`key` tells a run from all others of that name; `settings` are what the user gave."""

    project: str
    group: str
    name: str
    key: str
    settings: dict[str, Any]


def check_dashboards(config: TrainingArguments) -> None:
    """Find out before the work whether what `report_to` names can be reported to.

    Raises:
        InputError: if a dashboard is not installed, or will not let this user in.
    """
    if is_first_process():
        for tracker in _asked(config):
            check_tracker(tracker)


def place_of(config: TrainingArguments, record: Run) -> Place:
    """The place of the run of `record`: made up when it is first asked for, and the same in every later session."""
    if "dashboard_key" not in record.record:
        record.record["dashboard_key"] = secrets.token_hex(4)
        record.save(record.seconds)
    return Place(
        project=PROJECT if config.project == _THEIR_PROJECT else config.project,
        group=run_group(record.directory),
        name=config.run_name or record.directory.name,
        key=record.record["dashboard_key"],
        settings=record.record["settings"],
    )


def open_dashboards(trainer: Trainer, record: Run) -> None:
    """Open the run of `trainer` in the dashboards that its `report_to` names, on the first process of a launch."""
    asked = _asked(trainer.args)
    if not asked or not is_first_process():
        return
    place = place_of(trainer.args, record)
    if "wandb" in asked:
        _open_wandb(place)
    if trainer.pop_callback(TrackioCallback) is not None:
        trainer.add_callback(GroupedTrackio(place))


def close_dashboards(config: TrainingArguments) -> None:
    """Bring the run to its end in W&B, which transformers leaves open; in trackio it has ended with the training."""
    if is_first_process() and "wandb" in _asked(config):
        import_module("wandb").finish()


def _asked(config: TrainingArguments) -> list[Tracker]:
    return [tracker for tracker in _TRACKERS if tracker in (config.report_to or [])]


def _open_wandb(place: Place) -> None:
    wandb: Any = import_module("wandb")
    if wandb.run is not None:
        return
    # An agent of W&B's has given the run its id, and W&B a name.
    agent = "WANDB_SWEEP_ID" in os.environ
    wandb.init(
        project=os.environ.get("WANDB_PROJECT", place.project),
        group=os.environ.get("WANDB_RUN_GROUP", place.group),
        config=place.settings,
        **({} if agent else {"name": os.environ.get("WANDB_NAME", place.name), "id": place.key, "resume": "allow"}),
    )


class GroupedTrackio(TrackioCallback):
    """transformers' own, which puts the run into its group and tells it from others of its name."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        # RaML: trackio resumes by name, so the name must be that of no other run.
        args.project, args.run_name = self.place.project, args.run_name or f"{self.place.name} {self.place.key}"
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            # RaML: where `trackio.init` keeps what its `group` says.
            self._trackio.config.update({**self.place.settings, "_Group": self.place.group})


@contextmanager
def messages_as_text(tables: dict[str, Any]) -> Iterator[None]:
    """For as long as it lasts, the prompts and completions that TRL has gathered for its table are text."""
    whole = {name: tables[name] for name in ("prompt", "completion")}
    for name, cells in whole.items():
        tables[name] = [cell if isinstance(cell, str) else _text(cell) for cell in cells]
    try:
        yield
    finally:
        tables.update(whole)


def _text(messages: list[dict[str, Any]]) -> str:
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
