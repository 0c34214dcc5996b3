"""Tests the report page in W&B, which W&B's real client builds and sends to a stand-in server."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.test_logging import documented, matches
from tests.helpers.preloaded import python
from tests.helpers.wandb_server import PROJECT, USER, WandbServer

pytestmark = pytest.mark.children


pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is of the extra wandb")


def make(tmp_path: Path, server: WandbServer, *words: str, key: str = "0" * 40) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    added = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": key, "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    command = [*python(), "-m", "raml_trl.wandb_report", "--output_dir", str(tmp_path / "out"), *words]
    return subprocess.run(
        command, env=inherited | added, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def texts(value: Any) -> Iterator[str]:
    """Yield every string in the nested lists and mappings of a page."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("stage", ["grpo", pytest.param("sft", marks=pytest.mark.slow)])
def test_page_shows_the_runs_of_a_group(tmp_path: Path, stage: str) -> None:
    with WandbServer() as server:
        done = make(tmp_path, server, "--project", PROJECT, "--group", "sweep_of_m", "--stage", stage)
        assert done.returncode == 0, done.stderr
    [saved] = server.saved
    page = json.loads(saved["spec"])
    assert (saved["entityName"], saved["projectName"], saved["type"]) == (USER, PROJECT, "runs")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["results"]["url"].startswith(f"{server.url}/{USER}/{PROJECT}/reports/")

    grids = [block["metadata"] for block in page["blocks"] if block["type"] == "panel-grid"]
    runs = [run_set for grid in grids for run_set in grid["runSets"]]
    assert {run_set["filters"]["filters"][0]["value"] for run_set in runs} == {"sweep_of_m"}
    compared = {"grpo": "num_generations_update", "sft": "num_trajectories"}[stage]
    grouped = [run_set["grouping"] for run_set in runs if run_set["grouping"]]
    assert grouped
    assert all(grouping == [{"section": "config", "name": f"{compared}.value"}] for grouping in grouped)

    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    kinds = {panel["viewType"] for panel in panels}
    assert kinds >= {"Run History Line Plot", "Parallel Coordinates Plot", "Parameter Importance"}
    assert ("completions" in set(texts(panels))) == (stage == "grpo")
    lines = {name for panel in panels for name in panel["config"].get("metrics", [])}
    logged = {name.replace("eval/", "eval_").removeprefix("train/") for name in lines}
    tables = documented("Evaluation in training")
    tables |= documented("SFT") if stage == "sft" else documented("GRPO")
    assert [name for name in logged if not any(matches(known, name) for known in tables)] == []
    assert {"eval/pass@1", "train/grad_norm"} <= lines
    if stage == "grpo":
        assert lines >= {"train/correct", "train/reward", "train/seconds/updating", "train/selected/mixed"}


def test_missing_project_is_an_error(tmp_path: Path) -> None:
    with WandbServer() as server:
        done = make(tmp_path, server, "--project", "missing")
    assert done.returncode == 2, done.stderr
    assert f"{USER} has no project missing in W&B" in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.saved
    assert not (tmp_path / "out").exists()
