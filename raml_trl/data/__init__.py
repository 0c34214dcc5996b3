"""Questions and trajectories on disk: reading, checking, preparing and sharding."""

from importlib import import_module
from typing import TYPE_CHECKING

from raml_trl.data.records import Question, Task, Trajectory

if TYPE_CHECKING:
    from raml_trl.data.preparation import prepare as prepare
    from raml_trl.data.reading import load_questions as load_questions
    from raml_trl.data.reading import open_data as open_data
    from raml_trl.data.reading import stream_questions as stream_questions
    from raml_trl.data.reading import stream_tasks as stream_tasks

_HOMES = {
    "load_questions": "reading",
    "open_data": "reading",
    "prepare": "preparation",
    "stream_questions": "reading",
    "stream_tasks": "reading",
}
__all__ = ["Question", "Task", "Trajectory", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name on first use, because `datasets` takes seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
