"""Finds, lists and copies recipes: YAML files of settings that come with the package.

The name of a recipe is its path below `recipes/` without the suffix, such as `tiny/demo/grpo`. Wherever a command takes
the path of a recipe, it also takes such a name. If the name is also the path of a file of the user, that file is read.
The configurations of `accelerate launch` come with the package, too, and can be copied.
"""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import raml_trl
from raml_trl.runtime.commands import COMMANDS
from raml_trl.runtime.errors import InputError, printable, shown, suggestion

_PACKAGE = Path(raml_trl.__file__).parent
_SUFFIX = ".yaml"
_LAUNCHERS = "accelerate_configs"
_LISTED_FIRST = ("tiny/demo/", "gsm8k/")
_WIDEST = 1_000_000  # if the output is no terminal, for example a pipe into grep
# Most recipes are named after their command; these are named after its data, model or stage.
_OF_FOLDER = {"data": "prepare_data", "benchmarks": "evaluate", "sweeps": "sweep"}
_OF_FIRST_WORD = {
    "model": "build_model",
    "data": "prepare_data",
    "sample": "sample_trajectories",
    "sft": "train_sft",
    "grpo": "train_grpo",
    "eval": "evaluate",
    "compare": "compare_rules",
}


@dataclass(frozen=True)
class Recipe:
    """A packaged recipe, the command that reads it, and the first sentence of its first comment."""

    name: str
    command: str
    about: str


def recipes_root() -> Path:
    """Return the directory of the packaged recipes: inside an installed package, beside the package in a checkout."""
    return _packaged("recipes")


def _packaged(folder: str) -> Path:
    installed = _PACKAGE / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def command_of(path: Path) -> str | None:
    """Return the command that reads a recipe, inferred from the names of its file and folder.

    The result is None if these names fit no command.
    """
    if path.parent.name in _OF_FOLDER:
        return _OF_FOLDER[path.parent.name]
    if path.stem in COMMANDS:
        return path.stem
    named = [command for command in COMMANDS if path.stem.startswith(command) and command not in _OF_FIRST_WORD]
    return max(named, key=len) if named else _OF_FIRST_WORD.get(path.stem.partition("_")[0])


def list_recipes() -> list[Recipe]:
    """Return all packaged recipes, sorted by name."""
    named = [(name, command_of(path), path) for name, path in _files().items()]
    return [Recipe(name, command, _first_sentence(path)) for name, command, path in named if command is not None]


def find_recipe(text: str) -> Path:
    """Return the path of the recipe `text`, which is the path of a file or the name of a packaged YAML file.

    A file that exists but cannot be read is no error here. Reading it fails later, with the reason.

    Raises:
        InputError: if there is neither, or `text` is a directory or the name of a packaged folder.
    """
    if os.path.isdir(text):
        raise InputError(f"config file {text} cannot be read: it is a directory, and a recipe is a YAML file")
    if os.path.exists(text):
        return Path(text)
    name = text.removeprefix("./").removeprefix("recipes/").removesuffix(_SUFFIX)
    files = _files()
    if name in files:
        return files[name]
    if any(other.startswith(f"{name}/") for other in files):
        reason = f"it is a folder of recipes, which `raml-trl recipes {name}` lists"
        raise InputError(f"config file {text} cannot be read: {reason}")
    try:
        os.stat(text)
    except FileNotFoundError as error:
        near = suggestion(name[:100], files) or "; `raml-trl recipes` lists the packaged recipes"
        raise InputError(f"config file {text} cannot be read: {error.strerror}{near}") from error
    except (OSError, ValueError):  # reading it fails as well
        pass
    return Path(text)


def find_folder(text: str) -> str:
    """Return the path of a packaged folder that a recipe names as `recipes/...`; return any other text unchanged."""
    folder = recipes_root() / text.removeprefix("recipes/")
    packaged = text.startswith("recipes/") and folder in {path.parent for path in _files().values()}
    return str(folder) if packaged and not os.path.exists(text) else text


