"""Settings for tests that train."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _frozen_imports() -> None:
    """Exempt the objects of imported modules from garbage collection, which accelerate runs after every training."""
    gc.collect()
    gc.freeze()
