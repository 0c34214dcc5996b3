"""Cutting, bucketing and trimming lose nothing."""

import numpy as np
import pytest
import torch
from trl.trainer.utils import split_tensor_dict

from raml_trl.batching import Batch, cut_micro_batches, deal_rows, join_batches, row_lengths, take_rows, trim_padding


def make_batch(prompts: list[int], completions: list[int], width: tuple[int, int] = (6, 9)) -> Batch:
    """Rows of the given lengths, padded as TRL pads them."""
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


def test_join_undoes_trls_split() -> None:
    batch = make_batch([1, 2, 3, 4], [5, 6, 7, 8])
    joined = join_batches(split_tensor_dict(batch, 2))
    assert joined.keys() == batch.keys()
    assert all(torch.equal(joined[name], value) for name, value in batch.items())


@pytest.mark.parametrize("seed", range(20))
def test_dealing_gives_every_process_its_share_and_loses_no_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_processes, num_rows = rng.integers(1, 5), rng.integers(1, 9)
    total = num_processes * num_rows
    selected = np.zeros(total, dtype=bool)
    selected[rng.permutation(total)[: num_processes * rng.integers(num_rows + 1)]] = True
    selected = selected.reshape(num_processes, num_rows)
    dealt = deal_rows(selected)
    assert sorted(dealt.ravel().tolist()) == list(range(total))
    counts = selected.ravel()[dealt].sum(axis=1)
    assert len(set(counts.tolist())) == 1
    kept = (dealt // num_rows == np.arange(num_processes)[:, None]) & selected.ravel()[dealt]
    assert kept.sum(axis=1).tolist() == np.minimum(selected.sum(axis=1), counts).tolist()  # no row moves without need


def test_cut_without_lengths_keeps_the_order() -> None:
    cut = cut_micro_batches(np.array([4, 1, 3, 0]), 2)
    assert [rows.tolist() for rows in cut] == [[4, 1], [3, 0]]


def test_bucketing_sorts_within_a_window_and_never_across() -> None:
    rows = np.array([10, 11, 12, 13, 14, 15, 16, 17])
    lengths = np.array([1, 9, 3, 7, 2, 8, 2, 6])
    cut = cut_micro_batches(rows, 4, lengths=lengths, window=2)
    # first window: 9 7 3 1, second: 8 6 2 2, the two of equal length in their order
    assert [part.tolist() for part in cut] == [[11, 13], [12, 10], [15, 17], [14, 16]]


def test_bucketing_leaves_less_padding(rng: np.random.Generator) -> None:
    lengths = rng.lognormal(5, 1, size=256).astype(np.int64)

    def padded(window: int) -> int:
        return sum(lengths[rows].max() * len(rows) for rows in cut_micro_batches(np.arange(256), 32, **bucket(window)))

    def bucket(window: int) -> dict[str, object]:
        return {"lengths": lengths, "window": window} if window else {}

    assert padded(32) < 0.5 * padded(0)
    assert padded(32) < padded(4) < padded(0)


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
