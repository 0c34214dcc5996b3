"""Starts a command: parses its settings, opens its run, and reports user errors in one line with exit code 2."""

import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from raml_trl.runtime.disks import named_faults
from raml_trl.runtime.errors import (
    USER_ERROR,
    InputError,
    MissingDevice,
    Problems,
    RepeatedError,
    mask_secrets,
    one_line,
    printable,
)
from raml_trl.runtime.files import Settings
from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import Limits, Number, check_settings, default_of
from raml_trl.runtime.locks import (
    EXPIRY_SECONDS,
    HEARTBEAT_SECONDS,
    DirectoryLock,
    Holder,
    WhenLocked,
    check_unlocked,
    describe,
    locked,
)
from raml_trl.runtime.next_command import last_lines, with_maker
from raml_trl.runtime.parser import StrictParser as StrictParser
from raml_trl.runtime.parser import split_recipe
from raml_trl.runtime.runs import Run, find_run, is_first_process, open_run, process_share
from raml_trl.runtime.silence import watched
from raml_trl.runtime.stopping import Terminated, ending_at_once

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.getLogger(__name__)

INTERRUPTED = 130
BROKEN_PIPE = 141

_NO_OUTPUT = "output_dir is missing: set it to the directory that the run is to be written to"
_PEER_HAS_ENDED = re.compile(r"Connection (?:closed|reset) by peer")  # as gloo says it on the other processes
_CHATTY_LIBRARIES = ("httpx", "httpcore", "httpx2", "httpcore2", "filelock", "fsspec")


@dataclass
class RunOptions:
    """Options that every command accepts in addition to its own. They do not change results; `run.json` lacks them."""

    limits: ClassVar[Limits] = {"rank_timeout": Number(1, 10**9)}
    headings: ClassVar[Headings] = {"dry_run": "Start"}

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Check the settings, the tokenizer and the first row, print the plan of the run, and start nothing."
        },
    )
    when_locked: WhenLocked = field(
        default="refuse",
        metadata={"help": "If another process writes to output_dir: refuse to start, or wait until it has ended."},
    )
    rank_timeout: float = field(
        default=EXPIRY_SECONDS,
        metadata={"help": "Seconds after which a launch ends because one of its processes does not respond."},
    )

    def __post_init__(self) -> None:
        check_settings(self)


def run(
    main: Callable[..., int | None],
    *dataclass_types: Any,
    distributed: bool = False,
    repeatable: bool = False,
    optional_output: bool = False,
    shared: bool = False,
    publish: Callable[..., list[str]] | None = None,
    preview: Callable[..., Iterable[Mapping[str, str]]] | None = None,
) -> NoReturn:
    """Parse the command line, lock and open the run in `output_dir`, call `main(*configs, run)`, and exit.

    `main` is not called if the run is already complete. The exit code is the number that `main` returns, or 0; 2 after
    a user error, 130 after an interruption and 141 if the reader of the output has ended; `stopping.EXIT_CODES` has the
    exit codes after signals. A user error is reported in one line on standard error. Any other exception is a defect
    and keeps its traceback.

    Args:
        main: the function of the command.
        dataclass_types: the dataclasses that the settings are parsed into; `configs` are their instances.
        distributed: call `main` in every process of a launch. By default only the first process calls `main`, and the
            other processes exit at once.
        repeatable: call `main` even if the run is already complete. This suits commands that are cheap and depend only
            on the files they read.
        optional_output: allow `output_dir` to be None; `main` then gets None instead of a run.
        shared: do not lock `output_dir`, because the command may be started several times at once.
        publish: function that pushes the results to the Hub and returns their URLs. It is called as
            `publish(*configs, run)` if the run is complete, even if it was complete before this command was started.
        preview: function for `dry_run`, called as `preview(*configs)`. It checks what the command checks when it
            starts, writes nothing, and yields what the command would do, as mappings of labels to texts. If a check
            fails, the mappings yielded before it are still shown. Therefore, it first yields those that need only the
            settings.
    """
    _log_plainly()
    for library in _CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    command = main.__globals__["__spec__"].name.rpartition(".")[2]
    if not distributed and not is_first_process():
        sys.exit(0)
    about = (main.__globals__["__doc__"] or "").partition("\n")[0]
    parser = StrictParser(
        [*dataclass_types, RunOptions], prog=f"raml-trl {command}", description=about, allow_abbrev=False
    )
    arguments, recipe, problems = sys.argv[1:], None, Problems()
    try:
        with ending_at_once():
            recipe, _ = split_recipe(arguments)
            try:
                *configs, options = parser.parse(arguments)
            except MissingDevice as error:
                if not parser.explicit_settings(arguments).get("dry_run"):
                    raise
                problems.messages += error.messages
                *configs, options = parser.parse([*arguments, "--use_cpu", "true"])
            settings = parser.explicit_settings(arguments)
            without_output = optional_output and configs[0].output_dir is None
            if not without_output and settings.get("output_dir", parser.get_default("output_dir")) is None:
                raise InputError(_NO_OUTPUT)  # transformers would choose a directory
            directory = None if without_output else _output_dir(configs)
            if options.dry_run:
                plan: dict[str, str] = {}
                if is_first_process():
                    with problems.collected():
                        for part in [] if preview is None else preview(*configs):
                            plan |= part
                    with problems.collected():
                        if directory is not None:
                            found = find_run(directory, command, settings)
                            needs_lock = _needs_lock(found, shared=shared, repeatable=repeatable)
                            writer = check_unlocked(directory, options.when_locked) if needs_lock else None
                            plan["output_dir"] = _state(directory, found, writer)
                    _show_plan(plan)
                problems.check()
                parser.exit()
            if directory is None:
                parser.exit(main(*configs, None) or 0)
            code = None
            with _no_empty_parents(directory), named_faults(directory), ExitStack() as stack:
                lock = None
                found = find_run(directory, command, settings)
                if _needs_lock(found, shared=shared, repeatable=repeatable):
                    lock = stack.enter_context(_locked(directory, options, parser.prog))
                record = open_run(directory, command, settings, lock)
                was_complete = record.complete and not repeatable
                if not was_complete:
                    code = _run_or_discard(main, configs, record)
                urls = publish(*configs, record) if publish is not None and record.complete and record.writes else []
            for url in urls:
                logger.info("%s: pushed %s to %s", command, record.directory, url)
            if was_complete and not urls and record.writes:
                logger.info("%s: %s is complete, nothing to do", command, record.directory)
            if record.complete and record.writes:
                lines = last_lines(command, record.directory, recipe)
                sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        parser.exit(BROKEN_PIPE)
    except RepeatedError:
        parser.exit(USER_ERROR)
    except InputError as error:
        lines = [with_maker(message, recipe) for message in error.messages]
        parser.exit(USER_ERROR, "".join(f"{parser.prog}: {line}\n" for line in lines))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"{parser.prog}: interrupted; run the same command again to resume\n")
    except Terminated as end:
        parser.exit(end.exit_code, f"{parser.prog}: {end}\n" if is_first_process() else None)
    except RuntimeError as error:
        if process_share()[1] == 1 or not _PEER_HAS_ENDED.search(str(error)):
            raise
        parser.exit(1, f"{parser.prog}: another process of the launch has ended, and its message says why\n")
    parser.exit(code or 0)


