"""The notebooks run from top to bottom on a small model, and contain executed outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from raml_trl.build_model import BuildModelConfig, arithmetic_tokenizer, build_model
from raml_trl.data.records import task_row
from raml_trl.data.shards import TRAJECTORIES, write_shards
from tests.commands.test_pseudo_gradient import make_tasks
from tests.helpers import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def test_there_are_three_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["loss_landscape", "pseudo_gradient", "trajectory_pruning"]


def other_model(directory: Path, seed: int) -> str:
    """A model of the same size as the one in `model_dir`, with different weights."""
    tokenizer = arithmetic_tokenizer()
    config = BuildModelConfig(output_dir=str(directory), num_hidden_layers=2, intermediate_size=64, seed=seed)
    build_model(config, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.mark.children
# Each takes a kernel and some 20 s. The first covers what they share; make test-all runs the others.
@pytest.mark.parametrize(
    "path",
    [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])],
    ids=lambda path: path.stem,
)
def test_the_notebook_runs(path: Path, tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "data", map(task_row, make_tasks(trajectories=True)), TRAJECTORIES)
    settings = {"MODEL": model_dir, "TRAJECTORIES": str(tmp_path / "data"), "OUTPUT": str(tmp_path / "out")}
    settings |= {"NUM_QUESTIONS": 3, "STEPS": 5}
    if path.stem == "loss_landscape":
        settings |= {"BASE": other_model(tmp_path / "base", 1), "SFT": other_model(tmp_path / "sft", 2)}
    notebook = nbformat.read(path, as_version=4)
    [given] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    given.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/svg+xml" in output.data for output in shown)
    assert any("text/markdown" in output.data for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_contains_executed_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.output_type == "execute_result" for cell in cells for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    text = path.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text
    assert str(Path.home()) + "/" not in text
