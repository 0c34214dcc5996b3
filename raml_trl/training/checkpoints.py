"""Finds the newest complete checkpoint, and adds to a checkpoint the training state that transformers does not save."""

import json
import logging
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer

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
        num_processes: the number of processes of this launch. It cannot use the progress that a launch with another
            number of processes has saved.
    """
    path = progress_path(checkpoint, process_index)
    if not path.is_file():
        logger.warning("%s is missing: buffered rollouts are generated again", path)
        return None
    progress: Progress = torch.load(path, map_location="cpu", weights_only=True)
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
    """Put the result of `log_state` back into a trainer."""
    trainer._metrics["train"].update(state["metrics"])
    loss, trainer._globalstep_last_logged = state["loss"]
    trainer._tr_loss = torch.full_like(trainer._tr_loss, loss)


class ResumableTrainer(Trainer):
    """Mixin for TRL trainers: a resumed run logs the same metrics as a run that was not interrupted.

    Subclasses that have further state extend `_progress` and `_restore_progress`.
    """

    _metrics: dict[str, defaultdict[str, list[float]]]

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: this method runs on every process, and before `trainer_state.json` marks the checkpoint as complete.
        write_progress(Path(output_dir), self._progress(), self.accelerator.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            progress = read_progress(Path(checkpoint), self.accelerator.process_index, self.accelerator.num_processes)
            if progress is not None:
                self._restore_progress(progress)

    def _progress(self) -> Progress:
        """Return the state of this process that goes into a checkpoint."""
        return {"num_processes": self.accelerator.num_processes, **log_state(self)}

    def _restore_progress(self, progress: Progress) -> None:
        """Restore what `_progress` returned."""
        restore_log(self, progress)


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
