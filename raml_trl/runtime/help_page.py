"""The help of a command: our settings in groups, with their types and defaults, and those of TRL on request.

A config class of ours gives its groups titles in the class variable `headings`, which maps the name of the first field
of a group to the title of the group.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raml_trl.runtime.limits import default_of

Headings = Mapping[str, str]
"""Titles of groups of settings, by the name of the first field of the group."""

_INPUTS_AND_OUTPUT = ("model_name_or_path", "dataset_name", "output_dir")
_RUN_GROUP = "Run"
_COLUMN = 38  # where the explanations start
_KINDS = {int: "INT", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True)
class Setting:
    """A setting as the help shows it: its option with the kind of value, an explanation, and the title of its group.

    `ours` says whether the help shows it without `--help_all`.
    """

    name: str
    option: str
    explanation: str
    group: str
    ours: bool


def help_page(program: str, about: str, config_classes: Sequence[Any], *, everything: bool, width: int) -> str:
    """Return the help of a command.

    Args:
        program: what the user types to start the command, such as `raml-trl evaluate`.
        about: a sentence about the command.
        config_classes: the dataclasses of its settings; the last one has the options of every command.
        everything: also show the settings that TRL and transformers declare.
        width: number of columns of the terminal.
    """
    settings = [setting for config_class in config_classes for setting in settings_of(config_class)]
    shown = [setting for setting in settings if setting.ours or everything]
    hidden = len(settings) - len(shown)
    groups: dict[str, list[Setting]] = {_RUN_GROUP: []}
    for setting in sorted(shown, key=lambda setting: not setting.ours):  # a stable order: ours first
        groups.setdefault(setting.group, []).append(setting)
    groups[_RUN_GROUP].sort(key=lambda setting: _INPUTS_AND_OUTPUT.index(setting.name))
    lines = [f"usage: {program} [RECIPE] [--SETTING VALUE ...]", "", *textwrap.wrap(about, width), ""]
    lines += [
        *_row("RECIPE, --config RECIPE", "A YAML file, or the name of a packaged recipe (raml-trl recipes).", width)
    ]
    lines += [*_row("--help, --help_all", "Show this help, without or with the settings of TRL.", width), ""]
    for title, group in groups.items():
        if group:
            rows = [line for setting in group for line in _row(setting.option, setting.explanation, width)]
            lines += [f"{title}:", *rows, ""]
    if hidden:
        lines.append(f"{hidden} more settings, of TRL and transformers: {program} --help_all")
    return "\n".join(lines).rstrip() + "\n"


def settings_of(config_class: Any) -> list[Setting]:
    hints = get_type_hints(config_class)
    titles: dict[type, str] = {}
    settings = []
    for field in fields(config_class):
        if not field.init:
            continue
        owner = next(base for base in config_class.__mro__ if field.name in vars(base).get("__annotations__", {}))
        package = owner.__module__.partition(".")[0]
        ours = package in (__name__.partition(".")[0], "__main__")  # the module of a command that was started
        start = f"Settings of {package}: {owner.__name__}" if not ours else "Settings"
        title = vars(owner).get("headings", {}).get(field.name) or titles.get(owner, start)
        titles[owner] = title
        explanation = _explanation(field)
        if field.name in _INPUTS_AND_OUTPUT:
            if not ours:  # TRL has defaults for them, but our commands demand them
                explanation = f"{_text(field)} (required)"
            title, ours = _RUN_GROUP, True
        settings.append(Setting(field.name, _option(field, hints[field.name]), explanation, title, ours))
    return settings


def _option(field: Field[Any], hint: object) -> str:
    kind = _kind(hint)
    return f"--{field.name} {kind}" if kind else f"--[no_]{field.name}"


def _kind(hint: object) -> str:
    """Return a word for the values of a type: empty for true or false, which are given as flags."""
    union = get_origin(hint) in (Union, UnionType)
    options = [option for option in get_args(hint) if option is not NoneType] if union else [hint]
    if len(options) > 1:
        return "VALUE"
    [option] = options
    if option is bool:
        return ""
    if get_origin(option) is Literal:
        return "|".join(map(str, get_args(option)))
    if get_origin(option) is list:
        return f"{_kind(get_args(option)[0])} ..."
    return _KINDS.get(option, "VALUE") if isinstance(option, type) else "VALUE"


def _explanation(field: Field[Any]) -> str:
    default = default_of(field)
    return f"{_text(field)} ({'required' if default is MISSING else f'default: {_plain(default)}'})".strip()


def _text(field: Field[Any]) -> str:
    return str(field.metadata.get("help", "")).replace("%%", "%")


def _plain(value: object) -> str:
    """Write a value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value)) or "empty"
    if isinstance(value, Enum):
        return str(value.value)
    return "empty" if value == "" else str(value)


def _row(option: str, explanation: str, width: int) -> list[str]:
    """Return the lines of a setting: its option, and its explanation to the right of it or below."""
    wrapped = textwrap.wrap(explanation, max(20, width - _COLUMN)) or [""]
    indented = [" " * _COLUMN + line for line in wrapped]
    head = f"  {option}"
    if len(head) + 2 <= _COLUMN:
        return [f"{head:<{_COLUMN}}{wrapped[0]}", *indented[1:]]
    return [head, *indented]
