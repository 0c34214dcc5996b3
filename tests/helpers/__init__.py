"""Servers, trainers and launch scripts that several tests use."""

import gc
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def freeze_imports() -> None:
    """Exempt the objects of imported modules from garbage collection, which accelerate runs after every training."""
    gc.collect()
    gc.freeze()
