"""Gives every rollout its own pixels, so that rows with images can be selected, moved and skipped like any other row.

A processor stacks the pixels of all images of a batch in one of several layouts: by patch, by tile, by image, or by
row. TRL's `split_pixel_values_by_grid` cuts most layouts into a list with one tensor per row, and
`unsplit_pixel_values_by_grid` stacks them again. This module also cuts the other layouts. So between these two calls,
the pixels of a batch are always lists with one tensor per row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from raml_trl.grpo.rows import Batch

PIXEL_COLUMNS = (
    "pixel_values",
    "pixel_attention_mask",
    "image_grid_thw",
    "image_position_ids",
    "image_sizes",
    "spatial_shapes",
)
"""The columns that TRL stacks by patch, tile, image or row."""

IMAGE_COUNTS = ("num_images", "num_tiles")
"""The columns that count the images and the tiles of every row, as lists of numbers."""

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""The columns that mark the tokens of images: `(R, P + C)`."""


def split_pixels(batch: Batch) -> Batch:
    """Return the batch with every pixel column as a list of one tensor per row.

    A batch without images is returned as it is.
    """
    split: Batch = dict(split_pixel_values_by_grid(batch))
    if split.get("num_images") is not None:
        for name in PIXEL_COLUMNS:
            value = split.get(name)
            if isinstance(value, Tensor):  # one row of pixels per rollout, which TRL does not split
                split[name] = list(value.split(1))
    return split


def stack_pixels(batch: Batch) -> Batch:
    """Return the batch with the pixels that `split_pixels` has split stacked again.

    If no row has an image, the result has no pixel columns, because models expect an image in them.
    """
    stacked: Batch = dict(unsplit_pixel_values_by_grid(batch))
    counts = stacked.get("num_images")
    if counts is not None and not any(counts):  # some layouts then have pixels of padding only
        return {name: value for name, value in stacked.items() if name not in PIXEL_COLUMNS}
    return stacked


def image_inputs(columns: Mapping[str, Any]) -> Batch:
    """Return the columns that belong to images, from a batch or from the named arguments of a method of TRL."""
    names = (*PIXEL_COLUMNS, *IMAGE_COUNTS, *TOKEN_TYPES)
    return {name: columns[name] for name in names if columns.get(name) is not None}


def fill_images(batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches, with empty image columns added to those that lack a column that another batch has.

    TRL adds these columns to the batch of a process only if a prompt of this process has an image. The batches hold
    pixels as `split_pixels` returns them.
    """
    columns = {name: value for batch in batches for name, value in image_inputs(batch).items()}
    return [{name: _empty(name, value, batch) for name, value in columns.items()} | batch for batch in batches]


def _empty(name: str, example: Any, batch: Batch) -> Any:
    rows = len(batch["prompt_mask"])
    if name in IMAGE_COUNTS:
        return [0] * rows
    if name in TOKEN_TYPES:
        return example.new_zeros(rows, batch["prompt_mask"].size(1) + batch["completion_mask"].size(1))
    return [example[0][:0]] * rows
