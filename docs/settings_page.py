r"""Writes the page of settings from the dataclasses of the commands.

    PYTHONPATH=. python docs/settings_page.py

A test checks that the page is up to date.
"""

import importlib
import typing
from dataclasses import is_dataclass
from pathlib import Path

from raml_trl.runtime.commands import STAGES
from raml_trl.runtime.help_page import Setting, settings_of
from raml_trl.runtime.runs import Run

HEAD = """# Settings

The settings that `raml_trl` declares for each command, with their types and defaults. `train_sft` and `train_grpo` also
accept every setting of TRL's `SFTConfig`, `GRPOConfig` and `ModelConfig`; the option `--help_all` lists them with their
explanations. In a recipe, a setting is a line `name: value`; on the command line, it is `--name value`.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for stage, commands in STAGES.items():
        parts.append(f"## {stage}\n")
        for command, about in commands.items():
            parts += [f"### {command}\n", f"{about[0].upper()}{about[1:]}.\n"]
            groups: dict[str, list[Setting]] = {}
            for setting in settings_of_command(command):
                groups.setdefault(setting.group, []).append(setting)
            for title, settings in groups.items():
                rows = [f"| `{_cell(setting.option)}` | {_cell(setting.explanation)} |" for setting in settings]
                parts.append("\n".join([f"| {title} | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def settings_of_command(command: str) -> list[Setting]:
    """Return our settings of a command, in the order of its config classes."""
    main = importlib.import_module(f"raml_trl.{command}").main
    classes = [hint for hint in typing.get_type_hints(main).values() if is_dataclass(hint) and hint is not Run]
    return [setting for config_class in classes for setting in settings_of(config_class) if setting.ours]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (Path(__file__).parent / "settings.md").write_text(page(), encoding="utf-8")
