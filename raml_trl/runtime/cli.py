"""Parses YAML and flags into dataclasses, and reports user errors in one line with exit code 2."""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, get_type_hints

from trl import TrlParser

from raml_trl.runtime.disks import named_faults
from raml_trl.runtime.errors import InputError, mask_secrets, printable, shown
from raml_trl.runtime.files import Settings, read_yaml
from raml_trl.runtime.limits import Limits, Number, check_settings, default_of
from raml_trl.runtime.locks import EXPIRY_SECONDS, HEARTBEAT_SECONDS, DirectoryLock, WhenLocked, locked
from raml_trl.runtime.runs import Run, find_run, is_first_process, open_run, process_share
from raml_trl.runtime.silence import watched
from raml_trl.runtime.stopping import Terminated, ending_at_once
from raml_trl.runtime.validation import check_type

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.getLogger(__name__)

USER_ERROR = 2
INTERRUPTED = 130

_NO_OUTPUT = "output_dir is missing: set it to the directory that the run is to be written to"
_LONG_WORD = re.compile(r"\S{200,}")
_CHATTY_LIBRARIES = ("httpx", "httpcore", "httpx2", "httpcore2", "filelock", "fsspec")


@dataclass
class RunOptions:
    """Options that every command accepts in addition to its own. They do not change results, so no run records them."""

    limits: ClassVar[Limits] = {"rank_timeout": Number(1, 10**9)}

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


class StrictParser(TrlParser):
    """TRL's parser with three changes: it raises errors, checks the types of YAML values, and accepts bools as flags.

    For a field `x` of type bool or `bool | None`, `--x` means true and `--no_x` means false. `--x true` and `--x false`
    work as well.
    """

    def __init__(self, dataclass_types: Any = None, **named: Any) -> None:
        super().__init__(dataclass_types, **named)
        hints = self._hints()
        for action in list(self._actions):
            if hints.get(action.dest) not in (bool, bool | None) or action.nargs == 0:
                continue
            action.nargs, action.const = "?", True
            opposites = [f"--no_{action.dest}", f"--no-{action.dest.replace('_', '-')}"]
            if not any(option in self._option_string_actions for option in opposites):
                suppress: Any = argparse.SUPPRESS
                self.add_argument(*opposites, action="store_false", dest=action.dest, default=suppress, help=suppress)

    def error(self, message: str) -> NoReturn:
        raise InputError(_LONG_WORD.sub(lambda match: f"{match[0][:100]}…", message))

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """Parse a command line and the YAML file named by `--config`.

        Returns:
            One instance of each of the parser's dataclasses, in the order in which the parser was given them.

        Raises:
            InputError: for an unreadable file, an unknown key or option, or an invalid value.
        """
        arguments = list(arguments)
        if "--config" in arguments:
            position = arguments.index("--config") + 1
            if position == len(arguments):
                raise InputError("--config needs the path of a YAML file")
            self._check_yaml(Path(arguments[position]))
        self._check_options(arguments)
        try:
            return self.parse_args_and_config(arguments)
        except (ValueError, ImportError, NotImplementedError) as error:  # raised by TRL's dataclasses and by ours
            raise InputError(" ".join(str(error).split())) from error

    def explicit_settings(self, arguments: Sequence[str]) -> Settings:
        """Return the settings that the user gave, by field name; defaults are left out.

        The command line takes precedence over the YAML file.
        """
        arguments = list(arguments)
        settings: Settings = {}
        if "--config" in arguments:
            position = arguments.index("--config")
            settings |= read_yaml(Path(arguments[position + 1]))
            settings.pop("env", None)
            del arguments[position : position + 2]
        explicit = StrictParser(self.dataclass_types, allow_abbrev=False)
        for action in explicit._actions:
            action.default, action.required = argparse.SUPPRESS, False
        return settings | vars(explicit.parse_known_args(arguments)[0])

    def _hints(self) -> dict[str, object]:
        """Return the type hints of the fields that can be set, by name."""
        hints: dict[str, object] = {}
        for dataclass_type in self.dataclass_types:
            known = get_type_hints(dataclass_type)
            hints |= {field.name: known[field.name] for field in fields(dataclass_type) if field.init}
        return hints

    def _check_yaml(self, path: Path) -> None:
        hints = self._hints()
        for name, value in read_yaml(path).items():
            if name == "env":
                _check_environment(path, value)
                continue
            if name not in hints:
                raise InputError(f"{path}: unknown key {shown(name)}{_suggestion(str(name)[:100], hints)}")
            if not isinstance(value, str):  # the parser converts strings itself
                try:
                    check_type(name, value, hints[name])
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error

    def _check_options(self, arguments: Iterable[str]) -> None:
        known = [*self._option_string_actions, "--config"]
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if option not in known:
                raise InputError(f"unknown option {option[:100]}{_suggestion(option[:100], known)}")


