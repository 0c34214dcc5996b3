"""Splitting, joining and trimming batches lose no token."""

import numpy as np
import pytest
import torch
from trl.trainer.utils import split_tensor_dict

from raml_trl.grpo.batching import num_cells, row_lengths, split_completions
from raml_trl.grpo.micro_batches import IDLE
from raml_trl.grpo.padding import join_batches, trim_padding
from raml_trl.grpo.rows import Batch, take_rows


def make_batch(prompts: list[int], completions: list[int], width: tuple[int, int] = (6, 9)) -> Batch:
    """Return a batch of rows with the given numbers of tokens, padded to `width` as TRL pads them."""
    rows = len(prompts)
    batch = {
        "prompt_mask": torch.zeros(rows, width[0], dtype=torch.long),
        "completion_mask": torch.zeros(rows, width[1], dtype=torch.long),
        "advantages": torch.arange(rows, dtype=torch.float),
        "importance_sampling_ratio": torch.ones(rows, 1),
        "num_items_in_batch": torch.tensor(sum(completions)),
    }
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        batch["prompt_mask"][row, width[0] - prompt :] = 1
        batch["completion_mask"][row, :completion] = 1
    batch["prompt_ids"] = batch["prompt_mask"] * torch.arange(1, width[0] + 1)
    batch["completion_ids"] = batch["completion_mask"] * torch.arange(1, width[1] + 1)
    return batch


def test_join_reverses_trls_split() -> None:
    batch = make_batch([1, 2, 3, 4], [5, 6, 7, 8])
    joined = join_batches(split_tensor_dict(batch, 2))
    assert joined.keys() == batch.keys()
    assert all(torch.equal(joined[name], value) for name, value in batch.items())


@pytest.mark.parametrize("multiple", [None, 4])
def test_trim_keeps_every_token(multiple: int | None) -> None:
    batch = make_batch([1, 3], [2, 5])
    trimmed = trim_padding(batch, multiple=multiple)
    widths = (3, 5) if multiple is None else (4, 8)
    assert (trimmed["prompt_ids"].shape[1], trimmed["completion_ids"].shape[1]) == widths
    for row in range(2):
        for part in ("prompt", "completion"):
            kept, before = trimmed[f"{part}_mask"][row].bool(), batch[f"{part}_mask"][row].bool()
            assert trimmed[f"{part}_ids"][row][kept].tolist() == batch[f"{part}_ids"][row][before].tolist()
    assert trimmed["importance_sampling_ratio"].shape == (2, 1)
    assert trimmed["num_items_in_batch"] == 7


def test_trim_of_a_batch_without_a_completion_token_keeps_a_column() -> None:
    trimmed = trim_padding(make_batch([2, 2], [0, 0]))
    assert trimmed["completion_ids"].shape == (2, 1)


def test_take_rows_and_lengths() -> None:
    batch = take_rows(make_batch([1, 2, 3], [4, 5, 6]), np.array([2, 0]))
    assert batch["advantages"].tolist() == [2, 0]
    assert row_lengths(batch).tolist() == [9, 5]
    assert batch["num_items_in_batch"] == 15


def test_an_idle_row_has_the_shortest_prompt_and_no_counted_token() -> None:
    batch = make_batch([3, 1, 2], [4, 5, 6]) | {"old_per_token_logps": torch.full((3, 9), torch.nan)}
    taken = take_rows(batch, np.array([2, IDLE]))
    assert taken["prompt_mask"].sum(dim=1).tolist() == [2, 1]
    assert taken["completion_mask"].sum(dim=1).tolist() == [6, 0]
    assert taken["advantages"].tolist() == [2, 0]
    assert taken["old_per_token_logps"].isnan().all(dim=1).tolist() == [True, False]  # otherwise 0 * NaN would be NaN
    assert trim_padding(take_rows(batch, np.array([IDLE])))["completion_ids"].shape == (1, 1)


def test_split_reverses_joining_prompt_and_completion() -> None:
    batch = make_batch([1, 3], [2, 5])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    split = split_completions(ids, mask, batch["completion_ids"].size(1))
    assert all(torch.equal(value, batch[name]) for name, value in split.items())
    assert num_cells(split) == ids.numel() == 2 * (6 + 9)
