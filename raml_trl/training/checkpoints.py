"""What lies in a checkpoint: whether it is whole, and the progress of a trainer that transformers does not keep."""

import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"  # the last file to be written


def newest_checkpoint(directory: Path) -> str | None:
    """The last checkpoint in `directory` that is whole, to resume from; what is wrong with later ones is said."""
    for _, path in sorted(find_checkpoints(directory).items(), reverse=True):
        fault = find_fault(path)
        if fault is None:
            return str(path)
        logger.warning("%s was cut short (%s): looking for the one before it", path, fault)
    return None


def find_checkpoints(directory: Path) -> dict[int, Path]:
    """The checkpoints in `directory`, whole or not, by their step."""
    return {int(match[1]): path for path in directory.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}


def find_fault(checkpoint: Path) -> str | None:
    """What shows that a checkpoint was cut short, or None if it is whole.

    Every file of a format that says how long it is, is held to that: a safetensors file by its header, a file of
    `torch.save` by the directory at its end, JSON by its last brace, an index by the shards that it names. Every
    process of the launch must have left its random state.
    """
    if not (checkpoint / _STATE).is_file():
        return f"{_STATE} is missing"
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in _CHECKS and path.is_file() and not _CHECKS[path.suffix](path):
            return f"{path.relative_to(checkpoint)} is not whole"
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


def write_progress(checkpoint: Path, progress: dict[str, Any], process_index: int) -> None:
    """Keep the progress of one process in its checkpoint."""
    torch.save(progress, progress_path(checkpoint, process_index))


def progress_path(checkpoint: Path, process_index: int) -> Path:
    """The file of one process."""
    return checkpoint / f"progress_{process_index}.pt"


def read_progress(checkpoint: Path, process_index: int, num_processes: int) -> dict[str, Any] | None:
    """The progress of one process, or None where this launch cannot carry it on."""
    path = progress_path(checkpoint, process_index)
    if not path.is_file():
        logger.warning("%s is missing: rollouts that were buffered are generated anew", path)
        return None
    progress = torch.load(path, map_location="cpu", weights_only=True)
    if progress["num_processes"] != num_processes:
        logger.warning(
            "%s was written by a launch of %d processes, not %d: rollouts that were buffered are generated anew",
            checkpoint,
            progress["num_processes"],
            num_processes,
        )
        return None
    return progress


def log_state(trainer: Any) -> dict[str, Any]:
    """What one of TRL's trainers has not logged yet."""
    return {
        "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
        "loss": (float(trainer._tr_loss), trainer._globalstep_last_logged),
    }


def restore_log(trainer: Any, state: dict[str, Any]) -> None:
    """Give a trainer back what `log_state` took down."""
    trainer._metrics["train"].update(state["metrics"])
    loss, trainer._globalstep_last_logged = state["loss"]
    trainer._tr_loss = torch.full_like(trainer._tr_loss, loss)


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


_CHECKS = {
    ".json": _is_json,
    ".safetensors": _is_safetensors,
    ".pt": zipfile.is_zipfile,
    ".pth": zipfile.is_zipfile,
    ".bin": zipfile.is_zipfile,
}
