"""The manifest of a checkpoint: the names, sizes and digests of its files, by which a damaged checkpoint is recognised.

The manifest is written last and in one step, after every process of the launch has saved its files. A checkpoint with a
manifest was therefore complete at that time, and the manifest tells whether it still is.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from raml_trl.hub.card_parts import CARD
from raml_trl.runtime.files import is_partial, write_json

MANIFEST = "manifest.json"

_NOT_LISTED = (MANIFEST, CARD)  # the card is also written later, when the checkpoint is pushed
_READERS = 4  # hashing releases the interpreter, so several files are read at a time


class FileDigest(TypedDict):
    """The entry of a file in the manifest: its size in bytes, and the SHA-256 digest of its content."""

    size: int
    sha256: str


def list_files(checkpoint: Path) -> list[str]:
    """Return the paths of the files of a checkpoint that its manifest lists, relative to the checkpoint.

    These are all files except the manifest, the model card and temporary files.
    """
    paths = (path for path in checkpoint.rglob("*") if path.is_file() and not is_partial(path))
    return sorted(name for path in paths if (name := path.relative_to(checkpoint).as_posix()) not in _NOT_LISTED)


def write_manifest(checkpoint: Path, names: Iterable[str]) -> None:
    """Write the manifest of a checkpoint with the files `names`. All of these files must be on disk already."""
    ordered = sorted(names)
    with ThreadPoolExecutor(_READERS) as pool:
        digests = pool.map(lambda name: _digest(checkpoint / name), ordered)
        write_json(checkpoint / MANIFEST, {"files": dict(zip(ordered, digests, strict=True))})


def find_changes(checkpoint: Path) -> list[str] | None:
    """Compare a checkpoint with its manifest.

    Returns:
        A description of each missing or changed file, such as "optimizer.pt is missing". The list is empty if no file
        has changed. None if there is no manifest.
    """
    path = checkpoint / MANIFEST
    if not path.is_file():
        return None
    try:
        expected: dict[str, FileDigest] = json.loads(path.read_text(encoding="utf-8"))["files"]
        sizes = {name: file["size"] for name, file in expected.items()}
        digests = {name: file["sha256"] for name, file in expected.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} is damaged"]

    def change(name: str) -> str | None:
        try:
            size = (checkpoint / name).stat().st_size
            if size != sizes[name]:
                return f"{name} is truncated" if size < sizes[name] else f"{name} has changed"
            return None if _digest(checkpoint / name)["sha256"] == digests[name] else f"{name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"

    with ThreadPoolExecutor(_READERS) as pool:
        return [text for text in pool.map(change, sorted(expected)) if text is not None]


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
