"""RLOO on two CPU processes: m = G is TRL's trainer, and dropping rows equals masking them."""

import subprocess
from typing import Any

import pytest
import torch

from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

pytestmark = [pytest.mark.children, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("rloo") / "results.pt"
    launch = [*python(), "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    subprocess.run(
        [*launch, "-m", "tests.helpers.rloo_runs", model_dir, str(results)], cwd=REPOSITORY, check=True, timeout=300
    )
    return torch.load(results, weights_only=False)


def test_the_launch_has_two_processes(runs: dict[str, Any]) -> None:
    for name, run in runs.items():
        assert (run["num_processes"], run["wrapper"]) == (2, "DistributedDataParallel"), name


def test_all_of_g_is_trl_bit_for_bit(runs: dict[str, Any]) -> None:
    """A group is split between the processes."""
    stock, ours = runs["stock"], runs["all of G"]
    assert stock["log"] == ours["log"]
    assert min(ours["grad_norm"]) > 0
    for name, weight in stock["weights"].items():
        assert torch.equal(weight, ours["weights"][name]), name


@pytest.mark.parametrize("suffix", ["", ", scored late"])
def test_dropping_rows_equals_masking_them(runs: dict[str, Any], suffix: str) -> None:
    mask, drop = runs["mask" + suffix], runs["drop" + suffix]
    assert min(mask["grad_norm"]) > 0
    assert drop["grad_norm"] == pytest.approx(mask["grad_norm"], rel=1e-4)
    assert drop["grad_norm"] != runs["all of G"]["grad_norm"]
