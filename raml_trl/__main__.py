"""The `raml-trl` program. For a command X, `raml-trl X ...` is short for `python -m raml_trl.X ...`."""

import difflib
import platform
import runpy
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import raml_trl
from raml_trl.runtime.commands import COMMANDS, STAGES, TOOLS
from raml_trl.runtime.completion import SHELLS, completion_script
from raml_trl.runtime.errors import USER_ERROR, InputError, suggestion
from raml_trl.runtime.recipes import copy_recipe, output_of, recipes_page

_LIBRARIES = ("torch", "trl", "transformers", "accelerate")


def main() -> None:
    """Run the command named by the first argument. The command parses the other arguments itself."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
        sys.argv[1:] = [name, *arguments]
    if name.replace("-", "_") in COMMANDS:
        command = name.replace("-", "_")
        del sys.argv[0]
        sys.path.append("")  # as with python -m, functions that a recipe names may lie in the current directory
        runpy.run_module(f"raml_trl.{command}", run_name="__main__", alter_sys=True)
        return
    try:
        sys.stdout.write(_answer(name, arguments))
    except InputError as error:
        _refuse(str(error))


def _answer(name: str, arguments: Sequence[str]) -> str:
    """Return the output of an option of the program, or of a tool, which makes no run."""
    asks_for_help = any(argument in ("-h", "--help") for argument in arguments)
    if name in ("-h", "--help") or (name == "help" and not arguments):
        return help_page()
    if name in ("--version", "-V"):
        return versions()
    if name not in TOOLS:
        raise InputError(f"unknown command {name[:100]}{_near(name[:100]) or '; raml-trl --help lists the commands'}")
    if asks_for_help:
        return f"{TOOLS[name]}\n"
    least, most = {"recipes": (0, 1), "init": (1, 2), "completion": (1, 1)}[name]
    if not least <= len(arguments) <= most or any(argument.startswith("-") for argument in arguments):
        raise InputError(f"usage: {TOOLS[name].partition(': ')[2]}")
    if name == "recipes":
        return recipes_page(*arguments)
    if name == "init":
        return _init(*arguments)
    [shell] = arguments
    if shell not in SHELLS:
        raise InputError(f"completion: there is no script for {shell[:100]}: choose {', '.join(SHELLS)}")
    return completion_script(shell)


def _near(name: str) -> str:
    """Return "; did you mean ...?" with the commands whose names contain or resemble `name`, or ""."""
    if name.startswith("-"):
        return suggestion(name, ["--help", "--version"])
    name = name.replace("-", "_")
    words = sorted({word for command in COMMANDS for word in command.split("_")})
    if name not in words:
        if similar := suggestion(name, [*COMMANDS, *TOOLS]):
            return similar
        name = next(iter(difflib.get_close_matches(name, words, n=1)), "")
    near = [command for command in COMMANDS if name in command.split("_")]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _init(name: str, directory: str = ".") -> str:
    # It imports pyarrow, which the other tools do not need.
    from raml_trl.runtime.next_command import first_recipe

    copies = dict(copy_recipe(name, Path(directory)))
    path = next(iter(copies))
    lines = [f"Results: {path if len(copies) == 1 else f'{path.parent}, {len(copies)} recipes'}"]
    outputs = [output for copy in copies if (output := output_of(copy)) is not None]
    if outputs:
        who = "The copy keeps its output_dir" if len(copies) == 1 else "The copies keep their output_dir, such as"
        lines.append(f"Note: {who} {outputs[0]}: give an edited copy another one, because a directory holds one run.")
    path = first_recipe(copies) or path
    if copies[path] == "sweep" or output_of(path) is not None:
        lines.append(f"Next: raml-trl {copies[path]} {shlex.quote(str(path))} --dry_run")
    return "\n".join(lines) + "\n"


def help_page() -> str:
    """Return the help of the program: a line for each command, grouped by stage."""
    groups = {**STAGES, "Recipes and shell": TOOLS}
    width = max(len(name) for group in groups.values() for name in group)
    lines = ["usage: raml-trl COMMAND [RECIPE] [--SETTING VALUE ...]", ""]
    for title, group in groups.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {about}" for name, about in group.items()), ""]
    lines += [
        "raml-trl COMMAND --help lists the settings of a command, --help_all also those of TRL. --dry_run checks a",
        "start. RECIPE is a YAML file or the name of a packaged recipe. Hyphens and underscores are the same.",
        "raml-trl --version prints the versions of raml_trl, its libraries and Python.",
    ]
    return "\n".join(lines) + "\n"


def versions() -> str:
    """Return the versions of raml_trl, of the libraries on which its results depend, and of Python, on one line."""
    installed = [f"{name} {_version(name)}" for name in _LIBRARIES]
    return f"raml-trl {raml_trl.__version__} ({', '.join([*installed, f'Python {platform.python_version()}'])})\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"raml-trl: {message}\n")
    sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
