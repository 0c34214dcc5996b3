"""The record of a run: `run.json`, which every command writes into its `output_dir`.

A directory holds one run. The same command with the same settings resumes the run if it is unfinished, and leaves it
unchanged if it is complete; only cheap commands such as `report` run again. Another command, or the same command with
other settings, ends with an error, so that no run overwrites another. Settings that do not change the results, such as
those for logging, may differ. A lock keeps two launches from writing to the run at the same time (see `locks`).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, TypeGuard

from raml_trl.runtime.errors import InputError, printable
from raml_trl.runtime.files import Settings, file_digest, is_partial, write_json
from raml_trl.runtime.functions import source_digest
from raml_trl.runtime.local_names import nothing_at
from raml_trl.runtime.locks import DirectoryLock, finishing, is_lock

RECORD = "run.json"
UNFINISHED = "other processes are still at work; the last of them completes the run"

# Settings that do not change the result of a run, such as those for logging, saving, pushing, servers and devices. They
# are not recorded, so they may change when a run is resumed.
_NOT_RECORDED = frozenset(
    {
        *("output_dir", "disable_tqdm", "report_to", "run_name", "project", "log_level"),
        *("logging_steps", "logging_strategy", "save_steps", "save_strategy", "save_total_limit"),
        *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision"),
        *("hub_revisions", "hub_token", "hub_dataset_id", "hub_private", "log_completions_hub_repo"),
        "update_card",
        *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port"),
        *("server_url", "api_key_variable", "max_requests", "num_graders", "dataset_num_proc"),
        *("tensor_parallel_size", "gpu_memory_utilization", "agents", "workers", "devices"),
        *("when_locked", "rank_timeout", "dry_run", "watch", "watch_seconds"),
    }
)


_FUNCTIONS = frozenset({"selection", "reward_funcs"})
"""The settings that can name functions of the user, whose code decides the result of a run."""

_DATA = frozenset({"dataset_name", "eval_data", "benchmarks"})
"""The settings that can name files of data."""


class RunRecord(TypedDict):
    """The content of `run.json`."""

    command: str
    settings: Settings
    """The settings that the user gave, by field name."""
    inputs: dict[str, str]
    """For each setting that names the directory of another run, the `identity` of that run.

    For each setting that names functions of the user, hashes of the files that define them; for each setting that names
    files of data, hashes of these files.
    """
    status: Literal["running", "complete"]
    seconds: float
    """Seconds spent on the run so far, summed over its first start and all resumes."""
    results: NotRequired[Settings]
    """The results that the command reported. Present once the run is complete."""
    dashboard_key: NotRequired[str]
    """Random key that identifies the run in dashboards, also after a resume. Present once a dashboard was used."""


@dataclass
class Run:
    """The run in a directory, with the content of its `run.json`. The file is only updated if `writes` is true."""

    directory: Path
    record: RunRecord
    writes: bool = True
    lock: DirectoryLock | None = None
    """The lock that this process holds on the directory."""
    leftovers: Sequence[Path] = ()
    """The temporary files that were in the directory when the run was opened. `finish` deletes them."""

    @property
    def complete(self) -> bool:
        return self.record["status"] == "complete"

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, summed over its first start and all resumes."""
        return self.record["seconds"]

    def save(self, seconds: float) -> None:
        """Record that the run has taken `seconds` so far, its earlier starts included, and write `run.json`.

        Raises:
            InputError: if the directory was deleted, or another process has taken its lock.
        """
        if self.lock is not None:
            self.lock.check()
        self.record["seconds"] = round(seconds, 3)
        if self.writes:
            write_json(self.directory / RECORD, self.record)

    def discard(self) -> None:
        """Delete `run.json` if the directory holds no other file, so that a failed command can be changed and repeated.

        Empty directories inside are deleted too. The directory itself, then empty, is deleted as well: now or, if this
        process holds its lock, when the lock is released. In a launch, a process deletes `run.json` only if it is the
        first one, or if all processes of lower rank have ended.
        """
        paths = [path for path in self.directory.iterdir() if not is_lock(path)] if self.directory.is_dir() else []
        empty = [path for path in paths if path.is_dir() and not any(path.iterdir())]
        last = self.lock is not None and self.lock.leads()
        kept = [path.name for path in paths if path not in empty]
        if (self.writes or last) and not self.complete and kept == [RECORD]:
            (self.directory / RECORD).unlink(missing_ok=True)
            with suppress(OSError):  # another process has done it, or has begun the run again
                for path in [*empty, *([self.directory] if self.lock is None else [])]:
                    path.rmdir()

    @contextmanager
    def completing(self) -> Iterator[bool]:
        """Yield True if this process is to complete the run by a call of `finish`, otherwise False.

        Only one process of a launch gets True. For the others, another process is completing the run, or has done so.
        """
        with finishing(self.directory) as alone:
            chosen = alone and not is_complete(self.directory)
            self.writes = self.writes or chosen
            yield chosen

    def finish(self, seconds: float, results: Mapping[str, object]) -> None:
        """Mark the run as complete and write `run.json`. All other files of the run must be on disk already.

        `seconds` is recorded as the duration of the run, and `results` as its results.

        Temporary files that were in the directory when the run was opened are deleted, because killed processes left
        them. Those that running processes of the launch write have other names and are kept.
        """
        self.record["status"] = "complete"
        self.record["results"] = dict(results)
        self.save(seconds)
        if self.writes:
            for path in self.leftovers:
                path.unlink(missing_ok=True)


