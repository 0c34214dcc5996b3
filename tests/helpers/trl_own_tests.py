"""Runs TRL's own tests of `GRPOTrainer` twice, with TRL's class and with ours in its place, and lists the differences.

    python -m tests.helpers.trl_own_tests
    python -m tests.helpers.trl_own_tests --tests DIR --models DIR --max-steps 4 -k "tools or loss_types"

TRL's test files are not part of its package. Those of the installed release are downloaded from GitHub, or read from a
directory `--tests`. The tests load tiny models and data from the Hub by names such as
`trl-internal-testing/tiny-Qwen2ForCausalLM-2.5`. With `--models`, a directory that has a folder `trl-internal-testing`,
local copies are loaded instead; `tests.helpers.trl_stand_ins` makes them. `--max-steps` ends each training early. All
other arguments go to pytest. The exit code is 1 if the outcome of a test differs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trl
from trl import import_utils
from trl.trainer.base_config import _BaseConfig

from tests.helpers import REPOSITORY

URL = "https://raw.githubusercontent.com/huggingface/trl/v{version}/tests/{name}"
FILES = ("__init__.py", "conftest.py", "testing_constants.py", "testing_utils.py", "test_grpo_trainer.py")
SUBSTITUTE = "RAML_TRL_SUBSTITUTE"
MAX_STEPS = "--max-steps"


def pytest_configure() -> None:
    """Let tests of an older release ask for packages that the installed release no longer knows: they are missing."""

    def missing(name: str) -> Callable[[], bool]:
        if not name.startswith("is_"):
            raise AttributeError(name)
        return lambda: False

    vars(import_utils)["__getattr__"] = missing


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option that limits the length of each training; pytest calls this, as in a plugin."""
    parser.addoption(MAX_STEPS, type=int, help="Optimizer steps after which every training stops.")


@pytest.fixture(autouse=True)
def _short_trainings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit `max_steps` of every config of TRL if the option asks for it."""
    limit = request.config.getoption(MAX_STEPS)
    check = _BaseConfig.__post_init__

    def limited(config: _BaseConfig) -> None:
        check(config)
        config.max_steps = limit if config.max_steps < 0 else min(limit, config.max_steps)

    if limit is not None:
        monkeypatch.setattr(_BaseConfig, "__post_init__", limited)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put our classes in the place of TRL's in the collected modules; pytest calls this, as in a plugin."""
    if SUBSTITUTE not in os.environ:
        return
    from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer

    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    for module in modules:
        module.GRPOTrainer, module.GRPOConfig = SubsetGRPOTrainer, SubsetGRPOConfig


def download(directory: Path) -> None:
    """Download the test files of the installed TRL into `directory`, unless they are there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        path = directory / name
        if not path.exists():
            with urllib.request.urlopen(URL.format(version=trl.__version__, name=name)) as response:
                path.write_bytes(response.read())


def outcomes(report: Path) -> dict[str, str]:
    """Return "passed", "skipped", "failure" or "error" for every test in a JUnit report."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {
        f"{case.get('classname')}.{case.get('name')}": next(
            (part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed"
        )
        for case in cases
    }


def run(tests: Path, models: Path, arguments: list[str], *, substitute: bool) -> dict[str, str]:
    """Run TRL's test file in a child process and return the outcome of every test."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        environment |= {SUBSTITUTE: "1"} if substitute else {}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.helpers.trl_own_tests", "-c", os.devnull]
        command += ["--rootdir", str(tests), f"--junitxml={report}", *arguments, str(tests / FILES[-1])]
        subprocess.run(command, cwd=models, env=environment, check=False)
        return outcomes(report)


def main() -> None:
    """Run the tests with both classes, and print the tests whose outcome differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=Path, help="Directory with TRL's test files, such as CHECKOUT/tests.")
    parser.add_argument("--models", type=Path, default=Path(), help="Directory that holds `trl-internal-testing`.")
    given, arguments = parser.parse_known_args()
    tests = given.tests or REPOSITORY / "build" / f"trl_tests_{trl.__version__.replace('.', '_')}"
    if given.tests is None:
        download(tests)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "trl_tests"  # a package called `tests` would hide ours
        copy.mkdir()
        for name in FILES:
            if (tests / name).exists():
                shutil.copy(tests / name, copy)
        stock, ours = (
            run(copy, given.models.resolve(), arguments, substitute=substitute) for substitute in (False, True)
        )
    different = [name for name in stock.keys() | ours.keys() if stock.get(name) != ours.get(name)]
    for name in sorted(different):
        sys.stdout.write(f"{name}: {stock.get(name)} with TRL's class, {ours.get(name)} with ours\n")
    passed = [list(result.values()).count("passed") for result in (stock, ours)]
    sys.stdout.write(f"passed with TRL's class: {passed[0]}, with ours: {passed[1]}, different: {len(different)}\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
