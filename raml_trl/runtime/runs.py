"""What a directory holds: `run.json`, written by every command into its `output_dir`.

A directory holds one run. The same command with the same config finds it complete and has nothing to do, or finds it
begun and carries on; anything else is refused, so that no run overwrites another.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import is_partial, write_json

RECORD = "run.json"

# Keys that say how a run is watched and where it finds what it needs, not what it is: they may change between two
# sessions of one run.
_WATCHING = frozenset(
    {
        *("output_dir", "disable_tqdm", "report_to", "run_name", "project"),
        *("log_level", "logging_steps", "logging_strategy", "save_steps", "save_strategy", "save_total_limit"),
        *(
            "push_to_hub",
            "hub_model_id",
            "hub_private_repo",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "hub_revisions",
            "log_completions_hub_repo",
            "hub_token",
            "hub_dataset_id",
            "hub_private",
        ),
        *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port"),
        *("server_url", "api_key_variable", "max_requests", "num_graders", "dataset_num_proc"),
        *("tensor_parallel_size", "gpu_memory_utilization"),
        *("agents", "devices"),
    }
)


@dataclass
class Run:
    """The run that a directory holds. `record` is what `run.json` says. `writes`: this process may write it."""

    directory: Path
    record: dict[str, Any]
    writes: bool = True

    @property
    def complete(self) -> bool:
        return self.record["status"] == "complete"

    @property
    def seconds(self) -> float:
        """Spent on the run so far, over all its sessions."""
        return self.record["seconds"]

    def save(self, seconds: float) -> None:
        """Record how long the run has taken; by default, only the first process of a launch writes."""
        self.record["seconds"] = round(seconds, 3)
        if self.writes:
            write_json(self.directory / RECORD, self.record)

    def discard(self) -> None:
        """Take back a run that was refused before it left anything, so that it can be started again corrected."""
        if self.writes and [path.name for path in self.directory.iterdir()] == [RECORD]:
            (self.directory / RECORD).unlink()
            self.directory.rmdir()

    def finish(self, seconds: float, results: Mapping[str, Any]) -> None:
        """Mark the run complete. Everything it leaves must be on disk by now."""
        self.record |= {"status": "complete", "results": dict(results)}
        self.save(seconds)


def open_run(directory: Path, command: str, settings: Mapping[str, Any]) -> Run:
    """The run of `command` with `settings` in `directory`, begun anew or as it stands.

    Args:
        settings: what the user gave, by field name; a value that is the directory of another run stands for that run.

    Raises:
        InputError: if the directory holds another run or other files, or cannot be written.
    """
    settings = {name: value for name, value in settings.items() if name not in _WATCHING}
    inputs = {name: identity(Path(value)) for name, value in settings.items() if is_run(value)}
    wanted = {"command": command, "settings": settings, "inputs": inputs}
    path = directory / RECORD
    if path.exists():
        record = read_record(directory)
        _check_same(directory, record, wanted)
        return Run(directory, record, writes=is_first_process())
    occupied = directory.exists() and (not directory.is_dir() or not all(map(is_partial, directory.iterdir())))
    if occupied and not path.exists():  # by now, it may be there: another process of the launch was quicker
        raise InputError(f"output_dir {directory} holds files that are not a run of raml_trl: choose another directory")
    run = Run(directory, {**wanted, "status": "running", "seconds": 0.0}, writes=is_first_process())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, run.record)  # whichever process of a launch comes first: they all have the same to say
    except OSError as error:
        raise InputError(f"output_dir {directory} cannot be written: {error.strerror}") from error
    return run


def is_run(value: object) -> bool:
    """Whether `value` names a directory that holds a run."""
    return isinstance(value, str) and (Path(value) / RECORD).is_file()


def read_record(directory: Path) -> dict[str, Any]:
    """What `run.json` of `directory` says.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("command", "settings", "inputs", "status", "seconds")} | record
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no run: there is no {RECORD} in it") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{directory / RECORD} is damaged: remove the directory and run again") from error


def require_complete(directory: str) -> None:
    """Refuse to build on a run that has not ended; a directory that holds no run of ours passes.

    Raises:
        InputError: if it has not.
    """
    if is_run(directory) and read_record(Path(directory))["status"] != "complete":
        raise InputError(f"the run in {directory} is not complete: finish it first, with the same command")


def is_complete(directory: Path) -> bool:
    """Whether `directory` holds a run that has come to its end."""
    return is_run(str(directory)) and read_record(directory)["status"] == "complete"


def complete_record(directory: str, *commands: str) -> dict[str, Any]:
    """What `run.json` of `directory` says, which must hold a complete run of one of `commands`.

    Raises:
        InputError: if it does not.
    """
    record = read_record(Path(directory))
    if record["command"] not in commands:
        raise InputError(f"{directory} holds a run of {record['command']}, not of {' or '.join(commands)}")
    require_complete(directory)
    return record


def identity(directory: Path) -> str:
    """A name for the run in `directory` that changes with its command, its settings and the runs it was made from."""
    record = read_record(directory)
    content = json.dumps([record["command"], record["settings"], record["inputs"]], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def is_first_process() -> bool:
    """Whether this is the process of a launch that writes; alone, it is."""
    return process_share()[0] == 0


def process_share() -> tuple[int, int]:
    """Which process of a launch this is, and of how many; alone, 0 of 1."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _check_same(directory: Path, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if record["command"] != wanted["command"]:
        raise InputError(f"output_dir {directory} holds a run of {record['command']}: choose another directory")
    for part, remedy in (
        ("settings", "choose another directory"),
        ("inputs", "its input was made anew, so start anew"),
    ):
        before, now = record[part], json.loads(json.dumps(wanted[part]))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"output_dir {directory} holds another run: its {name} is {before.get(name)!r}, not "
                    f"{now.get(name)!r}; {remedy}, or remove that one"
                )