def _stdout_is_closed() -> bool:
    """Return whether the reader of standard output has ended, as `head` does. If so, later output is discarded."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
    return closed


def _show_plan(plan: Mapping[str, str]) -> None:
    """Print what the command would do."""
    width = max(map(len, plan), default=0)
    lines = [f"{label:<{width}}  {one_line(text)}" for label, text in plan.items()]
    sys.stdout.write("\n".join([*lines, "Dry run: nothing was started."]) + "\n")


def _needs_lock(found: Run | None, *, shared: bool, repeatable: bool) -> bool:
    """Return whether a command has to lock its `output_dir`. That directory holds the run `found`, or no run."""
    return not shared and (repeatable or found is None or not found.complete)


def _state(directory: Path, found: Run | None, writer: Holder | None) -> str:
    """Say what a start would find in its `output_dir`: the run `found`, and a process that is writing it."""
    if writer is not None:
        return f"{directory}, being written by {describe(writer)}: it would wait for its end"
    if found is None:
        return f"{directory}, a new run"
    return f"{directory}, {'a complete run: nothing to do' if found.complete else 'an unfinished run: it would resume'}"


@contextmanager
def _locked(directory: Path, options: RunOptions, program: str) -> Iterator[DirectoryLock]:
    """Hold the lock of `directory`, and watch over the other processes of the launch."""
    rank, num_processes = process_share()
    heartbeat = min(HEARTBEAT_SECONDS, options.rank_timeout / 5)
    with (
        locked(directory, options.when_locked, rank=rank, heartbeat=heartbeat) as lock,
        watched(directory, rank=rank, num_processes=num_processes, limit=options.rank_timeout, program=program),
    ):
        yield lock


@contextmanager
def _no_empty_parents(directory: Path) -> Iterator[None]:
    """Remove the parents that were made for `directory` and are empty in the end, because the run was refused."""
    made = [parent for parent in directory.parents if not parent.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # files are left, or another process has removed the parent first
            for parent in made:
                parent.rmdir()


class _PlainFormatter(logging.Formatter):
    """Escapes control characters and masks access tokens, because log lines repeat what servers and data say."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(mask_secrets(super().format(record)))


def _log_plainly() -> None:
    """Log messages without their level and time to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line would come twice


def call(main: Callable[..., int | None], config: "DataclassInstance") -> Settings:
    """Run a command from Python and return its results, which are those in the `run.json` of the run.

    This makes the same run as `python -m raml_trl.X` with the same settings. An example:

        call(pseudo_gradient.main, PseudoGradientConfig(model_name_or_path="runs/sft", ...))

    Args:
        main: the `main` function of the command's module.
        config: the settings of the command.

    Raises:
        InputError: for a user error.
    """
    command = main.__module__.rpartition(".")[2]
    values = {field.name: (getattr(config, field.name), default_of(field)) for field in fields(config)}
    settings = {name: value for name, (value, default) in values.items() if value != default}
    directory = _output_dir([config])
    record = find_run(directory, command, settings)
    if record is None or not record.complete:
        with _no_empty_parents(directory), named_faults(directory), locked(directory, "refuse") as lock:
            record = open_run(directory, command, settings, lock)
            if not record.complete:
                _run_or_discard(main, [config], record)
    return record.record.get("results", {})


def _run_or_discard(main: Callable[..., int | None], configs: "Iterable[DataclassInstance]", record: Run) -> int | None:
    failed = True
    try:
        code = main(*configs, record)
        failed = False
        return code
    finally:
        if failed:
            record.discard()


def _output_dir(configs: "Iterable[DataclassInstance]") -> Path:
    directories = [vars(config)["output_dir"] for config in configs if "output_dir" in vars(config)]
    if not directories or not directories[0]:
        raise InputError(_NO_OUTPUT)
    return Path(directories[0])
