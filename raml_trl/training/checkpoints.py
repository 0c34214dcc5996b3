"""Finds the newest complete checkpoint, and adds to a checkpoint the training state that transformers does not save."""

import json
import logging
import re
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

logger = logging.getLogger(__name__)

Progress = dict[str, Any]
"""The state that we add to a checkpoint for one process: tensors and plain Python values, by name."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"  # transformers writes this file last


class _LogsMetrics(Protocol):
    """The attributes of a TRL trainer that hold metrics between two log entries."""

    _metrics: dict[str, defaultdict[str, list[float]]]  # values by mode ("train" or "eval") and metric
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int


def newest_checkpoint(directory: Path) -> str | None:
    """Return the newest complete checkpoint in `directory`, or None if there is none.

    Incomplete checkpoints are skipped with a warning.
    """
    for _, path in sorted(find_checkpoints(directory).items(), reverse=True):
        fault = find_fault(path)
        if fault is None:
            return str(path)
        logger.warning("%s is incomplete (%s): trying the checkpoint before it", path, fault)
    return None


def find_checkpoints(directory: Path) -> dict[int, Path]:
    """Return all checkpoints in `directory`, complete or incomplete, by their step."""
    return {int(match[1]): path for path in directory.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}


def find_fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint is incomplete, or None if it is complete.

    Truncated files are found as far as the format allows: a safetensors file must have the size that its header gives,
    a `torch.save` file must end with a zip directory, and a JSON file must parse. All weight shards that an index file
    lists must exist, and every process of the launch must have saved its progress.
    """
    if not (checkpoint / _STATE).is_file():
        return f"{_STATE} is missing"
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in _CHECKS and path.is_file() and not _CHECKS[path.suffix](path):
            return f"{path.relative_to(checkpoint)} is truncated"
    for index in checkpoint.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for shard in sorted(shards):
            if not (checkpoint / shard).is_file():
                return f"{shard} is missing"
    first = progress_path(checkpoint, 0)
    if first.is_file():
        num_processes = torch.load(first, weights_only=True, mmap=True)["num_processes"]
        for path in (progress_path(checkpoint, process) for process in range(num_processes)):
            if not path.is_file():
                return f"{path.name} is missing"
    return None


def write_progress(checkpoint: Path, progress: Progress, process_index: int) -> None:
    """Save in a checkpoint the state of one process that the `Trainer` does not save."""
    torch.save(progress, progress_path(checkpoint, process_index))


def progress_path(checkpoint: Path, process_index: int) -> Path:
    """Return the path of the progress file of one process."""
    return checkpoint / f"progress_{process_index}.pt"


def read_progress(checkpoint: Path, process_index: int, num_processes: int) -> Progress | None:
    """Load the progress of one process, or return None with a warning if this launch cannot use it.

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


def load_progress(path: Path) -> Progress:
    """Load a progress file, with its tensors in the memory of the CPU."""
    progress: Progress = torch.load(path, map_location="cpu", weights_only=True)
    return progress


def log_state(trainer: _LogsMetrics) -> Progress:
    """Return the metrics and the loss that a TRL trainer has gathered since its last log entry."""
    return {
        "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
        "loss": (float(trainer._tr_loss), trainer._globalstep_last_logged),
    }


def restore_log(trainer: _LogsMetrics, state: Progress) -> None:
    """Put the result of `log_state` back into a trainer."""
    trainer._metrics["train"].update(state["metrics"])
    loss, trainer._globalstep_last_logged = state["loss"]
    trainer._tr_loss = torch.full_like(trainer._tr_loss, loss)


class Totals(TypedDict):
    """Sums over a run up to a checkpoint. `loss` is the sum of the losses of the steps that were logged."""

    steps: int
    seconds: float
    loss: float


def summarize_run(logs: dict[str, float], totals: Totals, steps: int) -> None:
    """Correct the entry with which transformers ends the log, so that it describes the run and not its last session.

    A run that is resumed has several sessions: one for each call of `train`.

    Args:
        logs: the entry, with `train_loss`, `train_runtime` in seconds and rates per second.
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
    """Mixin for TRL trainers: a resumed run logs the same metrics as a run that was not interrupted.

    The last log entry and the result of `train`, which give the loss, the duration and the rates of the training,
    describe the whole run. Those of transformers describe only its last session, that is, the last call of `train`.

    Subclasses that have further state extend `_progress`, `_restore_progress` and `_restore_totals`.
    """

    _metrics: dict[str, defaultdict[str, list[float]]]
    _earlier = Totals(steps=0, seconds=0.0, loss=0.0)  # of the sessions before this one
    _started = 0.0

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

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: this method runs on every process, and before `trainer_state.json` marks the checkpoint as complete.
        write_progress(Path(output_dir), self._progress(), self.accelerator.process_index)

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
        return {"num_processes": self.accelerator.num_processes, "totals": totals, **log_state(self)}

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


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _is_safetensors(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if not 2 <= header_size <= size - 8:
            return False
        try:
            header = json.loads(file.read(header_size))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + header_size + max(ends, default=0)


_CHECKS: dict[str, Callable[[Path], bool]] = {
    ".json": _is_json,
    ".safetensors": _is_safetensors,
    ".pt": zipfile.is_zipfile,
    ".pth": zipfile.is_zipfile,
    ".bin": zipfile.is_zipfile,
}
