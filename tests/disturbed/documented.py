"""Compares what commands print with what docs/disturbed.md shows."""

import re
from pathlib import Path

from tests.helpers import REPOSITORY

PAGE = REPOSITORY / "docs" / "disturbed.md"
_PROCESS = re.compile(r"process \d+ on [\w.-]+")


def assert_documented(printed: str, directory: Path | None = None) -> None:
    """Assert that the page shows these lines, except for the number and the machine of a process.

    Args:
        printed: lines of the output of a command.
        directory: the directory to which paths on the page are relative.
    """
    relative = printed if directory is None else printed.replace(f"{directory}/", "")
    page = _PROCESS.sub("process", PAGE.read_text())
    assert _PROCESS.sub("process", relative).strip() in page, relative