def _check_environment(path: Path, variables: object) -> None:
    """Check the variables under `env` of a recipe, which the parser sets."""
    usable = isinstance(variables, dict) and all(
        isinstance(name, str) and name and "=" not in name and "\0" not in f"{name}{value}"
        for name, value in variables.items()
    )
    if not usable:
        raise InputError(f"{path}: env must be a mapping of names of variables to values, got {shown(variables)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the known name closest to `name`, or nothing if none is close."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def run(
    main: Callable[..., None],
    *dataclass_types: Any,
    distributed: bool = False,
    repeatable: bool = False,
    optional_output: bool = False,
    shared: bool = False,
    publish: Callable[..., list[str]] | None = None,
) -> NoReturn:
    """Parse the command line, lock and open the run in `output_dir`, call `main(*configs, run)`, and exit.

    `main` is not called if the run is already complete. The exit code is 0 without an error, 2 after a user error, 130
    after an interruption, and that of `stopping.EXIT_CODES` after a signal. A user error is reported in one line on
    standard error. Any other exception is a defect and keeps its traceback.

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
            `publish(*configs, run)` if the run is complete, even if the run was complete before.
    """
    _log_plainly()
    for library in _CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    command = main.__globals__["__spec__"].name.rpartition(".")[2]
    if not distributed and not is_first_process():
        sys.exit(0)
    parser = StrictParser([*dataclass_types, RunOptions], prog=f"raml-trl {command}", allow_abbrev=False)
    try:
        with ending_at_once():
            *configs, options = parser.parse(sys.argv[1:])
            if optional_output and configs[0].output_dir is None:
                main(*configs, None)
                parser.exit()
            settings = parser.explicit_settings(sys.argv[1:])
            if settings.get("output_dir", "") is None:  # transformers would choose a directory
                raise InputError(_NO_OUTPUT)
            directory = _output_dir(configs)
            with _no_empty_parents(directory), named_faults(directory), ExitStack() as stack:
                lock = None
                found = find_run(directory, command, settings)
                if not shared and (repeatable or found is None or not found.complete):
                    lock = stack.enter_context(_locked(directory, options, parser.prog))
                record = open_run(directory, command, settings, lock)
                was_complete = record.complete and not repeatable
                if not was_complete:
                    _run_or_discard(main, configs, record)
                urls = publish(*configs, record) if publish is not None and record.complete and record.writes else []
            for url in urls:
                logger.info("%s: pushed %s to %s", command, record.directory, url)
            if was_complete and not urls:
                logger.info("%s: %s is complete, nothing to do", command, record.directory)
    except InputError as error:
        parser.exit(USER_ERROR, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"{parser.prog}: interrupted; run the same command again to resume\n")
    except Terminated as end:
        parser.exit(end.exit_code, f"{parser.prog}: {end}\n" if is_first_process() else None)
    parser.exit()


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
        for parent in made:
            if not parent.is_dir() or any(parent.iterdir()):
                break
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


def call(main: Callable[..., None], config: "DataclassInstance") -> Settings:
    """Run a command from Python and return its results.

    This makes the same run as `python -m raml_trl.X` with the same settings. An example:

        call(pseudo_gradient.main, PseudoGradientConfig(model_name_or_path="runs/sft", ...))

    Args:
        main: the function of the command.
        config: the options of the command.

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


def _run_or_discard(main: Callable[..., None], configs: "Iterable[DataclassInstance]", record: Run) -> None:
    failed = True
    try:
        main(*configs, record)
        failed = False
    finally:
        if failed:
            record.discard()


def _output_dir(configs: "Iterable[DataclassInstance]") -> Path:
    directories = [vars(config)["output_dir"] for config in configs if "output_dir" in vars(config)]
    if not directories or not directories[0]:
        raise InputError(_NO_OUTPUT)
    return Path(directories[0])
