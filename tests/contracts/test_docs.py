"""In the documentation, links resolve, commands parse, code runs and errors read as quoted; the site builds."""

import ast
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from raml_trl.check_trl import CheckTRLConfig
from raml_trl.compare import CompareConfig
from raml_trl.runtime.cli import RunOptions, StrictParser
from raml_trl.runtime.commands import COMMANDS, TOOLS
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.recipes import find_recipe
from raml_trl.sweep import SweepConfig, name_the_file
from raml_trl.training.config import CheckedModelConfig
from raml_trl.wandb_report import WandbReportConfig
from tests.contracts.test_recipes import READERS
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

PAGES = [REPOSITORY / name for name in ("README.md", "recipes/README.md", "benchmarks/README.md", "CONTRIBUTING.md")]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
COMMAND_READERS = {
    "build_model": READERS["model"],
    "prepare_data": READERS["data"],
    "sample_trajectories": READERS["sample"],
    "train_sft": READERS["sft"],
    "train_grpo": READERS["grpo"],
    "evaluate": READERS["eval"],
    "compare": [CompareConfig],
    "pseudo_gradient": READERS["pseudo"],
    "loss_landscape": READERS["loss"],
    "trajectory_pruning": READERS["trajectory"],
    "report": READERS["report"],
    "plan": READERS["plan"],
    "weigh_claims": READERS["weigh"],
    "compare_rules": READERS["compare"],
    "wandb_report": [WandbReportConfig],
    "check_trl": [CheckTRLConfig],
    "sweep": [SweepConfig],
}
PLACEHOLDER = re.compile(r"(raml_trl/)?[A-Z_]+(\.yaml|\.py)?|accelerate_configs/X\.yaml")
_COMMAND = re.compile(r"(?:-m raml_trl\.|raml-trl )(\w+)(?= )([^`\n#|;]*)")
_CONSOLE = re.compile(r"^\$ raml-trl (\w+) (.*)\n((?:(?!\$ |```).*\n)+)", re.MULTILINE)


# Starts a command as if the extras were not installed.
WITHOUT_EXTRAS = """
import runpy, sys
sys.modules |= dict.fromkeys(["vllm", "wandb", "trackio", "deepspeed"])
runpy.run_module("raml_trl.{}", run_name="__main__", alter_sys=True)
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_settings_is_up_to_date() -> None:
    program = runpy.run_path(str(REPOSITORY / "docs/settings_page.py"))
    assert (REPOSITORY / "docs/settings.md").read_text() == program["page"]()


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            dead.append(target)
    assert dead == []


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands on a page with their arguments, except commands that are shown with the error they end in."""
    text = _CONSOLE.sub(lambda match: "" if match[3].startswith("raml-trl ") else match[0], page.read_text())
    for command, rest in _COMMAND.findall(re.sub(r"\\\n\s*", "", text)):
        words = shlex.split(rest.split(" --config_file ")[0])
        if command not in TOOLS and words and (words[0].startswith("--") or is_recipe(words[0])):
            yield command, words


def is_recipe(word: str) -> bool:
    """Return whether a word of a page names a recipe, and is not a placeholder such as RECIPE."""
    try:
        return find_recipe(word).is_file()
    except InputError:
        return False


def parse(command: str, arguments: list[str]) -> tuple[Any, ...]:
    readers = COMMAND_READERS[command]
    if command == "sweep":
        arguments = name_the_file(arguments)
    # Override settings that need a GPU or a tracker, which this machine may not have.
    portable = ["--use_cpu", "true", "--report_to", "none"] if CheckedModelConfig in readers else []
    return StrictParser([*readers, RunOptions], allow_abbrev=False).parse([*arguments, *portable])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for command, arguments in commands(page):
        assert command in COMMANDS
        given = dict(pairwise(arguments))
        if not PLACEHOLDER.fullmatch(given.get("--config", "")) and "--help" not in arguments:
            parse(command, arguments)
    for launcher in re.findall(r"--config_file (\S+)", page.read_text()):
        assert PLACEHOLDER.fullmatch(launcher) or (REPOSITORY / launcher).is_file(), launcher


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    named = re.findall(
        r"(?<![\w./-])((?:recipes|accelerate_configs|tests|raml_trl|benchmarks)/[\w./-]+\.(?:ya?ml|json|py|sh|svg))\b",
        page.read_text(),
    )
    assert [name for name in named if not PLACEHOLDER.fullmatch(name) and not (REPOSITORY / name).is_file()] == []


def test_pages_contain_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 50


@pytest.mark.children
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_runs(page: Path, model_dir: str, tmp_path: Path) -> None:
    """Run each block, with a tiny model for the demo's. Blocks that import missing packages are only parsed."""
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        missing = [name for name in imported if importlib.util.find_spec(name.partition(".")[0]) is None]
        if "..." in code or missing:
            continue
        program = code.replace('"runs/demo/sft"', repr(model_dir))
        done = subprocess.run([*python(), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown = re.search(re.escape(code) + r"```\n\n```\n(.*?)```", page.read_text(), re.DOTALL)
        if shown:
            assert done.stdout == shown[1]


def refusal(command: str, arguments: list[str]) -> str | None:
    try:
        StrictParser(COMMAND_READERS[command], allow_abbrev=False).parse(arguments)
    except InputError as error:
        return str(error)
    return None


ERRORS = _CONSOLE.findall((REPOSITORY / "docs/faq.md").read_text())


def test_parsing_errors_read_as_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    checked = 0
    for command, arguments, shown in ERRORS:
        if "bf16" in arguments:  # the error depends on the machine
            continue
        refused = refusal(command, shlex.split(arguments))
        if refused is not None:
            assert shown == f"raml-trl {command}: {refused}\n"
            checked += 1
    assert checked >= 9


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments", "shown"), ERRORS)
def test_errors_read_as_quoted(command: str, arguments: str, shown: str, tmp_path: Path) -> None:
    if not (REPOSITORY / "runs/demo/grpo/summary.json").is_file():
        pytest.skip("after make demo")
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    (tmp_path / "runs").mkdir()
    shutil.copytree(REPOSITORY / "runs/demo", tmp_path / "runs/demo", ignore=shutil.ignore_patterns("checkpoint-*"))
    done = subprocess.run(
        [*python(), "-c", WITHOUT_EXTRAS.format(command), *shlex.split(arguments)],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    said, *results = shown.splitlines()
    assert done.stderr.splitlines()[-1] == said
    assert done.stdout.splitlines()[: len(results)] == results


@pytest.mark.children
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site/method/index.html").is_file()
    assert (tmp_path / "site/benchmarks/results/likelihood_along.svg").is_file()
