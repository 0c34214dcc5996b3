"""Makes a small sweep file for tests."""

from pathlib import Path

import yaml

from raml_trl.sweeps.sweep_file import Sweep, read_sweep


def sweep_of(tmp_path: Path, **content: object) -> Sweep:
    """Write a small sweep file, with `content` in place of its defaults, and read it."""
    default = {"method": "grid", "program": "p.py", "metric": {"name": "score"}, "parameters": {"a": {"value": 1}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**default, **content}, sort_keys=False))
    return read_sweep(tmp_path / "s.yaml")
