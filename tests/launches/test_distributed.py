"""GRPO on two CPU processes (gloo), started with `accelerate launch`, equals GRPO on one process and TRL's trainer."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python
from tests.helpers.trainers import Selections, make_trainer
from tests.helpers.two_processes import RUNS, WANTED

# All use the fixture that launches two processes.
pytestmark = pytest.mark.children


@pytest.fixture(scope="module")
def launched(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("two") / "results.pt"
    config = REPOSITORY / "accelerate_configs" / "cpu.yaml"
    launch = [*python(), "-m", "accelerate.commands.launch", "--config_file", str(config)]
    subprocess.run(
        [*launch, "-m", "tests.helpers.two_processes", model_dir, str(results)], cwd=REPOSITORY, check=True, timeout=600
    )
    return torch.load(results, weights_only=False)


@pytest.fixture(scope="module")
def two_processes(launched: dict[str, Any]) -> dict[str, Any]:
    return launched["runs"]


def test_the_launch_has_two_processes(two_processes: dict[str, Any]) -> None:
    for name, run in two_processes.items():
        assert run["num_processes"] == 2, name
        assert run["distributed_type"] == "MULTI_CPU", name
        assert run["wrapper"] == "DistributedDataParallel", name


@pytest.mark.parametrize("suffix", ["", ", straddling"])
def test_all_of_g_equals_trl_bit_for_bit(two_processes: dict[str, Any], suffix: str) -> None:
    stock, ours = two_processes["stock" + suffix], two_processes["all of G" + suffix]
    assert stock["grad_norm"] == ours["grad_norm"]
    assert len(stock["grad_norm"]) == 3
    for name, weight in stock["weights"].items():
        assert torch.equal(weight, ours["weights"][name]), name


def test_metrics_equal_trl(two_processes: dict[str, Any]) -> None:
    """Rows move between the processes or are skipped."""
    stock_log, log = two_processes["stock, skipped"]["log"], two_processes["all of G, skipped"]["log"]
    for stock, ours in zip(stock_log, log, strict=True):
        assert {name: ours[name] for name in stock} == pytest.approx(stock, rel=1e-3, abs=2e-6)
    assert any(ours["rows/trained"] < ours["rows/selected"] for ours in log)


@pytest.mark.parametrize("suffix", ["", ", row mean"])
def test_drop_equals_mask(two_processes: dict[str, Any], suffix: str) -> None:
    drop, mask = two_processes["drop" + suffix], two_processes["mask" + suffix]
    assert min(drop["grad_norm"]) > 0
    assert drop["grad_norm"] == pytest.approx(mask["grad_norm"], rel=1e-4)


def test_subset_is_the_same_on_one_process(two_processes: dict[str, Any], model_dir: str, tmp_path: Path) -> None:
    trainer, _ = make_trainer(model_dir, tmp_path, num_generations_update=2)
    selections = Selections(trainer)
    trainer.add_callback(selections)
    trainer.train()
    assert two_processes["drop"]["selected"] == selections.masks
    assert [sum(mask) for mask in selections.masks] == [4, 4, 4]  # two rollouts of each of two groups
    assert selections.masks[0] != selections.masks[1]


def test_a_function_that_differs_between_processes_selects_once(two_processes: dict[str, Any]) -> None:
    """All processes use the rollouts that the first one selects, so every group has two."""
    run = two_processes["a function that differs between processes"]
    assert [sum(mask) for mask in run["selected"]] == [6, 6, 6]
    assert min(run["grad_norm"]) > 0


@pytest.mark.parametrize("name", [name for name, settings in RUNS.items() if "rollout_func" in settings])
def test_gradients_equal_those_of_one_process(
    two_processes: dict[str, Any], model_dir: str, tmp_path: Path, name: str
) -> None:
    """Gradients do not depend on which process drew a rollout.

    The single process has twice the batch of each of the two processes.
    """
    settings = {"per_device_train_batch_size": 8} | RUNS[name]
    settings["per_device_train_batch_size"] *= 2
    trainer, recorder = make_trainer(model_dir, tmp_path, **settings)
    selections = Selections(trainer)
    trainer.add_callback(selections)
    trainer.train()
    assert two_processes[name]["selected"] == selections.masks
    if "steps_per_generation" not in settings:  # with it, TRL's shuffle determines which rows share a step
        assert two_processes[name]["grad_norm"] == pytest.approx(recorder.of("grad_norm"), rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(two_processes: dict[str, Any]) -> None:
    whole, resumed = two_processes["whole"], two_processes["resumed"]
    assert len(whole["log"]) == 3  # steps 2, 4 and 6; the checkpoint, of step 3, is between two log entries
    assert resumed["log"] == whole["log"][1:]
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
    assert resumed["tables"]
    for name, table in resumed["tables"].items():
        assert table == whole["tables"][name]


def test_some_rows_had_to_move_between_processes(two_processes: dict[str, Any]) -> None:
    """The tests above cover the exchange of rows: of 24 rollouts, 12 on each process, unequal numbers are selected."""
    masks = two_processes["fixed, straddling"]["selected"]
    assert any(sum(mask[:12]) != sum(mask[12:]) for mask in masks)


def test_exchanged_rows_arrive_in_the_requested_order(launched: dict[str, Any]) -> None:
    for brought, wanted in zip(launched["exchanged"].values(), WANTED, strict=True):
        rows = torch.from_numpy(wanted)
        assert brought["prompt_ids"].tolist() == [[0, 0, row] for row in wanted]  # padded on the left
        assert brought["completion_mask"].tolist() == [[row, 0, 0, 0] for row in wanted]
        assert torch.equal(brought["advantages"], rows.float() / 3)
        assert torch.equal(brought["selected"], rows % 2 == 1)
        assert brought["num_items_in_batch"] == 7
        assert brought["nothing"] is None
        assert brought["texts"] == [f"row {row}" for row in wanted]
        assert brought["per_token"].tolist() == [[[row] * 2, [0] * 2, [0] * 2, [0] * 2] for row in wanted]
        assert brought["three"].tolist() == [[row] * 3 for row in wanted]
        images = {4: 1, 6: 2, 7: 1}
        assert brought["num_images"] == [images.get(row, 0) for row in wanted]
        assert brought.get("pixel_values", torch.empty(0)).flatten().tolist() == [
            row for row in wanted for _ in range(images.get(row, 0))
        ]
        assert brought["mm_token_type_ids"].tolist() == [
            [0, 0, row, row, 0, 0, 0] if row > 3 else [0] * 7 for row in wanted
        ]
