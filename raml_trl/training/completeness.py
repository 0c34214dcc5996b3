"""Finds the newest checkpoint that is complete, and says what is missing or changed in the others.

A checkpoint is compared with its manifest, the list of its files with their sizes and digests. Checkpoints of older
versions have no manifest. Such a checkpoint must have every file that its kind of run writes, and truncated files are
found as far as their format allows.
"""

import json
import logging
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from raml_trl.runtime.errors import InputError
from raml_trl.training.manifest import MANIFEST, find_changes

logger = logging.getLogger(__name__)

Progress = dict[str, Any]
"""The state that we add to a checkpoint for one process: tensors and plain Python values, by name."""

Required = tuple[str, ...]
"""A file that a checkpoint must have, as one or more patterns. At least one of the patterns must match a file."""

RequiredFiles = Callable[[int, int], list[Required]]
"""Function that returns the files without which a run cannot be resumed exactly from a checkpoint.

Its arguments are the step of the checkpoint and the number of processes that saved the checkpoint.
"""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"
_SHOWN = 5  # faults of a checkpoint in a message


@dataclass(frozen=True)
class Fault:
    """Why a checkpoint cannot be used."""

    text: str
    unfinished: bool = False
    """Whether the checkpoint was never complete, because the run was killed while it was saved."""


def choose_checkpoint(
    directory: Path, required: RequiredFiles | None = None, requested: str | None = None
) -> str | None:
    """Return the checkpoint to resume from, or None if there is none. Damaged checkpoints are logged as warnings.

    Args:
        directory: the output directory of the run.
        required: returns the files without which the run cannot be resumed exactly. A checkpoint that lacks one of them
            counts as damaged. None requires no files beyond those in the manifest.
        requested: a checkpoint that the user has named; None takes the newest complete one in `directory`.

    Raises:
        InputError: if there are checkpoints but all are damaged, or if the requested one is. If the run was killed
            while it saved its first checkpoint, there is no error, and the run starts again from the beginning.
    """
    if requested is not None:
        fault = find_resume_fault(Path(requested), required)
        if fault is not None:
            raise InputError(f"resume_from_checkpoint {requested} cannot be used: {fault.text}")
        return requested
    faults: dict[str, Fault] = {}
    for _, path in sorted(find_checkpoints(directory).items(), reverse=True):
        fault = find_resume_fault(path, required)
        if fault is None:
            return str(path)
        logger.warning("%s is incomplete (%s): trying the checkpoint before it", path, fault.text)
        faults[path.name] = fault
    if not all(fault.unfinished for fault in faults.values()):
        named = "; ".join(f"{name}: {fault.text}" for name, fault in faults.items())
        raise InputError(
            f"output_dir {directory} has no complete checkpoint ({named}): restore these files, or remove the "
            "checkpoints to start the run from its beginning"
        )
    return None


def find_checkpoints(directory: Path) -> dict[int, Path]:
    """Return the directories of all checkpoints in `directory`, complete or not. The key of each is its step."""
    return {int(match[1]): path for path in directory.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}


def find_fault(checkpoint: Path) -> Fault | None:
    """Return why a checkpoint is incomplete or damaged, or None if it is whole.

    Without a manifest, truncated files are found as far as the format allows: a safetensors file must have the size
    that its header gives, a `torch.save` file must end with a zip directory, and a JSON file must parse. All weight
    shards that an index file lists must exist, and so must the progress file of every process that saved the
    checkpoint.
    """
    changes = find_changes(checkpoint)
    if changes is not None:
        return Fault(_join(changes)) if changes else None
    if not (checkpoint / _STATE).is_file():
        return Fault(f"{_STATE} is missing", unfinished=True)
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in _INTACT and path.is_file() and not _INTACT[path.suffix](path):
            return Fault(f"{path.relative_to(checkpoint)} is truncated")
    for index in checkpoint.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for shard in sorted(shards):
            if not (checkpoint / shard).is_file():
                return Fault(f"{shard} is missing")
    first = progress_path(checkpoint, 0)
    if first.is_file():
        progress = _map_progress(first)
        if progress.get("manifest"):
            return Fault(f"{MANIFEST} is missing", unfinished=True)
        for path in (progress_path(checkpoint, process) for process in range(progress["num_processes"])):
            if not path.is_file():
                return Fault(f"{path.name} is missing")
    return None


