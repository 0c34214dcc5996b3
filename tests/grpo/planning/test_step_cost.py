"""Predicted rows, cells and seconds match calculations by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raml_trl.grpo.planning.geometry import Geometry
from raml_trl.grpo.planning.step_cost import (
    Split,
    Work,
    cut_lengths,
    draw_work,
    given_split,
    logged_lengths,
    lognormal_lengths,
    measured_split,
    predict_seconds,
)
from raml_trl.grpo.prefix_cuts import surviving
from raml_trl.grpo.rows import CUT_DRAWS

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


def test_all_rollouts_without_bucketing_equal_trl() -> None:
    assert draw(GEOMETRY, EQUAL) == Work(rows=32, cells=32 * 35, cells_all=32 * 35)
    drawn = draw(GEOMETRY, UNEQUAL)  # among 32 rollouts, one almost always has the maximal length
    assert drawn.cells == drawn.cells_all == pytest.approx(32 * 105, rel=1e-2)


@pytest.mark.parametrize("selected", [1, 2, 4])
@pytest.mark.parametrize("geometry", [GEOMETRY, TRIMMED])
def test_a_share_of_equal_rollouts_runs(geometry: Geometry, selected: int) -> None:
    part = replace(geometry, num_generations_update=selected)
    assert draw(part, EQUAL) == Work(rows=4 * selected, cells=4 * selected * 35, cells_all=32 * 35)


@pytest.mark.parametrize("selected", [1, 2, 4, 8])
def test_a_shared_prompt_counts_once(selected: int) -> None:
    """Four groups with prompts of 5 tokens, of which 4 are shared, and completions of 30."""
    packed = replace(TRIMMED, shared_prompts=True, num_generations_update=selected)
    assert draw(packed, EQUAL) == Work(rows=4 * selected, cells=4 * (4 + 30 * selected), cells_all=32 * 35)
    assert packed.most_cells(5, 30) == min(8 * 35, 4 * (4 + 30 * selected))
    # a micro-batch for each row: every row has its own copy of the prompt
    alone = replace(packed, max_tokens_per_micro_batch=34, per_device_train_batch_size=1, steps_per_generation=32)
    alone = replace(alone, gradient_accumulation_steps=32)
    assert draw(alone, EQUAL) == Work(rows=4 * selected, cells=4 * selected * 34, cells_all=32 * 35)
    assert alone.most_cells(5, 30) == 34


def test_a_masked_row_runs_too() -> None:
    masked = replace(TRIMMED, subset_mode="mask", skip_zero_advantage=False, num_generations_update=2)
    assert draw(masked, EQUAL) == Work(rows=8, cells=32 * 35, cells_all=32 * 35)
    assert masked.rows_per_micro_batch == 8


@pytest.mark.long
def test_bucketing_trims_to_the_rows_themselves() -> None:
    alone = replace(TRIMMED, per_device_train_batch_size=1, steps_per_generation=64, gradient_accumulation_steps=64)
    drawn = draw(alone, UNEQUAL)  # one row in each micro-batch: nothing is padded
    assert drawn.cells == pytest.approx(64 * (5 + 40), rel=0.03)  # the mean of the four is 40
    assert drawn.cells_all == 64 * 105
    assert draw(TRIMMED, UNEQUAL).cells < draw(GEOMETRY, UNEQUAL).cells
    # with steps of three micro-batches, any two may fall into different steps, so rows are not moved
    apart = draw(replace(TRIMMED, gradient_accumulation_steps=3), UNEQUAL)
    assert apart.cells / apart.cells_all > 1.1 * draw(TRIMMED, UNEQUAL).cells / draw(TRIMMED, UNEQUAL).cells_all


def test_rows_without_signal_are_left_out() -> None:
    assert draw(TRIMMED, EQUAL, 0.25).rows == 24
    assert draw(GEOMETRY, EQUAL, 0.25).rows == 32
    assert draw(TRIMMED, EQUAL, 1.0) == Work(rows=0, cells=4 * 6, cells_all=32 * 35)  # 4 idle rows: 5 + 1 tokens
    # selection over the whole batch gives groups without signal fewer rows
    batch = replace(TRIMMED, selection="abs_advantage", selection_scope="batch", num_generations_update=2)
    assert draw(batch, EQUAL, 0.25).rows == pytest.approx(8, rel=0.01)  # none if all four groups have no signal
    assert draw(replace(batch, selection_scope="group"), EQUAL, 0.25).rows == 6


def test_the_lengths_after_the_cut() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 500)
    for minimum, keep in ((1, 0.3), (8, 0.5), (100, 0.5), (4, 1.0)):
        draws = rng.random(500)
        batch = {
            "completion_mask": torch.from_numpy(np.arange(60) < lengths[:, None]).long(),
            CUT_DRAWS: torch.from_numpy(draws),
        }
        tokens = (surviving(batch, minimum=minimum, keep=keep) & batch["completion_mask"].bool()).sum(dim=1)
        assert (cut_lengths(lengths, draws, minimum=minimum, keep=keep) == tokens.numpy()).all()


def test_settings_that_choose_short_rollouts_or_cut_them() -> None:
    """With a loss that is a mean over each row, a long rollout is selected less often."""
    packed = replace(TRIMMED, shared_prompts=True, selection="importance", num_generations_update=2)
    whole = draw(packed, UNEQUAL).cells
    assert draw(replace(packed, selection_cost="tokens", mean_of_row=True), UNEQUAL).cells < 0.8 * whole
    assert draw(replace(packed, prefix=(100, 0.5)), UNEQUAL).cells == whole
    cut = draw(replace(packed, prefix=(1, 0.5)), EQUAL).cells
    prompts = 4 * 4  # of 4 groups, without their last tokens
    assert cut - prompts == pytest.approx(0.75 * (draw(packed, EQUAL).cells - prompts), rel=0.05)


def test_a_step_is_the_sum_of_its_micro_batches() -> None:
    half = replace(TRIMMED, gradient_accumulation_steps=2)
    assert draw(half, EQUAL) == Work(rows=16, cells=16 * 35, cells_all=16 * 35)
    assert half.rollouts_per_step == 16
    twice = replace(half, num_iterations=2)
    assert draw(twice, EQUAL) == draw(half, EQUAL)
    assert (twice.rollouts_per_step, twice.rows_per_step) == (8, 16)


@pytest.mark.parametrize("geometry", [GEOMETRY, TRIMMED])
def test_processes_share_the_rows(geometry: Geometry) -> None:
    both = replace(geometry, num_processes=2, num_generations_update=2)
    assert draw(both, EQUAL) == Work(rows=16, cells=8 * 35, cells_all=32 * 35)


@pytest.mark.long
def test_the_process_with_the_most_cells_counts() -> None:
    single_rows = replace(TRIMMED, num_processes=2, per_device_train_batch_size=1, steps_per_generation=1,
                       gradient_accumulation_steps=1, num_generations=2, num_generations_update=2)  # fmt: skip
    # each of two lengths is 10 or 100, so the greater one is 100 in three of four cases
    assert draw(single_rows, np.array([10, 100])).cells == pytest.approx(5 + 0.75 * 100 + 0.25 * 10, rel=0.03)


def test_the_draw_is_reproducible_and_the_same_for_every_m() -> None:
    lengths = np.arange(1, 1000)
    assert draw(TRIMMED, lengths) == draw(TRIMMED, lengths)
    works = [draw(replace(TRIMMED, num_generations_update=selected), lengths) for selected in (1, 2, 4, 8)]
    assert len({work.cells_all for work in works}) == 1
    assert sorted(work.cells for work in works) == [work.cells for work in works]


def summary(**changes: Any) -> dict[str, Any]:
    """Return the summary of a run with 64 rollouts, whose updates take 1 s plus 10 ms per cell."""
    seconds = dict.fromkeys(("generating", "rewarding", "scoring", "preparing", "selecting", "updating"), 0.0)
    seconds |= {"generating": 6.0, "rewarding": 0.5, "preparing": 0.5, "selecting": 0.2, "updating": 2.0}
    whole = 7.0 + 5.0  # updates on all 400 cells take 1 s + 4 s
    record = {
        "seconds": seconds,
        "counts": {"rollouts": 64, "selected": 16, "cells_updating": 100, "cells_updating_all": 400},
        "speedup": {"estimated": whole / 9.2},
    }
    sizes = {"num_generations": 8, "num_generations_update": 2}
    return {name: value | changes.get(name, {}) for name, value in record.items()} | sizes


def test_the_constant_and_price_of_a_run_are_recovered() -> None:
    # a step has 32 rollouts, half of the 64 of the run
    assert measured_split(summary(), GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.5, 0.01))
    half = replace(GEOMETRY, gradient_accumulation_steps=2)
    assert measured_split(summary(), half) == pytest.approx(Split(1.75, 0.05, 0.25, 0.01))
    checked = summary(seconds={"updating": 12.0}) | {"later_updating": 2.0, "speedup": {"estimated": 22.0 / 19.2}}
    assert measured_split(checked, GEOMETRY) == pytest.approx(measured_split(summary(), GEOMETRY))
    refilled = summary(counts={"rollouts": 128})  # 64 of them were replaced
    assert measured_split(refilled, GEOMETRY) == measured_split(summary(), GEOMETRY)


def test_the_price_that_a_run_has_fitted() -> None:
    cost = {"fitted": 0.015, "low": 0.01, "high": 0.02}
    fitted = summary() | {"cell_seconds": cost}
    assert measured_split(fitted, GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.25, 0.015))
    for chance, price in ((-1.0, 0.0), (1.0, 0.02)):  # the whole update costs 0.02 s a cell
        split = measured_split(fitted | {"cell_seconds": cost | {"fitted": chance}}, GEOMETRY)
        assert split.updating_per_cell == pytest.approx(price)
        assert split.updating == pytest.approx(1.0 if chance < 0 else 0.0, abs=0)


def test_a_run_on_all_cells_has_a_price_only() -> None:
    record = summary(counts={"cells_updating_all": 100})
    assert measured_split(record, GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.0, 0.02))


@pytest.mark.parametrize(("estimated", "constant", "price"), [(0.5, 1.0, 0.0), (9.0, 0.0, 0.02)])
def test_neither_part_of_the_cost_is_negative(estimated: float, constant: float, price: float) -> None:
    split = measured_split(summary(speedup={"estimated": estimated}), GEOMETRY)
    assert split == pytest.approx(Split(3.5, 0.1, constant, price))


def test_scoring_has_a_price_only() -> None:
    # scoring took 1 s for 50 cells; TRL would score 200 cells in 4 s
    record = summary(
        seconds={"scoring": 1.0},
        counts={"cells_scoring": 50, "cells_scoring_all": 200},
        speedup={"estimated": (7.0 + 4.0 + 5.0) / 10.2},
    )
    assert measured_split(record, GEOMETRY) == pytest.approx(Split(3.5, 0.1, 0.5, 0.01 + 0.01))


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


def test_given_seconds_are_returned_for_all_rollouts() -> None:
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


@pytest.mark.parametrize("limit", [10_000, 150])
def test_lengths_that_fit_a_log(limit: int) -> None:
    """Their mean and their longest are those of the run, also if a fifth of the rollouts are cut at the limit."""
    drawn = 100 * np.exp(0.5 * np.random.default_rng(0).standard_normal((200, 128)))  # 200 steps of 128 rollouts
    run = np.clip(drawn, 1, limit).round()
    parts = {"mean": np.mean, "min": np.min, "max": np.max}
    entries = [
        {f"completions/{part}_length": float(statistic(step)) for part, statistic in parts.items()} for step in run
    ]
    lengths = logged_lengths([*entries, {"eval_reward": 1.0}], 128, np.random.default_rng(0))
    assert lengths.mean() == pytest.approx(run.mean(), abs=0.05)
    assert lengths.max() <= run.max()
    if run.max() < limit:
        assert np.log(lengths).std() == pytest.approx(0.5, rel=0.1)


def test_equal_lengths_in_a_log() -> None:
    entry = {f"completions/{part}_length": 7.0 for part in ("mean", "min", "max")}
    assert (logged_lengths([entry], 8, np.random.default_rng(0)) == 7).all()
