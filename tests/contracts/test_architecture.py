"""Rules of the architecture that import-linter cannot check: light imports, no `print`, overrides that call `super`.

`make lint` checks the import contracts of `setup.cfg`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from raml_trl.runtime.commands import COMMANDS, TOOLS
from tests.helpers import REPOSITORY

PACKAGE = REPOSITORY / "raml_trl"
LIGHT_ROOMS = ("runtime", "render", "grading", "evaluation", "sweeps", "reports")
HEAVY = ("torch", "trl", "transformers", "datasets")
# These modules need TRL, whose parser they use for the command line.
PARSERS = {"raml_trl.runtime.parser", "raml_trl.runtime.cli"}
# Modules that need a package of an optional extra.
NEED_EXTRAS = {"raml_trl.reports.wandb_panels": "wandb_workspaces"}


def modules(directory: Path) -> Iterator[str]:
    """Yield the dotted names of the modules below a directory of the package."""
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.children
def test_light_rooms_import_no_torch() -> None:
    names = {"raml_trl.prompts", *(name for room in LIGHT_ROOMS for name in modules(PACKAGE / room))} - PARSERS
    names -= {name for name, extra in NEED_EXTRAS.items() if find_spec(extra) is None}
    imports = "\n".join(f"import {name}\nreport({name!r})" for name in sorted(names))
    code = f"""
import sys
def report(name):
    heavy = [package for package in {HEAVY} if package in sys.modules]
    if heavy:
        print(name, heavy)
        sys.exit(0)
{imports}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_nothing_is_printed() -> None:
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if _is_print(node)]
        assert not calls, path


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def test_every_command_is_offered() -> None:
    commands = {path.stem for path in PACKAGE.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(COMMANDS) == commands - {"__main__"}
    assert not set(COMMANDS) & set(TOOLS)


@pytest.mark.parametrize(
    ("module", "ours", "base", "departures"),
    [("trainer", "SubsetGRPOTrainer", "GRPOTrainer", 5), ("rloo", "SubsetRLOOTrainer", "RLOOTrainer", 3)],
)
def test_departures_from_trl_are_marked_and_call_super(module: str, ours: str, base: str, departures: int) -> None:
    source = (PACKAGE / "grpo" / f"{module}.py").read_text()
    assert source.count("# RaML:") >= departures
    [trainer] = [node for node in ast.parse(source).body if getattr(node, "name", None) == ours]
    import trl

    inherited = getattr(trl, base)
    overrides = [node for node in trainer.body if isinstance(node, ast.FunctionDef) and hasattr(inherited, node.name)]
    assert {node.name for node in overrides} >= {"_prepare_inputs"}
    for node in overrides:
        assert f"super().{node.name}(" in ast.unparse(node), node.name