def recipes_page(text: str = "") -> str:
    """Return one line for each packaged recipe whose name contains `text`: its name, its command, a sentence about it.

    The recipes to start with come first. If the output is a terminal, lines are cut to its width.

    Raises:
        InputError: if no recipe has `text` in its name.
    """
    known = list_recipes()
    found = [recipe for recipe in known if text in recipe.name]
    if not found:
        near = suggestion(text[:100], [recipe.name for recipe in known])
        raise InputError(f"no recipe has {shown(text)} in its name{near}")
    found.sort(key=lambda recipe: [not recipe.name.startswith(folder) for folder in _LISTED_FIRST])
    widths = [max(len(getattr(recipe, column)) for recipe in found) for column in ("name", "command")]
    lines = [f"{recipe.name:<{widths[0]}}  {recipe.command:<{widths[1]}}  {recipe.about}" for recipe in found]
    width = shutil.get_terminal_size((_WIDEST, 24)).columns
    lines = [line.rstrip() if len(line) <= width else f"{line[: width - 1]}…" for line in lines]
    if not text:
        lines += ["", "raml-trl recipes gsm8k lists only the recipes with gsm8k in their names."]
    return "\n".join(lines) + "\n"


def copy_recipe(name: str, directory: Path) -> list[tuple[Path, str]]:
    """Copy a packaged recipe, or all recipes of a folder, into `directory`, which is created if necessary.

    If a recipe contains its own path or that of another copied recipe, its copy contains the path of the copy instead.
    The name `accelerate_configs` copies all configurations of `accelerate launch`, and a name such as
    `accelerate_configs/ddp` copies one of them.

    Returns:
        The path of each copy and the command that reads it.

    Raises:
        InputError: if there is no such recipe, a file would be overwritten, or the directory cannot be written.
    """
    name = name.strip("/").removeprefix("recipes/").removesuffix(_SUFFIX)
    known = {recipe.name: (recipes_root() / f"{recipe.name}{_SUFFIX}", recipe.command) for recipe in list_recipes()}
    for path in sorted(_packaged(_LAUNCHERS).glob(f"*{_SUFFIX}")):
        known[f"{_LAUNCHERS}/{path.stem}"] = path, "accelerate launch"
    chosen = {other: known[other] for other in known if name in (other, other.rpartition("/")[0])}
    if not chosen:
        folders = {other.rpartition("/")[0] for other in known}
        near = suggestion(name[:100], [*known, *sorted(folders)])
        raise InputError(f"there is no recipe {shown(name)}{near or '; `raml-trl recipes` lists them'}")
    if directory.suffix == _SUFFIX:
        raise InputError(f"{directory} has the name of a file: give a directory, the copy keeps the name of its recipe")
    copies = {other: directory / source.name for other, (source, _) in chosen.items()}
    for copy in copies.values():
        if os.path.lexists(copy):
            raise InputError(f"{copy} exists already: give another directory, or remove the file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for other, (source, _) in chosen.items():
            text = source.read_text(encoding="utf-8")
            for named, copy in copies.items():
                text = text.replace(f"recipes/{named}{_SUFFIX}", shlex.quote(str(copy)))
            copies[other].write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise InputError(f"{printable(str(directory))} cannot be written: {error}") from error
    return [(copies[other], command) for other, (_, command) in chosen.items()]


def output_of(path: Path) -> str | None:
    """Return the `output_dir` that a packaged recipe sets, or None if it sets none.

    The recipes in `benchmarks/` set none, so the user must give `output_dir` and the model on the command line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.split()[1] for line in lines if line.startswith("output_dir:")), None)


def _files() -> dict[str, Path]:
    """Return the packaged YAML files by name, sorted: the recipes, and files that these name."""
    root = recipes_root()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob(f"*{_SUFFIX}"))}


def _first_sentence(path: Path) -> str:
    """Return the first sentence of the comment at the start of a recipe."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(re.compile("# *[^ ]").match, lines))
    return re.split(r"(?<=\.) ", comment, maxsplit=1)[0]