def _plain(value: object) -> str:
    """Return the text of a setting in an error message: a float that is whole as the user wrote it, such as 50."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def find_run(directory: Path, command: str, settings: Mapping[str, object]) -> Run | None:
    """Return the run of `command` with `settings` in `directory`, or None if it does not exist yet. Write nothing.

    Raises:
        InputError: if the directory holds another run or other files.
    """
    record = find_record(directory)
    if record is not None:
        _check_same_run(directory, record, _new_record(command, settings))
        return Run(directory, record, writes=is_first_process())
    occupied = directory.exists() and (not directory.is_dir() or not all(map(_is_ours, directory.iterdir())))
    if occupied and not (directory / RECORD).exists():  # look again: another process may have written it meanwhile
        what = "holds files that are not a run of raml_trl" if directory.is_dir() else "is a file"
        raise InputError(f"output_dir {directory} {what}: choose another directory")
    return None


def open_run(directory: Path, command: str, settings: Mapping[str, object], lock: DirectoryLock | None = None) -> Run:
    """Return the run of `command` with `settings` in `directory`. The run is started if it does not exist yet.

    Args:
        directory: the `output_dir` of the run.
        command: name of the command.
        settings: the settings that the user gave, by field name.
        lock: the lock that this process holds on `directory`; None if it holds none.

    Raises:
        InputError: if the directory holds another run or other files, or cannot be written.
    """
    run = find_run(directory, command, settings)
    if run is None:
        run = Run(directory, _new_record(command, settings), writes=is_first_process())
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / RECORD, run.record)  # the same content from every process, so their order is free
        except OSError as error:
            raise InputError(f"output_dir {directory} cannot be written: {error.strerror}") from error
    run.lock = lock
    run.leftovers = [path for path in directory.iterdir() if is_partial(path)]
    return run


def _new_record(command: str, settings: Mapping[str, object]) -> RunRecord:
    kept = {name: value for name, value in settings.items() if name not in _NOT_RECORDED}
    inputs = {name: identity(Path(str(value))) for name, value in kept.items() if is_run(value)}
    for name in (_FUNCTIONS | _DATA) & kept.keys() - inputs.keys():
        value = kept[name]
        paths = [str(path) for path in value] if isinstance(value, list) else [str(value)]
        digest = source_digest if name in _FUNCTIONS else _data_digest
        if digests := [found for path in paths if (found := digest(path)) is not None]:
            inputs[name] = " ".join(digests)
    return {"command": command, "settings": kept, "inputs": inputs, "status": "running", "seconds": 0.0}


def _is_ours(path: Path) -> bool:
    """Return whether `path` is a lock or a temporary file, which may lie in a directory without a run."""
    return is_lock(path) or is_partial(path)


def is_run(value: object) -> TypeGuard[str]:
    """Return whether `value` is the path of a directory that holds a run."""
    return isinstance(value, str) and (Path(value) / RECORD).is_file()


def read_record(directory: Path) -> RunRecord:
    """Read `run.json` in `directory`.

    Raises:
        InputError: if the file is missing or damaged.
    """
    record = find_record(directory)
    if record is None:
        reason = f"it has no {RECORD}" if directory.exists() else nothing_at(directory)
        raise InputError(f"{directory} holds no run: {reason}")
    return record


def find_record(directory: Path) -> RunRecord | None:
    """Read `run.json` in `directory`, or return None if there is none.

    Raises:
        InputError: if the file is damaged.
    """
    if not is_run(str(directory)):
        return None
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("command", "settings", "inputs", "status", "seconds")} | record
    except FileNotFoundError:  # a command that fails early has just deleted it
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{directory / RECORD} is damaged: remove the directory and run again") from error


def require_complete(directory: str) -> None:
    """Refuse an unfinished run as an input. A directory without a `run.json` is accepted.

    Raises:
        InputError: if the run is unfinished.
    """
    record = find_record(Path(directory))
    if record is not None and record["status"] != "complete":
        command = printable(str(record["command"]))
        raise InputError(f"the run of {command} in {directory} is not complete: start that command again to finish it")


def is_complete(directory: Path) -> bool:
    """Return whether `directory` holds a complete run."""
    record = find_record(directory)
    return record is not None and record["status"] == "complete"


def complete_record(directory: str, *commands: str) -> RunRecord:
    """Read `run.json` in `directory`, which must hold a complete run of one of `commands`.

    Raises:
        InputError: if `directory` holds no run, a run of another command, or an unfinished run.
    """
    record = read_record(Path(directory))
    if record["command"] not in commands:
        raise InputError(f"{directory} holds a run of {record['command']}, not of {' or '.join(commands)}")
    require_complete(directory)
    return record


def _data_digest(path: str) -> str | None:
    """Return a hash of the file at `path`; None if there is no file, or it cannot be read."""
    try:
        return file_digest(Path(path)) if Path(path).is_file() else None  # a pipe could not be read again
    except OSError:  # the command will refuse the file
        return None


def identity(directory: Path) -> str:
    """Return a hash that identifies the run in `directory` by its command, its settings and its input runs."""
    record = read_record(directory)
    content = json.dumps([record["command"], record["settings"], record["inputs"]], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def require_directory(directory: Path) -> None:
    """Refuse to write into a directory that was deleted during the run. A write would create it without its old files.

    Raises:
        InputError: if there is no such directory.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} was deleted while the run wrote to it: run the same command again")


