"""Fixtures of the attack suite."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.disturbed.commands import Starter
from tests.disturbed.table import pytest_collection_modifyitems, pytest_configure  # noqa: F401  # hooks
from tests.helpers.disturbed import Launch, training
from tests.helpers.disturbed import start as launch

Undisturbed = Callable[..., Path]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Starter:
    """Starts a command in this process."""
    return Starter(monkeypatch, capsys)


@pytest.fixture
def launches() -> Iterator[list[Launch]]:
    """Launches that are killed at the end of the test."""
    started: list[Launch] = []
    yield started
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def undisturbed(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Returns the directory of a training that nothing disturbs. Every such training is run once.

    The arguments are the stage, the number of processes, and settings. A file beside the directory, `seconds`, says how
    long the command took.
    """
    runs: dict[tuple[object, ...], Path] = {}

    def run(stage: str, num_processes: int = 1, **settings: Any) -> Path:
        key = (stage, num_processes, *sorted(settings.items()))
        if key not in runs:
            home = tmp_path_factory.mktemp("undisturbed")
            arguments = training(stage, student, home / "run", **settings)
            began = time.monotonic()
            assert launch(arguments, home / "log", num_processes).wait() == [0] * num_processes, home / "log"
            (home / "seconds").write_text(str(time.monotonic() - began))
            runs[key] = home / "run"
        return runs[key]

    return run
