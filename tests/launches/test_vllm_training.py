"""GRPO trains on m of G rollouts that vLLM samples in the trainer's processes with the weights of the current step.

vLLM needs a separate environment, which `make test-vllm` creates for a CPU. The tests run on one process, and on
two processes with groups split between them.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.helpers import REPOSITORY

pytestmark = pytest.mark.vllm

LAUNCHES: dict[int, list[str]] = {
    1: [],
    2: ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"],
}


@pytest.fixture(scope="module", params=LAUNCHES)
def runs(request: pytest.FixtureRequest, model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
    results = tmp_path_factory.mktemp("vllm") / "results.pt"
    script = ["-m", "tests.helpers.vllm_runs", model_dir, str(results)]
    subprocess.run([sys.executable, *LAUNCHES[request.param], *script], cwd=REPOSITORY, check=True, timeout=900)
    runs = torch.load(results, weights_only=False)
    assert {run["num_processes"] for run in runs.values()} == {request.param}
    return runs


def test_weights_reach_vllm(runs: dict[str, Any]) -> None:
    """At a high learning rate, vLLM and the trainer give the same log-probabilities only if vLLM gets new weights."""
    gaps = {name: run["logged"]["sampling/sampling_logp_difference/mean"] for name, run in runs.items()}
    assert len(gaps["synchronised"]) == len(gaps["not synchronised"]) == 6
    assert max(gaps["synchronised"]) < 0.02
    assert gaps["not synchronised"][0] == gaps["synchronised"][0]  # vLLM starts with the weights on disk
    assert min(gaps["not synchronised"][1:]) > 0.1


def test_drop_equals_mask(runs: dict[str, Any]) -> None:
    """Dropping and masking give the same gradient. The learning rate is 0, so that vLLM samples the same rollouts."""
    drop, mask = runs["drop"]["logged"], runs["mask"]["logged"]
    assert runs["drop"]["selected"] == runs["mask"]["selected"]
    assert drop["reward"] == mask["reward"]
    assert len(set(drop["reward"])) > 1
    assert drop["grad_norm"] == pytest.approx(mask["grad_norm"], rel=1e-4)
    assert drop["rows/selected"] == mask["rows/selected"] == [6, 6, 6]  # 2 of 8 rollouts in each of 3 groups
    assert all(0 < few < all_ / 2 for few, all_ in zip(drop["tokens/scored"], mask["tokens/scored"], strict=True))