def is_first_process() -> bool:
    """Return whether this process has rank 0."""
    return process_share()[0] == 0


def process_share() -> tuple[int, int]:
    """Return the rank of this process and the number of processes in the launch: (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _check_same_run(directory: Path, record: RunRecord, new: RunRecord) -> None:
    if record["command"] != new["command"]:
        raise InputError(f"output_dir {directory} holds a run of {record['command']}: choose another directory")
    inputs = record["inputs"]
    another = f"output_dir {directory} holds another run:"
    remedy = "choose another directory, or remove that one"
    old, given = record["settings"], json.loads(json.dumps(new["settings"]))  # as JSON stores it: tuples become lists
    for name in sorted((old.keys() | given.keys()) - _NOT_RECORDED):  # older versions recorded more
        if old.get(name) != given.get(name):
            raise InputError(
                f"{another} its {name} is {_plain(old.get(name))}, not {_plain(given.get(name))}; {remedy}"
            )
    # Older versions did not record the code of functions and the content of files.
    unknown = {name for name in _FUNCTIONS | _DATA if name not in inputs}
    for name in sorted((inputs.keys() | new["inputs"].keys()) - unknown):
        if inputs.get(name) != new["inputs"].get(name):
            content = f"the content of its {name} {_plain(old.get(name))}"
            raise InputError(f"{another} {content} has changed since, or is gone; {remedy}")
