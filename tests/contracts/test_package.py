"""A wheel built from the checkout works outside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from raml_trl.runtime.recipes import recipes_page
from tests.helpers import REPOSITORY


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, REPOSITORY], check=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("raml_trl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"raml_trl/py.typed", "raml_trl/render/templates/report.html.j2"} <= set(names)
    recipes = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "recipes").rglob("*.yaml")}
    assert {f"raml_trl/{name}" for name in recipes} <= set(names)
    assert not [name for name in names if "/results/" in name]
    assert not [name for name in names if name.startswith("tests")]

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import raml_trl; print(raml_trl.__file__, raml_trl.SubsetGRPOTrainer.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(site / "raml_trl" / "__init__.py"), "SubsetGRPOTrainer"]

    def start(*arguments: str) -> str:
        command = [site / "bin" / "raml-trl", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert start("recipes") == recipes_page()
    assert start("prepare_data", "tiny/demo/data_test", "--output_dir", "out").startswith("Results: out\n")
    assert (tmp_path / "out" / "questions-00000.parquet").is_file()
    start("init", "tiny/demo/data_test", "mine")
    assert "\noutput_dir  out, a complete run: nothing to do\n" in start(
        "prepare_data", "mine/data_test.yaml", "--output_dir", "out", "--dry_run"
    )
