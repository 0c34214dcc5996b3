"""`ResumableTrainer`: adds to checkpoints a manifest of their files, and state that transformers does not save."""

import logging
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from raml_trl.runtime.disks import named_faults
from raml_trl.runtime.errors import InputError
from raml_trl.training.completeness import (
    Progress,
    Required,
    choose_checkpoint,
    find_fault,
    load_progress,
    progress_path,
    required_files,
)
from raml_trl.training.epochs import EpochSetter, by_epoch
from raml_trl.training.launch import from_first_process
from raml_trl.training.manifest import list_files, write_manifest

logger = logging.getLogger(__name__)


class _LogsMetrics(Protocol):
    """The attributes of a TRL trainer that hold metrics between two log entries."""

    _metrics: dict[str, defaultdict[str, list[float]]]  # values by mode ("train" or "eval") and metric
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int


def write_progress(checkpoint: Path, progress: Progress, process_index: int) -> None:
    """Save `progress` in a checkpoint: the state of one process that transformers' `Trainer` does not save."""
    torch.save(progress, progress_path(checkpoint, process_index))


def read_progress(checkpoint: Path, process_index: int, num_processes: int) -> Progress | None:
    """Return the progress that `write_progress` saved for one process, or None if this launch cannot use it.

    In the latter case a warning says that buffered rollouts are generated again.

    Args:
        checkpoint: the directory that training resumes from.
        process_index: the index of this process in the launch.
        num_processes: the number of processes of this launch. A launch cannot use the progress that a launch with
            another number of processes has saved.
    """
    path = progress_path(checkpoint, process_index)
    if not path.is_file():
        logger.warning("%s is missing: buffered rollouts are generated again", path)
        return None
    progress = load_progress(path)
    if progress["num_processes"] != num_processes:
        logger.warning(
            "%s was written by a launch of %d processes, not %d: buffered rollouts are generated again",
            checkpoint,
            progress["num_processes"],
            num_processes,
        )
        return None
    return progress


def log_state(trainer: _LogsMetrics) -> Progress:
    """Return the metrics and the loss that a TRL trainer has gathered since its last log entry."""
    return {
        "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
        "loss": (float(trainer._tr_loss), trainer._globalstep_last_logged),
    }


def restore_log(trainer: _LogsMetrics, state: Progress) -> None:
    """Put the metrics and the loss that `log_state` returned when a checkpoint was saved back into a trainer."""
    trainer._metrics["train"].update(state["metrics"])
    loss, trainer._globalstep_last_logged = state["loss"]
    trainer._tr_loss = torch.full_like(trainer._tr_loss, loss)


class Totals(TypedDict):
    """Sums over a run up to a checkpoint. `loss` sums the losses of all steps up to the last log entry."""

    steps: int
    seconds: float
    loss: float


def summarize_run(logs: dict[str, float], totals: Totals, steps: int) -> None:
    """Change the last log entry of transformers in place, so that it describes the run and not only its last session.

    A run that is resumed has several sessions: one for each call of `train`.

    Args:
        logs: the entry, with `train_loss`, `train_runtime` in seconds, and the steps and samples per second.
        totals: the steps and seconds of the earlier sessions, and the sum of the losses of the whole run.
        steps: the optimizer steps of the whole run.
    """
    session, whole = logs["train_runtime"], totals["seconds"] + logs["train_runtime"]
    logs["train_loss"] = totals["loss"] / max(steps, 1)
    if totals["steps"] == 0:
        return
    logs["train_runtime"] = round(whole, 4)
    samples = logs.pop("train_samples_per_second", 0.0) * session
    if steps > totals["steps"]:  # a session without a step does not tell how many samples a step has
        logs["train_samples_per_second"] = round(samples * steps / (steps - totals["steps"]) / whole, 3)
    logs["train_steps_per_second"] = round(steps / whole, 3)


