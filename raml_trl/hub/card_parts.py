"""Parts that the cards of models and datasets share: recipe, version, tables of facts and metrics, citation."""

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from raml_trl import __version__
from raml_trl.render.tables import code_block, code_span, decimal_places, escape_for_hub, markdown_table
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.runs import RunRecord, is_run, read_record

_PACKAGE = Path(__file__).parents[1]

CARD = "README.md"
NO_REPO = "USER/NAME"
"""Placeholder in a card for the repository name of a model or dataset that is not on the Hub."""

BIBTEX = """\
@article{liu2025deciphering,
  title   = {Deciphering Trajectory-Aided {LLM} Reasoning: An Optimization Perspective},
  author  = {Junnan Liu and Hongwei Liu and Linchen Xiao and Shudong Liu and Taolin Zhang and Zihan Ma and
             Songyang Zhang and Kai Chen},
  journal = {arXiv preprint arXiv:2505.19815},
  year    = {2025}
}"""
PAPER = {
    "title": "Deciphering Trajectory-Aided LLM Reasoning: An Optimization Perspective",
    "id": "2505.19815",
    "citation": BIBTEX,
}
"""The RaML paper, in the form of the `_paper` attribute of TRL's trainers."""

Metrics = Mapping[str, Mapping[str, float]]
"""Metrics by name: the `mean` of each, and the ends `low` and `high` of its 95 % interval."""


def write_card(path: Path, text: str) -> None:
    """Write the text of a card to a file. A reader sees either the old text or the new one, never a part."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def recipe(
    command: str, settings: Mapping[str, object], *, output: str = "OUTPUT_DIR", file: str = "recipe.yaml"
) -> str:
    """Return Markdown that explains how to repeat a run.

    Args:
        command: the name of the command, such as `train_sft`.
        settings: the settings in `run.json`, which contain no access tokens. The recipe has only the last part of
            absolute paths.
        output: the `output_dir` in the command.
        file: the file name of the recipe.
    """
    shown = {name: _without_path(value) for name, value in settings.items()}
    call = f"raml-trl {command} {file} --output_dir {shlex.quote(output)}"
    content = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
    return f"{code_block(call, 'bash')}\n\nwith this `{file}`:\n\n{code_block(content, 'yaml')}"


def reproduction(directory: Path) -> str:
    """Return Markdown with the recipes that repeat the run in `directory` and the runs whose results it reads.

    The recipes are in the order in which the runs must be repeated. Runs that are not on this machine, and data sets
    and models of the Hub, have no recipe.
    """
    *before, (_, last) = _with_inputs(directory, set())
    own = recipe(last["command"], last["settings"])
    parts = []
    for number, (path, record) in enumerate(before, start=1):
        command, name = record["command"], str(_without_path(str(path)))
        made = recipe(command, record["settings"], output=name, file=f"{number}_{command}.yaml")
        parts.append(f"{number}. `{command}` makes {code_span(name)}:\n\n{made}")
    return "\n\n".join([*parts, f"{len(parts) + 1}. `{last['command']}` makes the model:\n\n{own}"] if parts else [own])


def _with_inputs(directory: Path, seen: set[Path]) -> list[tuple[Path, RunRecord]]:
    """Return the run in `directory` and all runs that it reads, directly or not, each after its own inputs."""
    seen.add(directory.resolve())
    record = read_record(directory)
    inputs = [Path(str(record["settings"][name])) for name in record["inputs"]]
    before = [
        run for path in inputs if is_run(str(path)) and path.resolve() not in seen for run in _with_inputs(path, seen)
    ]
    return [*before, (directory, record)]


def plain_name(text: str) -> str:
    """Return a name for a heading and for metadata: characters that Markdown or HTML could interpret become `_`."""
    return re.sub(r"[^\w .+-]", "_", text)


def version(package: Path = _PACKAGE) -> str:
    """Return the version of raml_trl.

    If `package`, the directory of raml_trl, is in a git checkout, add the commit and whether files have changed since.
    """
    root = package.parent
    if not (root / ".git").exists():
        return __version__
    git = ["git", "-C", str(root), "--no-optional-locks"]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", package.name]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # git is missing, or refuses a checkout that another user owns
        return __version__
    return f"{__version__}, commit {commit}{' with changes' if changed else ''}"


def facts_table(facts: Iterable[tuple[str, object]], settings: Mapping[str, object]) -> str:
    """Return a Markdown table with a row for each fact, and then for each setting, whose name is shown as code."""
    rows = [(escape_for_hub(name), escape_for_hub(str(value))) for name, value in facts]
    rows += [(f"`{name}`", escape_for_hub(str(value))) for name, value in settings.items()]
    return markdown_table([("", "value"), *rows], aligned=False)


def metrics_table(metrics: Metrics) -> str:
    """Return a Markdown table of metrics with their 95 % intervals."""
    rows = [
        (f"`{name}`", f"{value['mean']:.{places}f}", f"{value['low']:.{places}f} to {value['high']:.{places}f}")
        for name, value in metrics.items()
        for places in [decimal_places(value["mean"], value["low"], value["high"])]
    ]
    return markdown_table([("metric", "mean", "95 % interval"), *rows], aligned=False)


def _without_path(value: object) -> object:
    if isinstance(value, list):
        return [_without_path(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
