"""Training on questions about images has TRL's gradients with m = G, and those of `mask` with fewer rollouts."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import ModelConfig

from raml_trl import SubsetGRPOConfig
from raml_trl.grpo.images import split_pixels, stack_pixels
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.memory import read_model
from raml_trl.grpo.rows import take_rows
from raml_trl.runtime.errors import InputError
from tests.helpers import REPOSITORY
from tests.helpers.image_runs import KINDS, SETTINGS, Gradients, difference, make_image_trainer, train_all
from tests.helpers.trainers import digit_reward, make_trainer, questions, read_tables, untimed
from tests.helpers.vision import LAYOUTS, save_vision_model
from tests.training.test_evaluation import start

# The largest relative differences that docs/images.md states.
TOLERANCE = 1e-5


def check(runs: dict[str, Any]) -> None:
    assert all(float(gradient.norm()) > 0 for run in runs.values() for gradient in run["gradients"])
    assert len({tuple(run["rewards"]) for run in runs.values()}) == 1
    assert difference(runs["TRL"], runs["plain"]) == 0
    assert difference(runs["TRL"], runs["default"]) < TOLERANCE
    assert difference(runs["mask"], runs["drop"]) < TOLERANCE


@pytest.mark.long
def test_gradients_with_images(tmp_path: Path) -> None:
    results = train_all(tmp_path, ["grid"], ["images in all rows"])
    check(results["grid"]["images in all rows"])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train_all(tmp_path_factory.mktemp("images"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_in_every_layout(one_process: dict[str, Any], layout: str, setting: str) -> None:
    check(one_process[layout][setting])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("images")
    config = REPOSITORY / "accelerate_configs" / "cpu.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    subprocess.run([*launch, "-m", "tests.helpers.image_runs", str(directory)], cwd=REPOSITORY, check=True, timeout=900)
    return torch.load(directory / "results.pt", weights_only=False)


@pytest.mark.slow
@pytest.mark.children
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_on_two_processes(two_processes: dict[str, Any], layout: str, setting: str) -> None:
    runs = two_processes[layout][setting]
    assert {run["num_processes"] for run in runs.values()} == {2}
    check(runs)


@pytest.mark.long
def test_text_with_a_multimodal_processor_is_trl_bit_for_bit(tmp_path: Path) -> None:
    processor = save_vision_model("tiles", tmp_path / "model")
    gradients = {}
    for kind in ("TRL", "plain"):
        settings = {"train_dataset": questions(), "processing_class": processor, "reward": digit_reward}
        settings |= {"num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 1} | KINDS[kind]
        trainer, _ = make_trainer(str(tmp_path / "model"), tmp_path, **settings)
        recorder = Gradients()
        trainer.add_callback(recorder)
        trainer.train()
        [gradients[kind]] = recorder.steps
    assert gradients["TRL"].norm() > 0
    assert torch.equal(gradients["TRL"], gradients["plain"])


@pytest.mark.long
def test_resumed_in_the_middle_of_a_generation(tmp_path: Path) -> None:
    processor = save_vision_model("tiles", tmp_path / "tiles")
    settings = SETTINGS["images in all rows"] | KINDS["drop"] | {"max_steps": 3, "log_completions": True}
    settings |= {"save_strategy": "steps", "save_steps": 1, "logging_steps": 3}
    runs = {}
    for name, checkpoint in (("whole", None), ("resumed", tmp_path / "whole" / "checkpoint-1")):
        trainer, recorder = make_image_trainer(tmp_path, "tiles", processor, **(settings | {"output_dir": name}))
        gradients = Gradients()
        trainer.add_callback(gradients)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        tables = read_tables(tmp_path / name)
        assert len(trainer._logs["images"]) == 12  # as many as the other columns of the table
        runs[name] = (gradients.steps[-2:], str(untimed(recorder)), str(tables))
    for whole, resumed in zip(runs["whole"][0], runs["resumed"][0], strict=True):
        assert torch.equal(whole, resumed)
    assert runs["whole"][1:] == runs["resumed"][1:]


@pytest.mark.long
def test_train_grpo_takes_text_and_rejects_other_uses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    save_vision_model("per image", tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"problem": "{i}+1", "answer": "{i + 1}"}}\n' for i in range(32)))
    settings = {"model_name_or_path": tmp_path / "model", "dataset_name": data, "max_steps": 1, "save_steps": 1}
    settings |= {"max_completion_length": 8, "disable_tqdm": "true"}
    evaluated = {"eval_data": data, "eval_strategy": "steps", "eval_steps": 1}
    assert start("train_grpo", "grpo", **settings, **evaluated, output_dir=tmp_path / "evaluated") == 2
    assert "eval_data needs a text model" in capsys.readouterr().err + caplog.text
    assert not list(tmp_path.glob("evaluated/checkpoint-*"))
    assert start("train_grpo", "grpo", **settings, output_dir=tmp_path / "run") == 0
    assert (tmp_path / "run" / "README.md").is_file()
    with pytest.raises(InputError, match="is multimodal: memory is predicted for text models only"):
        read_model(
            PlanConfig("", "", 8, seconds_generating=1.0, seconds_updating=1.0, length_median=9.0, length_sigma=1.0),
            SubsetGRPOConfig(str(tmp_path), use_cpu=True, bf16=False),
            ModelConfig(str(tmp_path / "model")),
        )


def layouts() -> Iterator[Any]:
    """Yield batches of three rows, with one, two and no images, in TRL's layouts; every pixel has its row's number."""
    row_of_image = torch.tensor([0.0, 1, 1])
    counts = {"num_images": [1, 2, 0]}
    grid = torch.tensor([[1, 2, 2], [1, 1, 2], [1, 2, 3]])
    patches = row_of_image.repeat_interleave(grid.prod(-1))[:, None]
    yield pytest.param({"pixel_values": patches, "image_grid_thw": grid, **counts}, id="patches, with a grid")
    images = row_of_image[:, None, None, None].expand(3, 3, 4, 4)
    yield pytest.param({"pixel_values": images, **counts}, id="images")
    sizes = torch.tensor([[4, 4], [2, 4], [4, 2]])
    yield pytest.param({"pixel_values": images, "image_sizes": sizes, **counts}, id="images, with sizes")
    positions = torch.arange(3)[:, None]
    yield pytest.param({"pixel_values": images, "image_position_ids": positions, **counts}, id="images, with positions")
    tiles = {"num_tiles": [2, 3, 0]}
    pixels = torch.tensor([0.0, 0, 1, 1, 1])[:, None, None, None].expand(5, 3, 4, 4)
    yield pytest.param({"pixel_values": pixels, **counts, **tiles}, id="tiles")
    masks = {"pixel_attention_mask": torch.ones(5, 4), "spatial_shapes": torch.ones(5, 2)}
    yield pytest.param({"pixel_values": pixels, **masks, **counts, **tiles}, id="tiles, with masks")


@pytest.mark.parametrize("batch", list(layouts()))
def test_pixels_follow_their_rows(batch: dict[str, Any]) -> None:
    batch = {"rows": torch.arange(3), **batch}
    split = split_pixels(batch)
    whole = stack_pixels(split)
    assert whole.keys() == batch.keys()
    assert all(torch.equal(torch.as_tensor(whole[name]), torch.as_tensor(value)) for name, value in batch.items())
    taken = stack_pixels(take_rows(split, torch.tensor([1, 2, 1]).numpy()))
    assert taken["num_images"] == [2, 0, 2]
    assert len(taken["pixel_values"]) == 2 * (batch["pixel_values"].flatten(1)[:, 0] == 1).sum()
    assert (taken["pixel_values"] == 1).all()
    text = stack_pixels(take_rows(split, torch.tensor([2]).numpy()))
    assert text.keys() == {"rows", "num_images"} | ({"num_tiles"} & batch.keys())


def test_pixels_padded_to_one_row_per_rollout_follow_their_rows() -> None:
    pixels = torch.arange(3.0)[:, None, None].expand(3, 2, 4).clone()
    batch = {"pixel_values": pixels, "pixel_attention_mask": pixels > 0, "num_images": [1, 2, 2]}
    taken = stack_pixels(take_rows(split_pixels(batch), torch.tensor([2, 0]).numpy()))
    assert taken["pixel_values"][:, 0, 0].tolist() == [2, 0]
    assert taken["pixel_attention_mask"][:, 0, 0].tolist() == [True, False]
