"""The last lines of a command: where its results are, and one command that can follow.

The recipes in a folder belong together: one evaluates the model that another trains. Therefore, the next command runs a
recipe of the same folder that reads the results of this command. If another input of that recipe does not exist yet,
the next command runs the recipe that makes this input. If no recipe of the folder reads the results, and they are those
of a training, an evaluation, a comparison or a sweep, the next command is `report`, which writes a page about them.
After a model or data that were made without a recipe, it is `recipes`, which lists the recipes that can use them, and a
note says by which setting.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import Settings, read_yaml
from raml_trl.runtime.recipes import command_of, find_recipe, list_recipes
from raml_trl.runtime.runs import complete_record, is_complete, is_run

_PAGES = ("report.html", "page.html", "claims.md", "sweep.md")
_REPORTED = {
    "train_sft": ("runs", "SFT"),
    "train_grpo": ("runs", "GRPO"),
    "evaluate": ("evaluations", "model"),
    "compare": ("evaluations", ""),  # their names are in the record of the comparison
    "sweep": ("sweeps", "sweep"),
}
"""For each command whose results `report` shows, the setting of `report` and a name for the results."""

_TRAINING = ("train_sft", "train_grpo")
_PREPARING = {
    "build_model": "model_name_or_path",
    "prepare_data": "dataset_name",
    "sample_trajectories": "dataset_name",
}
"""For each command that makes a model or data, the setting by which trainings and evaluations read its results."""


@dataclass(frozen=True)
class _Step:
    """A recipe of the folder: its command, its name as the user would write it, and the paths that it names."""

    command: str
    name: str
    output: Path
    inputs: tuple[Path, ...]


def last_lines(command: str, directory: Path, recipe: str | None) -> list[str]:
    """Return the lines that a command prints when its run is complete.

    Args:
        command: the command that has ended.
        directory: its `output_dir`.
        recipe: its recipe as the user gave it; None if there is none.
    """
    lines = [f"Results: {directory}"]
    lines += [f"Page: {directory / name}" for name in _PAGES if (directory / name).is_file()]
    if command in _PREPARING and recipe is None:
        setting = shlex.join([f"--{_PREPARING[command]}", str(directory)])
        lines.append(f"Note: A recipe that trains or evaluates reads it with {setting}")
    try:
        following = next_command(command, directory, recipe)
    except InputError:  # a damaged file of another run is no fault of this one
        following = None
    return lines if following is None else [*lines, f"Next: {following}"]


def next_command(command: str, directory: Path, recipe: str | None) -> str | None:
    """Return a command that can follow: all its inputs exist, and its results do not exist yet. None if there is none.

    The arguments are those of `last_lines`.
    """
    steps = [] if recipe is None else list(_steps(recipe))
    readers = [step for step in steps if directory in step.inputs and not os.path.exists(step.output)]
    if command != "prepare_data":  # a model is trained further before it is evaluated
        readers.sort(key=lambda step: step.command not in _TRAINING)
    for reader in readers:
        runnable = _first_runnable(reader, steps, set())
        if runnable is not None:
            return _written(runnable.command, runnable.name)
    if command in _PREPARING and recipe is None:
        return _written("recipes")
    if command not in _REPORTED or directory.name in ("", ".."):  # the report would need the name of the directory
        return None
    page = directory.with_name(f"{directory.name}_report")
    if page.exists():
        return None
    setting, name = _REPORTED[command]
    if command == "compare":
        shown = complete_record(str(directory), command)["settings"].get("evaluations", [])
    elif command == "evaluate" and not _has_samples(directory):  # of several models, or of none
        # A name of a trial, such as seed=0, has the sign that ends the name of an evaluation.
        shown = [f"{path.name.replace('=', ' ')}={path}" for path in sorted(directory.iterdir()) if _has_samples(path)]
    else:
        shown = [f"{name}={directory}"]
    return _written("report", f"--{setting}", *shown, "--output_dir", str(page)) if shown else None


def first_recipe(copies: Mapping[Path, str]) -> Path | None:
    """Return the recipe to start first, among recipes in one folder; None if no recipe has all its inputs.

    This is the first recipe that trains, if its inputs exist. If an input is missing, it is the recipe that makes this
    input or, in turn, an input of that recipe. If no training can be reached, it is the first recipe that can run.

    Args:
        copies: the recipes, each with its command.
    """
    steps = [step for step in _steps(str(next(iter(copies)))) if Path(step.name) in copies]
    goals = sorted(steps, key=lambda step: copies[Path(step.name)] not in _TRAINING)
    runnable = (_first_runnable(goal, steps, set()) for goal in goals)
    return next((Path(step.name) for step in runnable if step is not None), None)


def with_maker(message: str, recipe: str | None) -> str:
    """Return an error message. If it says that a directory is missing, add the command that makes the directory.

    The message is returned unchanged if it reports another error, or if no recipe makes the directory.

    Args:
        message: the error message, in one line.
        recipe: the recipe that the user gave; None if there is none. A recipe in its folder that makes the directory is
            preferred to the other packaged recipes.
    """
    if "there is no such directory" not in message:
        return message
    words = re.split(r"[\s:;]+", message)
    with suppress(InputError):  # the recipe itself may be missing
        for step in chain(() if recipe is None else _steps(recipe), _packaged_steps()):
            if str(step.output) in words:
                # The directory that is similar may be the output of this command, which was made before the checks.
                message = re.sub(r"; did you mean [^;]*\?$", "", message)
                return f"{message}; `{_written(step.command, step.name)}` makes it"
    return message


def _first_runnable(step: _Step, steps: list[_Step], seen: set[Path]) -> _Step | None:
    """Return `step` if its inputs exist, or a step that makes one of them and can run; None if none can."""
    seen.add(step.output)
    missing = [path for path in step.inputs if not _is_usable(path)]
    if not missing:
        return step
    makers = [maker for maker in steps if maker.output == missing[0] and maker.output not in seen]
    return _first_runnable(makers[0], steps, seen) if makers else None


def _steps(recipe: str) -> Iterator[_Step]:
    """Yield the recipes in the folder of `recipe` that have an `output_dir`, sorted by name."""
    path = find_recipe(recipe)
    head, slash, _ = recipe.rpartition("/")
    for sibling in sorted(path.parent.glob("*.yaml")):
        yield from _step(sibling, f"{head}{slash}{sibling.name if recipe.endswith('.yaml') else sibling.stem}")


def _packaged_steps() -> Iterator[_Step]:
    """Yield the packaged recipes that have an `output_dir`, sorted by name."""
    for recipe in list_recipes():
        yield from _step(find_recipe(recipe.name), recipe.name)


def _step(path: Path, name: str) -> Iterator[_Step]:
    """Yield the recipe in the file `path`, which the user would write as `name`, if it has an `output_dir`."""
    command = command_of(path)
    if command is None or command == "sweep":
        return
    try:
        settings = read_yaml(path)
    except InputError:  # a file that this command has not been asked to read
        return
    output = settings.pop("output_dir", None)
    if isinstance(output, str) and output:
        yield _Step(command, name, Path(output), tuple(_inputs(settings, Path(output))))


def _inputs(settings: Settings, output: Path) -> Iterator[Path]:
    """Yield the paths in the settings of a recipe that lie in the same top directory as its output.

    A path may follow a name, as in `SFT=runs/sft`, or be followed by a split, as in `runs/data@test`.
    """
    for value in settings.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                path = Path(text.rpartition("=")[2].partition("@")[0])
                if path.parts[:1] == output.parts[:1]:
                    yield path


def _is_usable(path: Path) -> bool:
    """Return whether a path exists and is not an unfinished run."""
    return os.path.exists(path) and (is_complete(path) or not is_run(str(path)))


def _has_samples(directory: Path) -> bool:
    return (directory / "samples.parquet").is_file()


def _written(*words: str) -> str:
    return shlex.join(["raml-trl", *words])
