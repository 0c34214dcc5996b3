"""The notebooks run from top to bottom on a small model, and print nothing on standard error."""

import json
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from raml_trl.build_model import BuildModelConfig, arithmetic_tokenizer, build_model
from raml_trl.data.records import task_row
from raml_trl.data.shards import TRAJECTORIES, find_shards, write_shards
from raml_trl.runtime.files import read_rows
from tests.commands.test_pseudo_gradient import make_tasks
from tests.helpers import REPOSITORY
from tests.helpers.preloaded import python

NOTEBOOKS = [
    REPOSITORY / f"notebooks/{name}.ipynb" for name in ("loss_landscape", "pseudo_gradient", "trajectory_pruning")
]
TRAINING = REPOSITORY / "notebooks/train_gsm8k.ipynb"


def test_these_are_all_notebooks() -> None:
    assert set((REPOSITORY / "notebooks").iterdir()) == {*NOTEBOOKS, TRAINING}


def execute(path: Path, directory: Path, settings: Mapping[str, object]) -> nbformat.NotebookNode:
    """Execute a notebook in `directory`, with `settings` in place of its parameters, and return it."""
    notebook = nbformat.read(path, as_version=4)
    [given] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    given.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": directory}}).execute()
    streams = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    ]
    lines = [line for output in streams if output.name == "stderr" for line in output.text.splitlines()]
    # The model has random weights, so its answers are wrong, and trajectory_pruning has no data to write.
    assert not [line for line in lines if not line.endswith(" is not written")]
    return notebook


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
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = execute(path, tmp_path, settings)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/svg+xml" in output.data for output in shown)
    assert any("text/markdown" in output.data for output in shown)


@pytest.mark.slow
@pytest.mark.children
def test_the_training_notebook_runs(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model of the demo trains on its own questions, which stand in a file with the columns of GSM8K."""
    questions = tmp_path / "questions.jsonl"
    _, shards = find_shards(student / "data")
    rows = [row for shard in shards for row in read_rows(shard)]
    lines = [json.dumps({"question": row["problem"], "answer": f"a sum\n#### {row['answer']}"}) for row in rows]
    questions.write_text("\n".join(lines))
    cpu = {"use_vllm": False, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    short = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "max_completion_length": 40}
    short |= {"max_steps": 4, "eval_steps": 2, "eval_num_questions": 4, "save_steps": 4}
    settings = {
        "PROGRAM": [*python(), "-m", "raml_trl"],
        "TRAINING": {"model_name_or_path": str(student / "model"), "prompt_style": "bare", **cpu, **short},
        "EVALUATION": {"num_questions": 8, "num_samples": 4, "k": [1, 4], "max_completion_length": 40},
        "TRAIN_DATA": {"dataset_name": str(questions)},
        "TEST_DATA": {"dataset_name": str(questions)},
    }
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = execute(TRAINING, tmp_path, settings)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    tables = "\n".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", ()))
    for text in ("ours, m = 4", "| before", "| after", "groups/mixed", "ways to save", "Given: 20 s"):
        assert text in tables
    assert sum("image/svg+xml" in output.get("data", ()) for output in outputs) == 1
    assert "(reference answer: " in "".join(output.get("text", "") for output in outputs)
    assert {path.name for path in (tmp_path / "runs/gsm8k").iterdir() if (path / "run.json").is_file()} == {
        *("data_train", "data_test", "plan", "eval_before", "grpo_0.5b", "eval_after", "report", "plan_measured"),
    }


def test_the_training_notebook_has_no_outputs_and_installs_from_the_repository() -> None:
    cells = [cell for cell in nbformat.read(TRAINING, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    [install] = [cell.source for cell in cells if "pip install" in cell.source]
    assert "git clone" in install
    assert "install raml" not in install


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_contains_executed_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.output_type == "execute_result" for cell in cells for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    text = path.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text
    assert str(Path.home()) + "/" not in text
