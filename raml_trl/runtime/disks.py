"""Finds out why a directory cannot be written to, after a write has failed."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raml_trl.runtime.errors import InputError

_PROBE_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RUST = re.compile(r"\(os error (\d+)\)")
_FAULTS = {
    errno.ENOSPC: "is on a full disk: free space",
    errno.EDQUOT: "is over its disk quota: free space",
    errno.EFBIG: "is on a file system that takes no larger file: choose another one",
    errno.EROFS: "is on a read-only file system: make it writable",
    errno.EACCES: "may not be written: change its permissions",
    errno.EPERM: "may not be written: change its permissions",
    errno.EIO: "is on a disk that reports errors: repair it",
    errno.ESTALE: "is on a network file system that has lost it: mount it again",
}


def find_fault(directory: Path) -> str | None:
    """Return why `directory` cannot be written to, with the remedy, or None if it can.

    To find out, a file of 1 MiB is written and deleted. The answer continues a sentence that starts with the name of
    the directory.
    """
    if not directory.is_dir():
        return "was deleted while the run wrote to it: leave it in place"
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe.", suffix=".partial") as file:
            file.write(os.urandom(_PROBE_BYTES))  # some file systems compress or leave out zeros
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return explain(error) or "cannot be written"
    return None


def explain(error: Exception) -> str | None:
    """Return the fault of the disk that an error reports, with the remedy, or None if it reports none."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # the libraries in Rust put it into the message
        match = _RUST.search(str(error))
        number = None if match is None else int(match[1])
    return _FAULTS.get(number or 0)


@contextmanager
def named_faults(directory: Path, *errors: type[Exception]) -> Iterator[None]:
    """If the disk is at fault for an error in the `with` block, raise an `InputError` that names the file or directory.

    Libraries report a full disk in different ways: `torch.save` with a RuntimeError that gives no reason, safetensors
    with an error of its own, and pyarrow with an OSError that names no file.

    Args:
        directory: the directory that the block writes to.
        errors: errors of the libraries that may be due to the disk, in addition to OSError.

    Raises:
        InputError: if the block fails and the disk is at fault. Any other error of the block is raised unchanged.
    """
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except InputError:
        raise
    except caught as error:
        named = getattr(error, "filename", None)
        place = directory if named is None else Path(os.fsdecode(named))
        elsewhere = not place.absolute().is_relative_to(directory.absolute())
        fault = None if elsewhere and getattr(error, "errno", None) not in _FULL else explain(error)
        if fault is None:
            place, fault = directory, find_fault(directory)
        if fault is None:
            raise
        raise InputError(f"{place} {fault}, and run the same command again to resume") from error
