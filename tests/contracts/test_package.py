"""A wheel built from the checkout works outside it, and a release has one version."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import raml_trl
from tests.helpers import REPOSITORY
from tests.helpers.try_wheel import check_contents, check_release, release_notes, try_program

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.y*ml"))


@pytest.mark.slow
@pytest.mark.children
def test_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, REPOSITORY], check=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("raml_trl-*.whl")
    check_contents(wheel)

    site, user = tmp_path / "site", tmp_path / "user"
    user.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import raml_trl; print(raml_trl.__file__, raml_trl.SubsetGRPOTrainer.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=user, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(site / "raml_trl" / "__init__.py"), "SubsetGRPOTrainer"]
    assert len(list(try_program(site / "bin" / "raml-trl", user, environment))) == 10


def test_the_version_has_an_entry_in_the_changelog_and_the_citation() -> None:
    assert check_release(f"v{raml_trl.__version__}") == check_release(None)
    with pytest.raises(ValueError, match="the tag is v9, but the version of the package is"):
        check_release("v9")


def test_release_notes_are_the_entries_of_the_newest_version() -> None:
    changelog = "# Changelog\n\n## Unreleased\n\n## 2.0 (2026-01-02)\n\n- a\n\n### Fixed\n- b\n\n## 1.0\n\n- c\n"
    citation = "type: software\nversion: 2.0\ndate-released: 2026-01-02\nauthors:\n"
    assert release_notes("2.0", changelog, citation) == "- a\n\n### Fixed\n- b\n"
    for changed in (
        ("1.0", changelog, citation),
        ("2.0", changelog.replace(" (2026-01-02)", ""), citation),
        ("2.0", changelog.replace("- a\n\n### Fixed\n- b\n", ""), citation),
        ("2.0", changelog, citation.replace("01-02", "01-03")),
        ("2.0", changelog, citation.replace("2.0", "1.0")),
        ("2.0", "# Changelog\n", citation),
    ):
        with pytest.raises(ValueError, match=r"CHANGELOG|CITATION"):
            release_notes(*changed)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_that_exist(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert {"name", True, "permissions", "jobs"} <= set(workflow)  # YAML reads the key `on` as true
    targets = set(re.findall(r"^([\w-]+)(?:%)?:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(job["runs-on"] and job["timeout-minutes"] for job in workflow["jobs"].values())
    assert all(("run" in step) != ("uses" in step) for step in steps)
    commands = "\n".join(step.get("run", "") for step in steps)
    for target in re.findall(r"^make ([\w-]+)", commands, re.MULTILINE):
        assert any(target == known or (known.endswith("-") and target.startswith(known)) for known in targets), target
    for script in re.findall(r"bash (\S+)", commands):
        assert (REPOSITORY / script).is_file()
