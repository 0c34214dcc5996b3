"""Rows, cells, seconds and bytes are what a calculation by hand, or autograd itself, says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from raml_trl.planning import (
    PRECISIONS,
    Geometry,
    Shape,
    Split,
    Work,
    activation_bytes,
    draw_work,
    find_precision,
    given_split,
    kept_bytes,
    lognormal_lengths,
    lognormal_of_extremes,
    measured_split,
    predict_seconds,
    state_bytes,
)

GEOMETRY = Geometry(
    num_processes=1,
    per_device_train_batch_size=8,
    steps_per_generation=4,
    gradient_accumulation_steps=4,
    num_iterations=1,
    num_generations=8,
    num_generations_update=8,
    selection="random",
    selection_scope="group",
    subset_mode="drop",
    length_bucketing=False,
    skip_zero_advantage=False,
)
TRIMMED = replace(GEOMETRY, length_bucketing=True, skip_zero_advantage=True)
EQUAL = np.full(100, 30)
UNEQUAL = np.array([10, 20, 30, 100])


def draw(geometry: Geometry, lengths: np.ndarray, dead_groups: float = 0.0) -> Work:
    return draw_work(geometry, lengths, prompt_length=5, dead_groups=dead_groups, seed=0)


def test_all_rollouts_without_bucketing_are_those_of_trl() -> None:
    assert draw(GEOMETRY, EQUAL) == Work(rows=32, cells=32 * 35, cells_all=32 * 35)
    drawn = draw(GEOMETRY, UNEQUAL)  # of 32 rollouts one is longest, as good as always
    assert drawn.cells == drawn.cells_all == pytest.approx(32 * 105, rel=1e-2)


@pytest.mark.parametrize("selected", [1, 2, 4])
@pytest.mark.parametrize("geometry", [GEOMETRY, TRIMMED])
def test_of_equal_rollouts_their_part_runs(geometry: Geometry, selected: int) -> None:
    part = replace(geometry, num_generations_update=selected)
    assert draw(part, EQUAL) == Work(rows=4 * selected, cells=4 * selected * 35, cells_all=32 * 35)


def test_a_masked_row_runs_too() -> None:
    masked = replace(TRIMMED, subset_mode="mask", skip_zero_advantage=False, num_generations_update=2)
    assert draw(masked, EQUAL) == Work(rows=8, cells=32 * 35, cells_all=32 * 35)
    assert masked.rows_per_micro_batch == 8


def test_bucketing_trims_to_the_rows_themselves() -> None:
    alone = replace(TRIMMED, per_device_train_batch_size=1, steps_per_generation=64, gradient_accumulation_steps=64)
    drawn = draw(alone, UNEQUAL)  # one row in each micro-batch: nothing is padded
    assert drawn.cells == pytest.approx(64 * (5 + 40), rel=0.03)  # the mean of the four is 40
    assert drawn.cells_all == 64 * 105
    assert draw(TRIMMED, UNEQUAL).cells < draw(GEOMETRY, UNEQUAL).cells
    # of three micro-batches, two may fall into different steps, so rows stay where they were dealt
    apart = draw(replace(TRIMMED, gradient_accumulation_steps=3), UNEQUAL)
    assert apart.cells / apart.cells_all > 1.1 * draw(TRIMMED, UNEQUAL).cells / draw(TRIMMED, UNEQUAL).cells_all


def test_rows_without_signal_are_left_out() -> None:
    assert draw(TRIMMED, EQUAL, 0.25).rows == pytest.approx(24, rel=0.1)
    assert draw(GEOMETRY, EQUAL, 0.25).rows == 32
    assert draw(TRIMMED, EQUAL, 1.0) == Work(rows=0, cells=4 * 6, cells_all=32 * 35)  # four idle rows of prompt and 1
    # where the batch is chosen from as one, groups without signal get fewer
    batch = replace(TRIMMED, selection="abs_advantage", selection_scope="batch", num_generations_update=2)
    assert draw(batch, EQUAL, 0.25).rows == 8
    assert draw(replace(batch, selection_scope="group"), EQUAL, 0.25).rows == pytest.approx(6, rel=0.1)


def test_a_step_is_what_its_micro_batches_are() -> None:
    half = replace(TRIMMED, gradient_accumulation_steps=2)
    assert draw(half, EQUAL) == Work(rows=16, cells=16 * 35, cells_all=16 * 35)
    assert half.rollouts_per_step == 16
    twice = replace(half, num_iterations=2)
    assert draw(twice, EQUAL) == draw(half, EQUAL)
    assert twice.rollouts_per_step == 8


@pytest.mark.parametrize("geometry", [GEOMETRY, TRIMMED])
def test_processes_share_the_rows(geometry: Geometry) -> None:
    both = replace(geometry, num_processes=2, num_generations_update=2)
    assert draw(both, EQUAL) == Work(rows=16, cells=8 * 35, cells_all=32 * 35)


def test_the_process_that_has_most_sets_the_pace() -> None:
    one_each = replace(TRIMMED, num_processes=2, per_device_train_batch_size=1, steps_per_generation=1,
                       gradient_accumulation_steps=1, num_generations=2, num_generations_update=2)  # fmt: skip
    # the greater of two lengths, 10 or 100 each, is 100 in three of four
    assert draw(one_each, np.array([10, 100])).cells == pytest.approx(5 + 0.75 * 100 + 0.25 * 10, rel=0.03)


def test_the_draw_is_the_same_again_and_for_every_m() -> None:
    anything = np.arange(1, 1000)
    assert draw(TRIMMED, anything) == draw(TRIMMED, anything)
    works = [draw(replace(TRIMMED, num_generations_update=selected), anything) for selected in (1, 2, 4, 8)]
    assert len({work.cells_all for work in works}) == 1
    assert sorted(work.cells for work in works) == [work.cells for work in works]


def summary(**changes: Any) -> dict[str, Any]:
    """64 rollouts of a run whose updates cost 1 s and 10 ms a cell."""
    seconds = dict.fromkeys(("generating", "rewarding", "scoring", "preparing", "selecting", "updating"), 0.0)
    seconds |= {"generating": 6.0, "rewarding": 0.5, "preparing": 0.5, "selecting": 0.2, "updating": 2.0}
    whole = 7.0 + 5.0  # all 400 cells: 1 s + 4 s
    record = {
        "seconds": seconds,
        "counts": {"rollouts": 64, "cells_updating": 100, "cells_updating_all": 400},
        "speedup": {"estimated": whole / 9.2},
    }
    return {name: value | changes.get(name, {}) for name, value in record.items()}


def test_the_line_of_a_run_is_found_again() -> None:
    # a step has 32 rollouts: half of the 64
    assert measured_split(summary(), GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.5, 0.01))
    half = replace(GEOMETRY, gradient_accumulation_steps=2)
    assert measured_split(summary(), half) == pytest.approx(Split(1.75, 0.05, 0.25, 0.01))


def test_a_run_on_all_cells_has_a_price_only() -> None:
    one = summary(counts={"cells_updating_all": 100})
    assert measured_split(one, GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.0, 0.02))


@pytest.mark.parametrize(("estimated", "constant", "price"), [(0.5, 1.0, 0.0), (9.0, 0.0, 0.02)])
def test_neither_part_of_the_cost_is_negative(estimated: float, constant: float, price: float) -> None:
    split = measured_split(summary(speedup={"estimated": estimated}), GEOMETRY)
    assert split == pytest.approx(Split(3.5, 0.1, constant, price))


def test_scoring_is_a_price() -> None:
    # 1 s for 50 cells, of the 200 that TRL would score in 4 s
    one = summary(
        seconds={"scoring": 1.0},
        counts={"cells_scoring": 50, "cells_scoring_all": 200},
        speedup={"estimated": (7.0 + 4.0 + 5.0) / 10.2},
    )
    assert measured_split(one, GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.5, 0.01 + 0.01))


def test_seconds() -> None:
    predicted = predict_seconds(Split(3.0, 0.1, 0.5, 0.01), Work(rows=2, cells=40, cells_all=150), 0.25)
    assert predicted == pytest.approx(
        {
            "generating": 3.0,
            "updating": 1.0,  # 0.1 + 0.5 + 0.4
            "step": 4.0,
            "speedup": 1.25,  # TRL: 3 + 0.5 + 1.5 = 5
            "ceiling": 1 / (0.6 + 0.4 * 0.25),
        }
    )


def test_what_was_given_comes_back_for_all_rollouts() -> None:
    work = draw(GEOMETRY, EQUAL)
    predicted = predict_seconds(given_split(3.0, 2.0, work), work, 1.0)
    assert predicted == pytest.approx({"generating": 3, "updating": 2, "step": 5, "speedup": 1, "ceiling": 1})
    quarter = draw(replace(GEOMETRY, num_generations_update=2), EQUAL)
    predicted = predict_seconds(given_split(3.0, 2.0, work), quarter, 0.25)
    assert predicted["speedup"] == pytest.approx(predicted["ceiling"]) == pytest.approx(5 / 3.5)


def test_lengths() -> None:
    rng = np.random.default_rng(0)
    lengths = lognormal_lengths(100, 0.5, 250, rng)
    assert np.median(lengths) == pytest.approx(100, rel=0.05)
    assert lengths.max() == 250
    assert (lognormal_lengths(7, 0.0, 250, rng) == 7).all()
    assert lognormal_lengths(0.1, 0.0, 250, rng).min() == 1


def test_a_log_normal_is_known_by_its_extremes() -> None:
    drawn = 100 * np.exp(0.5 * np.random.default_rng(0).standard_normal((200, 128)))  # 200 steps of 128 rollouts
    median, sigma = lognormal_of_extremes(drawn.mean(), drawn.min(axis=1).mean(), drawn.max(axis=1).mean(), 128)
    assert median == pytest.approx(100, rel=0.05)
    assert sigma == pytest.approx(0.5, rel=0.1)


SHAPE = Shape(
    num_parameters=1000, num_trained=1000, num_layers=8, hidden=128, intermediate=192, queries=128, keys=64, heads=4,
    vocabulary=500,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sharding", "optimizer", "gradients", "weights"),
    [
        ("none", 12000, 2000, 2000),
        ("optimizer", 3000, 2000, 2000),
        ("gradients", 3000, 500, 2000),
        ("full", 3000, 500, 500),
    ],
)
def test_states_are_sixteen_bytes_a_parameter_shared(
    sharding: Any, optimizer: int, gradients: int, weights: int
) -> None:
    states = state_bytes(SHAPE, PRECISIONS["sharded"], sharding=sharding, num_processes=4, reference=False)
    assert states == {"optimizer": optimizer, "gradients": gradients, "weights": weights}


def test_only_what_is_trained_has_gradients() -> None:
    adapter = SHAPE._replace(num_trained=10)
    states = state_bytes(adapter, PRECISIONS["float32"], sharding="none", num_processes=1, reference=True)
    assert states == {"optimizer": 80, "gradients": 40, "weights": 8000}


def test_precisions() -> None:
    named = {id(precision): name for name, precision in PRECISIONS.items()}

    def find(dtype: str, mixed: bool, sharding: Any) -> str:
        return named[id(find_precision(dtype, mixed=mixed, sharding=sharding))]

    assert find("float32", False, "none") == find("float32", False, "full") == "float32"
    assert find("float32", True, "none") == "mixed"
    assert find("bfloat16", True, "none") == find("bfloat16", False, "full") == "bfloat16"
    assert find("float32", True, "optimizer") == find("bfloat16", True, "full") == "sharded"


def kept_by_autograd(
    rows: int, width: int, *, attention: str, dtype: torch.dtype, mixed: bool, checkpointing: bool
) -> int:
    """Bytes that a forward pass keeps for its backward pass, but for parameters and their copies."""
    config = Qwen2Config(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.hidden, intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.num_layers, num_attention_heads=SHAPE.heads, num_key_value_heads=2,
    )  # fmt: skip
    model = Qwen2ForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype)
    add_fused_lm_head(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.numel() % (rows * width) == 0:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros((rows, width), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # as soon as one row is padded, attention gets a mask
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("mixed", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_autograd_keeps_what_the_formula_says(attention: str, precision: str, dtype: torch.dtype) -> None:
    rows, width = 20, 300
    found = kept_by_autograd(
        rows, width, attention=attention, dtype=dtype, mixed=precision == "mixed", checkpointing=False
    )
    formula = SHAPE.num_layers * kept_bytes(SHAPE, PRECISIONS[precision], width=width, attention=attention)
    last = SHAPE.hidden * (6 if precision == "bfloat16" else 8)  # the last norm's input, and normed
    assert formula + last == pytest.approx(found / (rows * width), rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_with_checkpointing_autograd_keeps_the_residual(precision: str) -> None:
    kept = kept_by_autograd(
        20, 300, attention="sdpa", dtype=torch.float32, mixed=precision == "mixed", checkpointing=True
    )
    last = 2 * 4 * SHAPE.hidden  # the last norm's input, and normed
    facts: Any = {"rows": 20, "width": 300, "checkpointing": True, "attention": "sdpa", "on_cpu": False}
    formula, head = (
        activation_bytes(SHAPE._replace(num_layers=layers), PRECISIONS[precision], **facts)
        for layers in (SHAPE.num_layers, 0)
    )
    assert formula - head == pytest.approx(kept - 6000 * last, rel=0.02)


def test_activations() -> None:
    qwen = Shape(
        num_parameters=7_615_616_512, num_trained=7_615_616_512, num_layers=28, hidden=3584, intermediate=18944,
        queries=3584, keys=512, heads=28, vocabulary=152064,
    )  # fmt: skip
    facts: Any = {"rows": 1, "width": 16000, "attention": "flash_attention_2", "on_cpu": False}
    # a layer of a cell: 16 * 3584 + 2 * (4 * 3584 / 2 + 2 * 512 + 4 * 18944) + 4 * 28 = 225,392
    layer = 16 * 3584 + 2 * (2 * 3584 + 2 * 512 + 4 * 18944) + 4 * 28
    assert kept_bytes(qwen, PRECISIONS["sharded"], width=1, attention="flash_attention_2") == layer == 225392
    working = 2 * (3 * 18944 + 2 * 3584)
    head = 2 * 4096 * 32768 + 4 * 3584 * (152064 + 16000)
    plain = activation_bytes(qwen, PRECISIONS["sharded"], checkpointing=False, **facts)
    assert plain == 28 * layer * 16000 + max(working * 16000, head)
    checkpointed = activation_bytes(qwen, PRECISIONS["sharded"], checkpointing=True, **facts)
    assert checkpointed == 28 * 2 * 3584 * 16000 + (layer + working) * 16000  # 5.7 GB, more than the head's 2.7


def test_without_triton_the_head_takes_more() -> None:
    facts: Any = {"rows": 1, "width": 100, "attention": "sdpa", "checkpointing": True}
    plain, on_cpu = (activation_bytes(SHAPE, PRECISIONS["float32"], **facts, on_cpu=where) for where in (False, True))
    assert plain - on_cpu == 100 * (4 * 32768 - 8 * 4 * 500)  # a tile in full, against eight as wide as the vocabulary


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_falls_with_m(checkpointing: bool, on_cpu: bool) -> None:
    sizes = [
        activation_bytes(
            SHAPE,
            PRECISIONS["float32"],
            rows=replace(GEOMETRY, num_generations_update=selected).rows_per_micro_batch,
            width=1000,
            checkpointing=checkpointing,
            attention="sdpa",
            on_cpu=on_cpu,
        )
        for selected in (1, 2, 4, 8)
    ]
    assert sorted(set(sizes)) == sizes
