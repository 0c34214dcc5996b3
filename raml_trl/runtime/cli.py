"""From a YAML file and a command line to dataclasses, and from a user's mistake to one line and exit code 2."""

import argparse
import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import TrlParser

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.runtime.runs import Run, is_first_process, open_run
from raml_trl.runtime.validation import check_type

logger = logging.getLogger(__name__)

USER_ERROR = 2
INTERRUPTED = 130


class StrictParser(TrlParser):
    """TRL's parser, which raises where it would print its usage, and which also checks the types that YAML gave."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """The dataclasses, in order.

        Raises:
            InputError: for an unreadable file, an unknown key or option, a value of the wrong type or one that cannot
                work.
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
        except ValueError as error:  # what TRL's and our dataclasses refuse
            raise InputError(" ".join(str(error).split())) from error

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What `parse` was told by file and command line, by field name: the command line's word is last."""
        arguments = list(arguments)
        settings: dict[str, Any] = {}
        if "--config" in arguments:
            position = arguments.index("--config")
            settings |= read_yaml(Path(arguments[position + 1]))
            settings.pop("env", None)
            del arguments[position : position + 2]
        explicit = StrictParser(self.dataclass_types, allow_abbrev=False)
        for action in explicit._actions:
            action.default, action.required = argparse.SUPPRESS, False
        return settings | vars(explicit.parse_known_args(arguments)[0])

    def _check_yaml(self, path: Path) -> None:
        hints: dict[str, Any] = {}
        for dataclass_type in self.dataclass_types:
            known = get_type_hints(dataclass_type)
            hints |= {field.name: known[field.name] for field in fields(dataclass_type) if field.init}
        for name, value in read_yaml(path).items():
            if name == "env":
                continue
            if name not in hints:
                raise InputError(f"{path}: unknown key {name!r}{_meant(str(name), hints)}")
            if not isinstance(value, str):  # the parser converts strings itself, or refuses them
                try:
                    check_type(name, value, hints[name])
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error

    def _check_options(self, arguments: Iterable[str]) -> None:
        known = [*self._option_string_actions, "--config"]
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if option not in known:
                raise InputError(f"unknown option {option}{_meant(option, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a `name` that is not known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def run(
    main: Callable[..., None],
    *dataclass_types: Any,
    distributed: bool = False,
    repeatable: bool = False,
    publish: Callable[..., list[str]] | None = None,
) -> NoReturn:
    """Parse, open the run in `output_dir`, call `main(*configs, run)`, and exit.

    A complete run is left as it is, unless it is `repeatable`: cheap, and a function of what it reads. Of a launch with
    several processes, the first does all of what is not `distributed`, and the others have nothing to do. A run that
    is complete, now or before, is handed to `publish(*configs, run)`, which returns the URLs that it was pushed to.
    Exit code 0: done, or done before. 2: the user's mistake, in one line on standard error. 130: interrupted. Anything
    else is a defect and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("httpx", "httpcore", "httpx2", "httpcore2", "filelock", "fsspec"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    command = main.__globals__["__spec__"].name.rpartition(".")[2]
    if not distributed and not is_first_process():
        sys.exit(0)
    parser = StrictParser(dataclass_types, prog=f"raml-trl {command}", allow_abbrev=False)
    try:
        configs = parser.parse(sys.argv[1:])
        record = open_run(Path(_output_dir(configs)), command, parser.given(sys.argv[1:]))
        done_before = record.complete and not repeatable
        if not done_before:
            _run_or_discard(main, configs, record)
        urls = publish(*configs, record) if publish is not None and record.complete and record.writes else []
        for url in urls:
            logger.info("%s: %s is pushed to %s", command, record.directory, url)
        if done_before and not urls:
            logger.info("%s: %s is complete, nothing to do", command, record.directory)
    except InputError as error:
        parser.exit(USER_ERROR, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"{parser.prog}: interrupted; the same command carries on from what is saved\n")
    parser.exit()


def call(main: Callable[..., None], config: Any) -> dict[str, Any]:
    """Run a command from Python, as `python -m` would with the same settings, and return its results.

        call(pseudo_gradient.main, PseudoGradientConfig(model_name_or_path="runs/sft", ...))

    Raises:
        InputError: as the command, for a mistake of the user's.
    """
    command = main.__module__.rpartition(".")[2]
    values = {field.name: (getattr(config, field.name), _default(field)) for field in fields(config)}
    settings = {name: value for name, (value, default) in values.items() if value != default}
    record = open_run(Path(_output_dir([config])), command, settings)
    if not record.complete:
        _run_or_discard(main, [config], record)
    return record.record.get("results", {})


def _run_or_discard(main: Callable[..., None], configs: Iterable[Any], record: Run) -> None:
    try:
        main(*configs, record)
    except InputError:
        record.discard()
        raise


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _output_dir(configs: Iterable[Any]) -> str:
    found = [config.output_dir for config in configs if "output_dir" in {field.name for field in fields(config)}]
    if not found or not found[0]:
        raise InputError("output_dir is missing: name the directory this run is to be written to")
    return found[0]
