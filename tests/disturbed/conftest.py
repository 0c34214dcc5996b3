"""Fixtures of the attack suite."""

import pytest

from tests.disturbed.commands import Starter


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Starter:
    """Starts a command in this process."""
    return Starter(monkeypatch, capsys)
