"""Builds the sdist and the wheel of a release, and tries the wheel as a new user would.

    make try-wheel               # python -m tests.helpers.try_wheel
    make try-wheel TAG=v0.2.0    # also compares the version with a tag

The files are in `dist/`, with constraints.txt, and the notes of the release in `build/try_wheel/notes.md`. The wheel is
built from the sdist, and installed in `build/try_wheel/environment`, which a second try uses again. Then the demo runs,
shortened, in a directory that is empty at the start: its recipes are copied from the wheel, and each command is the
one that the last command proposed.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import raml_trl
from raml_trl.runtime.recipes import recipes_page
from tests.helpers import REPOSITORY

DIST = REPOSITORY / "dist"
PLACE = REPOSITORY / "build" / "try_wheel"
HEADING = re.compile(r"^## (\S+)(?: \((\d{4}-\d\d-\d\d)\))?\n", re.MULTILINE)
SHORTER = {
    "prepare_data": ["--num_questions", "64"],
    "train_sft": ["--max_steps", "3"],
    "train_grpo": ["--max_steps", "3"],
    "evaluate": ["--num_samples", "8"],
}
"""Settings with which a command of the demo takes little time."""


def release_notes(version: str, changelog: str, citation: str) -> str:
    """Return the entries of `version` in the text of CHANGELOG.md.

    Raises:
        ValueError: if it is not the newest released version there, has no entries or no date, or if CITATION.cff has
            another version or date.
    """
    parts = HEADING.split(changelog)[1:]
    released = [part for part in zip(parts[::3], parts[1::3], parts[2::3], strict=True) if part[0] != "Unreleased"]
    if not released or released[0][0] != version:
        raise ValueError(f"the newest version in CHANGELOG.md is not {version}")
    _, date, notes = released[0]
    if date is None or not notes.strip():
        raise ValueError(f"version {version} has no date or no entries in CHANGELOG.md")
    if f"\nversion: {version}\ndate-released: {date}\n" not in citation:
        raise ValueError(f"CITATION.cff does not have version {version} of {date}")
    return notes.strip() + "\n"


def check_release(tag: str | None) -> str:
    """Return the notes of the version in the package.

    Raises:
        ValueError: if the tag, the package, CHANGELOG.md and CITATION.cff have different versions.
    """
    version = raml_trl.__version__
    if tag not in (None, f"v{version}"):
        raise ValueError(f"the tag is {tag}, but the version of the package is {version}")
    texts = [(REPOSITORY / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff")]
    return release_notes(version, *texts)


def check_contents(wheel: Path) -> None:
    """Check that a wheel has the package with all recipes, and neither tests nor measured results."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"raml_trl/py.typed", "raml_trl/render/templates/report.html.j2"} <= names
    for folder in ("recipes", "accelerate_configs"):
        files = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / folder).rglob("*.yaml")}
        assert {f"raml_trl/{name}" for name in files} <= names
    assert all(name.startswith("raml_trl") and "/results/" not in name for name in names)


def try_program(program: Path, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run the demo with an installed `raml-trl` in an empty directory, and yield each command when it has ended."""

    def start(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    assert not any(directory.iterdir())
    assert start("--version").startswith(f"raml-trl {raml_trl.__version__} (")
    assert start("recipes") == recipes_page()
    assert "Results: recipes, " in start("init", "tiny/demo", "recipes")
    proposed, seen = "raml-trl build_model recipes/model.yaml", list[str]()
    while proposed:
        _, command, *arguments = shlex.split(proposed)
        output = start(command, *arguments, *SHORTER.get(command, []))
        yield proposed
        seen.append(command)
        results = re.findall(r"^Results: (.*)$", output, re.MULTILINE)
        assert results, output
        assert (directory / results[0] / "run.json").is_file()
        proposed = "".join(re.findall(r"^Next: (.*)$", output, re.MULTILINE))
    assert set(seen) == {"build_model", "prepare_data", "train_sft", "train_grpo", "evaluate", "report"}
    assert (directory / "runs/demo/report/report.html").is_file()


def main() -> None:
    """Check the versions, build, install and try; print the seconds of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", help="The tag of the release, such as v0.2.0.")
    tag = parser.parse_args().tag
    last = time.monotonic()

    def done(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        sys.stdout.write(f"{now - last:6.1f} s  {step}\n")
        sys.stdout.flush()
        last = now

    try:
        notes = check_release(tag)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE / "notes.md").write_text(notes, encoding="utf-8")
    done(f"version {raml_trl.__version__}")

    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", DIST, REPOSITORY], check=True, stdout=subprocess.DEVNULL)
    [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], check=True)
    check_contents(wheel)
    constraints = Path(shutil.copy(REPOSITORY / "constraints.txt", DIST))
    done(f"{sdist.name}, {wheel.name}")

    bin_directory = PLACE / "environment" / "bin"
    if not (bin_directory / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", bin_directory.parent], check=True)
    pip = [bin_directory / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", constraints, wheel], check=True)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)  # a wheel of the same version
    done("installed")

    user = PLACE / "user"
    shutil.rmtree(user, ignore_errors=True)
    user.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in try_program(bin_directory / "raml-trl", user, environment):
        done(command)


if __name__ == "__main__":
    main()
