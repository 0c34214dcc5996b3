"""Tells a mistyped local path from the name of a model or dataset on the Hub.

Otherwise a mistyped path would be looked up on the Hub, which takes long and could load what a stranger has published
there under the same name.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from raml_trl.runtime.locks import holds_lock

_HUB_NAME = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?", re.ASCII)
_OUTPUTS = "runs"  # where the recipes write
_SIMILAR = 0.6  # so that two exchanged letters of three, such as stf for sft, are found


def missing_path(name: str) -> str | None:
    """Return an explanation if `name` is a local path at which nothing exists.

    The result is None if something exists at this path, or if `name` can be a name on the Hub.

    A name is a local path in three cases: if it does not have the form NAME or NAMESPACE/NAME of the Hub; if it has the
    form NAMESPACE/NAME and its first part is an existing directory or `runs`, where recipes write their results; or if
    it is a single NAME that differs little from the name of something in the working directory.
    """
    path = Path(name)
    if path.exists():
        return None
    alone = "/" not in name
    near = _near(path, 0.85 if alone else _SIMILAR)
    if _HUB_NAME.fullmatch(name):
        if alone:
            return None if near is None else _nothing(near)
        if not path.parent.is_dir() and path.parts[0] != _OUTPUTS:
            return None
        hub = f"; if you mean the Hub, fetch it with `hf download {name} --local-dir {name}`"
    else:
        hub = ""
    return f"{_nothing(near)}{hub}"


def nothing_at(path: Path) -> str:
    """Return a text which says that nothing exists at `path`, and names a similar path if there is one.

    Call it only for a path that cannot be a name on the Hub.
    """
    return _nothing(_near(path, _SIMILAR))


def _nothing(near: str | None) -> str:
    return f"there is no such directory or file{f'; {near}' if near else ''}"


def _near(path: Path, cutoff: float) -> str | None:
    """Return "did you mean ...?" with the name beside the missing one that is closest to it."""
    missing = next((part for part in (*reversed(path.parents), path) if not part.exists()), path)
    if not missing.parent.is_dir():
        return None
    names = [entry.name for entry in missing.parent.iterdir() if not holds_lock(entry)]  # not the output directory
    near = get_close_matches(missing.name, names, n=1, cutoff=cutoff)
    return f"did you mean {missing.parent / near[0] / path.relative_to(missing)}?" if near else None
