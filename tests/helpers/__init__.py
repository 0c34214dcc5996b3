"""Servers, trainers and launch scripts that several tests use."""

import gc
import sys
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def freeze_imports() -> None:
    """Make short trainings quicker, once all modules have been imported.

    Accelerate collects garbage after every training, so the objects of modules are exempted. It also reads the metadata
    of the same packages, such as peft, several times in every step, so the answers are kept.
    """
    gc.collect()
    gc.freeze()
    packages = sys.modules.get("accelerate.utils.imports")
    if packages is not None:
        packages._is_package_available = cache(packages._is_package_available)