class ResumableTrainer(Trainer):
    """Mixin for TRL trainers, with which a resumed run logs the same metrics as an uninterrupted one.

    Checkpoints also get a manifest: a list of their files, by which a damaged checkpoint is recognised.

    The last log entry and the result of `train`, which give the loss, the duration and the rates of the training,
    describe the whole run. In transformers, they describe only its last session, that is, the last call of `train`.

    Subclasses that have further state extend `_progress`, `_restore_progress` and `_restore_totals`, and `_required` if
    they write further files.
    """

    _metrics: dict[str, defaultdict[str, list[float]]]
    _earlier = Totals(steps=0, seconds=0.0, loss=0.0)  # of the sessions before this one
    _started = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(EpochSetter())

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        # RaML: in a resumed run, the order of an epoch is that of an uninterrupted run.
        return by_epoch(super()._get_train_sampler(*args, **kwargs), seed)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self._earlier, self._started = Totals(steps=0, seconds=0.0, loss=0.0), time.monotonic()
        output = super().train(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if logs.keys() >= {"train_loss", "train_runtime"}:
            # RaML: the whole run, not its last session. transformers has added the last losses to the sum.
            loss = self._total_loss_scalar + self._earlier["loss"]
            summarize_run(logs, Totals(**{**self._earlier, "loss": loss}), self.state.global_step)
        super().log(logs, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # RaML: transformers looks at `max_steps` after a step only, so it would train one more than there are.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def checkpoint_to_resume(self, directory: Path) -> str | None:
        """Return the checkpoint to resume from, or None if there is none.

        Only the first process chooses and checks it; the others get the same result.

        It is the newest complete checkpoint in `directory`, unless `resume_from_checkpoint` names another one.

        Raises:
            InputError: if there are checkpoints but all are damaged, or `resume_from_checkpoint` names a damaged one.
        """
        requested = self.args.resume_from_checkpoint
        return from_first_process(lambda: choose_checkpoint(directory, self._required, requested))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        directory, limit = Path(self._get_output_dir(trial=None)), self.args.save_total_limit
        checkpoint = directory / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with named_faults(directory, RuntimeError, SafetensorError):
            # RaML: an older, damaged checkpoint of this step must leave no file behind.
            if self.is_world_process_zero() and checkpoint.exists():
                shutil.rmtree(checkpoint)
            self.accelerator.wait_for_everyone()
            try:
                super()._save_checkpoint(*args, **kwargs)
            finally:
                self.args.save_total_limit = limit  # see `_save_rng_state`
            # Another process may still be writing: wait, or the list would have its temporary files.
            self.accelerator.wait_for_everyone()
            # RaML: each process states its files, since a network file system may show those of others late.
            names = set(gather_object(list_files(checkpoint)))
            if self.is_world_process_zero():
                write_manifest(checkpoint, names)
            self.accelerator.wait_for_everyone()
        if self.args.should_save and not self._keeps_checkpoints:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(directory), limit, best_model_checkpoint=best, use_mtime=True)

    @property
    def _keeps_checkpoints(self) -> bool:
        """Whether checkpoints beyond `save_total_limit` must stay until the next checkpoint is saved."""
        return False

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: this method runs on every process, and before `trainer_state.json` marks the checkpoint as complete.
        write_progress(Path(output_dir), self._progress(), self.accelerator.process_index)
        # RaML: keep the older checkpoints until this one has its manifest. The settings are saved already.
        self.args.save_total_limit = None

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # RaML: a checkpoint has a tied weight under one of its names. transformers warns that the other one is missing.
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        fault = None if best is None else find_fault(Path(best))
        if fault is not None:  # RaML: transformers would load it, or go on with the last weights
            raise InputError(
                f"the best checkpoint {best} is damaged ({fault.text}): restore its files, or start the run again in "
                "another directory"
            )
        super()._load_best_model()

    def _required(self, step: int, num_processes: int) -> list[Required]:
        """Return the files without which a checkpoint of a step cannot be resumed from exactly."""
        return required_files(self.accelerator, self.accelerator.unwrap_model(self.model), num_processes)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and progress_path(Path(checkpoint), 0).is_file():
            # RaML: these are restored even if no step is left, or if the number of processes has changed.
            paths = [progress_path(Path(checkpoint), process) for process in (self.accelerator.process_index, 0)]
            self._restore_totals(load_progress(next(path for path in paths if path.is_file())))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            progress = read_progress(Path(checkpoint), self.accelerator.process_index, self.accelerator.num_processes)
            if progress is not None:
                self._restore_progress(progress)

    def _progress(self) -> Progress:
        """Return the state of this process that goes into a checkpoint."""
        totals = Totals(
            steps=self.state.global_step,
            seconds=self._earlier["seconds"] + time.monotonic() - self._started,
            loss=self._earlier["loss"] + self._total_loss_scalar,
        )
        launch = {"num_processes": self.accelerator.num_processes, "manifest": True}
        return {**launch, "totals": totals, **log_state(self)}

    def _restore_progress(self, progress: Progress) -> None:
        """Restore the state that `_progress` returned when the checkpoint was saved."""
        restore_log(self, progress)
        if "totals" in progress:  # continue the sum of transformers
            self._total_loss_scalar = progress["totals"]["loss"]
            self._earlier = Totals(**{**self._earlier, "loss": 0.0})

    def _restore_totals(self, progress: Progress) -> None:
        """Restore the part of `progress` that describes the run so far. `progress` may be that of another process."""
        if "totals" in progress:  # older versions did not save them
            totals: Totals = progress["totals"]
            self._earlier = Totals(**{**totals, "loss": totals["loss"] + progress["loss"][0]})
