"""Fixtures: a tiny model and its questions, made once from a seed. Nothing is downloaded and nothing needs a GPU."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # must be set before torch is imported; with small matrices, two threads mostly wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# A separate cache, so that no test session finds the tokenised data of another.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="raml_trl_tests_")

import numpy as np
import pytest
from filelock import FileLock

from tests.helpers import REPOSITORY, freeze_imports
from tests.helpers.children import watch_child_processes


def pytest_configure(config: pytest.Config) -> None:
    watch_child_processes(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that need a GPU, if there is none. Run the files with child processes first.

    If a long file came last, one worker would wait for the other.
    """
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            items[:] = [item for item in items if item not in on_gpu]
            config.hook.pytest_deselected(items=on_gpu)
    slow_files = {item.path for item in items if item.get_closest_marker("children")}
    items.sort(key=lambda item: item.path not in slow_files)


def pytest_collection_finish() -> None:
    freeze_imports()  # test modules have been imported


@pytest.fixture(scope="session", autouse=True)
def _clear_cache() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A two-layer model with random weights, and the tokenizer of the arithmetic world."""
    from raml_trl.build_model import BuildModelConfig, arithmetic_tokenizer, build_model

    directory = str(tmp_path_factory.mktemp("model"))
    tokenizer = arithmetic_tokenizer()
    config = BuildModelConfig(output_dir=directory, num_hidden_layers=2, intermediate_size=64)
    build_model(config, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def student(model_dir: str, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """`model` holds a model that sometimes ends its answers, and `data` the questions on which it was trained."""
    from tests.training.test_evaluation import TAUGHT, start

    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "student"  # the workers of pytest-xdist share the parent
    inputs = {"model_name_or_path": model_dir, "dataset_name": home / "data", "output_dir": home / "model"}
    with FileLock(f"{home}.lock"):
        if not (home / "taught").is_file():
            assert start("prepare_data", "data_sft", output_dir=home / "data", num_questions=24) == 0
            assert start("train_sft", "sft", **inputs, **TAUGHT) == 0
            (home / "taught").touch()
    return home


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; skips the test if there is none."""
    directory = REPOSITORY.parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("no real data beside this checkout")
    return directory
