"""Training on questions about images has TRL's gradients with m = G, and those of `mask` with fewer rollouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raml_trl.grpo.images import split_pixels, stack_pixels
from raml_trl.grpo.rows import take_rows
from tests.helpers.image_runs import KINDS, SETTINGS, Gradients, difference, train_all
from tests.helpers.trainers import digit_reward, make_trainer, questions
from tests.helpers.vision import LAYOUTS, save_vision_model

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
