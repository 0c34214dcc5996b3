"""A small sweep file."""

from pathlib import Path

import yaml

from raml_trl.sweeps.sweep_file import Sweep, read_sweep


def sweep_of(tmp_path: Path, **content: object) -> Sweep:
    """Write and read a sweep file with `content`."""
    default = {"method": "grid", "program": "p.py", "metric": {"name": "score"}, "parameters": {"a": {"value": 1}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**default, **content}, sort_keys=False))
    return read_sweep(tmp_path / "s.yaml")