def find_resume_fault(checkpoint: Path, required: RequiredFiles | None) -> Fault | None:
    """Return why a run cannot be resumed from a checkpoint, or None if it can.

    The checkpoint must have no fault (see `find_fault`). Unless `required` is None, it must also have the files that
    `required` returns.
    """
    fault = find_fault(checkpoint)
    if fault is not None or required is None:
        return fault
    match, first = _CHECKPOINT.fullmatch(checkpoint.name), progress_path(checkpoint, 0)
    if not first.is_file():
        return Fault(f"{first.name} is missing")
    num_processes = _map_progress(first)["num_processes"]
    patterns = required(int(match[1]) if match else 0, num_processes)
    missing = [f"{names[0]} is missing" for names in patterns if not any(any(checkpoint.glob(name)) for name in names)]
    return Fault(_join(missing)) if missing else None


def required_files(accelerator: Accelerator, model: Any, num_processes: int) -> list[Required]:
    """Return the files that transformers writes into a checkpoint, and without which a run cannot be resumed exactly.

    Args:
        accelerator: decides how weights and optimizer states are divided into files.
        model: the model in training, or its adapter.
        num_processes: number of processes that have saved the checkpoint.
    """
    ranks = range(num_processes)
    random_states = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in ranks]
    names: list[Required] = [(_STATE,), *((name,) for name in random_states)]
    names += [(progress_path(Path(), rank).name,) for rank in ranks]
    plugin, scheduler = accelerator.state.deepspeed_plugin, True
    if plugin is not None:
        stage, scheduler = plugin.zero_stage, "scheduler" not in plugin.deepspeed_config
        shards = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in ranks]
        models = shards if stage == 3 else ["mp_rank_00"]
        names += [("latest",), *((f"global_step*/{name}_model_states.pt",) for name in models)]
        names += [(f"global_step*/*{name}_optim_states.pt",) for name in shards if stage > 0]
    elif accelerator.distributed_type == DistributedType.FSDP:
        names += _fsdp_files(str(accelerator.state.fsdp_plugin.state_dict_type), num_processes)
    else:
        names += [*_weight_files(model), ("optimizer.pt",)]
    if scheduler:
        names.append(("scheduler.pt",))
    if accelerator.scaler is not None:
        names.append(("scaler.pt",))
    return names


def progress_path(checkpoint: Path, process_index: int) -> Path:
    """Return the path of the file in a checkpoint to which a process saves state that transformers does not save."""
    return checkpoint / f"progress_{process_index}.pt"


def load_progress(path: Path) -> Progress:
    """Load the state that a process has saved to its file `progress_path`, with tensors in the memory of the CPU."""
    progress: Progress = torch.load(path, map_location="cpu", weights_only=True)
    return progress


def _map_progress(path: Path) -> Progress:
    """Load a progress file without reading its tensors, of which there may be many."""
    progress: Progress = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return progress


def _fsdp_files(kind: str, num_processes: int) -> list[Required]:
    if "FULL" in kind:
        return [("pytorch_model_fsdp.bin",), ("optimizer.bin",)]
    folders, ranks = ("pytorch_model_fsdp_0", "optimizer_0"), range(num_processes)
    if "SHARDED" in kind:
        return [(f"{folder}/{name}",) for folder in folders for name in (".metadata", *(f"__{r}_*" for r in ranks))]
    return [(f"pytorch_model_fsdp_0_rank{rank}.bin",) for rank in ranks]


def _weight_files(model: Any) -> list[Required]:
    adapters = getattr(model, "peft_config", None)  # of PEFT's models
    if adapters is None:
        whole = ("model.safetensors", "pytorch_model.bin")
        return [(*whole, *(f"{name}.index.json" for name in whole))]
    folders = ("" if name == "default" else f"{name}/" for name in adapters)
    return [(f"{folder}adapter_model.safetensors", f"{folder}adapter_model.bin") for folder in folders]


def _join(faults: list[str]) -> str:
    more = len(faults) - _SHOWN
    return ", ".join(faults[:_SHOWN]) + (f", and {more} more" if more > 0 else "")


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


_INTACT: dict[str, Callable[[Path], bool]] = {
    ".json": _is_json,
    ".safetensors": _is_safetensors,
    ".pt": zipfile.is_zipfile,
    ".pth": zipfile.is_zipfile,
    ".bin": zipfile.is_zipfile,
}
