"""Parses a command line and a recipe into dataclasses."""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import TrlParser

from raml_trl.runtime.commands import COMMANDS
from raml_trl.runtime.errors import InputError, MissingDevice, shown, suggestion
from raml_trl.runtime.files import Settings, read_yaml
from raml_trl.runtime.help_page import help_page
from raml_trl.runtime.recipes import command_of, find_recipe
from raml_trl.runtime.validation import check_type, in_words

_LONG_WORD = re.compile(r"\S{200,}")
_CONFIG = re.compile(r"--config(?:=|$)")
_WIDEST = 120


class StrictParser(TrlParser):
    """TRL's parser, except that it raises errors instead of exiting, checks types in YAML, and accepts bools as flags.

    For a field `x` of type bool or `bool | None`, `--x` means true and `--no_x` means false. `--x true` and `--x false`
    work as well. The recipe may be given as the first argument, without `--config`, and may be a packaged one. The help
    shows our own settings in groups; `--help_all` adds those of TRL.
    """

    def __init__(self, dataclass_types: Any = None, **named: Any) -> None:
        super().__init__(dataclass_types, **named)
        self.add_argument("--help_all", "--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS)
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
        if message.startswith("the following arguments are required"):
            names = re.sub(r"/--[\w-]+", "", message)  # each name again, with hyphens
            message = f"{names}; set them, or name a recipe that does: `raml-trl recipes` lists some"
        message = re.sub(r"^argument (--\w+)(/--[\w-]+)+:", r"argument \1:", message)
        message = re.sub(r"^argument --(\w+): invalid int value: ", r"\1 must be a whole number, got ", message)
        message = re.sub(r"^argument --(\w+): invalid float value: ", r"\1 must be a number, got ", message)
        raise InputError(_LONG_WORD.sub(lambda match: f"{match[0][:100]}…", message))

    def format_help(self, *, everything: bool = False) -> str:
        width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
        classes = list(self.dataclass_types)
        return help_page(self.prog, self.description or "", classes, everything=everything, width=width)

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """Parse a command line and its recipe, which is the first argument or follows `--config`.

        Returns:
            One instance of each of the parser's dataclasses, in the order in which the parser was given them.

        Raises:
            InputError: for an unreadable file, an unknown key or option, or an invalid value.
            MissingDevice: if the settings need a device that this machine does not have, such as a GPU for bfloat16.
        """
        recipe, rest = split_recipe(arguments)
        path = None if recipe is None else find_recipe(recipe)
        if path is not None:
            self._check_yaml(path)
        self._check_options(rest)
        try:
            return self.parse_args_and_config(rest if path is None else ["--config", str(path), *rest])
        except MissingDevice:
            raise
        except (ValueError, ImportError, NotImplementedError) as error:  # raised by TRL's dataclasses and by ours
            raise InputError(" ".join(str(error).split())) from error

    def explicit_settings(self, arguments: Sequence[str]) -> Settings:
        """Return the settings that the user gave, by field name; defaults are left out.

        The command line takes precedence over the YAML file.
        """
        recipe, rest = split_recipe(arguments)
        settings: Settings = {}
        if recipe is not None:
            settings |= {
                name: self._get_value(self._action(name), value) if isinstance(value, str) else value
                for name, value in read_yaml(find_recipe(recipe)).items()
                if name != "env"
            }
        explicit = StrictParser(self.dataclass_types, allow_abbrev=False)
        for action in explicit._actions:
            action.default, action.required = argparse.SUPPRESS, False
        return settings | vars(explicit.parse_known_args(rest)[0])

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
                near = self._hint(path) or suggestion(str(name)[:100], hints)
                raise InputError(f"{path}: unknown key {shown(name)}{near}")
            try:
                if isinstance(value, str):  # the parser will convert it
                    self._get_value(self._action(name), value)
                else:
                    check_type(name, value, hints[name])
            except argparse.ArgumentError as error:
                raise InputError(f"{path}: {name} must be {in_words(hints[name])}, got {shown(value)}") from error
            except InputError as error:
                raise InputError(f"{path}: {error}") from error

    def _action(self, name: str) -> argparse.Action:
        """Return the option of the field `name`, which converts texts to values of the field's type."""
        return next(action for action in self._actions if action.dest == name)

    def _hint(self, path: Path) -> str:
        """Name the command whose recipe a file is by its name, if that is another command than this one."""
        command = command_of(path)
        mine = self.prog.removeprefix("raml-trl ")
        other = command is not None and mine in COMMANDS and mine != command
        return f"; by its name, this is a recipe of {command}" if other else ""

    def _check_options(self, arguments: Iterable[str]) -> None:
        known = [*self._option_string_actions, "--config"]
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            if option not in known:
                raise InputError(f"unknown option {option[:100]}{suggestion(option[:100], known)}")


def split_recipe(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into the recipe as the user gave it (None if there is none) and the other arguments.

    Raises:
        InputError: if `--config` has no value, or there are two recipes.
    """
    rest, recipes = list(arguments), []
    if rest and not rest[0].startswith("-"):
        recipes.append(rest.pop(0))
    while (position := next((i for i, word in enumerate(rest) if _CONFIG.match(word)), None)) is not None:
        if rest[position] != "--config":
            recipes.append(rest.pop(position).partition("=")[2])
        elif position + 1 == len(rest):
            raise InputError("--config needs the path of a YAML file")
        else:
            recipes.append(rest.pop(position + 1))
            del rest[position]
    if len(recipes) > 1:
        raise InputError(f"there is one recipe for a command, got {shown(recipes[0])} and {shown(recipes[1])}")
    return (recipes[0] if recipes else None), rest


class _HelpAll(argparse.Action):
    """Prints the help with the settings of TRL, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, StrictParser)
        sys.stdout.write(parser.format_help(everything=True))
        parser.exit()


def _check_environment(path: Path, variables: object) -> None:
    """Check the variables under `env` of a recipe, which the parser sets."""
    usable = isinstance(variables, dict) and all(
        isinstance(name, str) and name and "=" not in name and "\0" not in f"{name}{value}"
        for name, value in variables.items()
    )
    if not usable:
        raise InputError(f"{path}: env must be a mapping of names of variables to values, got {shown(variables)}")
