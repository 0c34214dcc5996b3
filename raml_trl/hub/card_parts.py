"""Where a run came from, for its card: the command and the recipe that it was made with, and the commit of raml_trl."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raml_trl import __version__
from raml_trl.render.tables import code_block


def recipe(record: Mapping[str, Any]) -> str:
    """Markdown that says how to make the run of a `run.json` again.

    What `run.json` keeps of the settings has no tokens and no keys. Of an absolute path only the name is shown.
    """
    settings = {name: _shown(value) for name, value in record["settings"].items()}
    command = f"python -m raml_trl.{record['command']} --config recipe.yaml --output_dir OUTPUT_DIR"
    content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"{code_block(command, 'bash')}\n\nwith this `recipe.yaml`:\n\n{code_block(content.rstrip(), 'yaml')}"


def version() -> str:
    """Of raml_trl, with its commit where it runs from a checkout, and whether that was changed."""
    package = Path(__file__).parents[1]
    root = package.parent
    if not (root / ".git").exists():
        return __version__
    git = ["git", "-C", str(root), "--no-optional-locks"]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", package.name]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of somebody else, which git refuses
        return __version__
    return f"{__version__}, commit {commit}{' with changes' if changed else ''}"


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
