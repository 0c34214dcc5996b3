"""Predicts the work, seconds and memory of an optimizer step for several m (rollouts trained on per group).

The result also states where each number comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.ledger import is_uncertain
from raml_trl.grpo.planning.advice import Groups, Option, compare_options, recommend
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.inputs import (
    read_costs,
    read_geometry,
    read_groups,
    read_lengths,
    read_recipes,
    read_split,
)
from raml_trl.grpo.planning.memory import predict_bytes, propose_tokens, read_model
from raml_trl.grpo.planning.step_cost import (
    UNCERTAIN,
    Split,
    Work,
    draw_work,
    kept_rollouts,
    predict_seconds,
)
from raml_trl.runtime.history import RunSummary


@dataclass(frozen=True)
class Prediction:
    """The predicted optimizer step of one trainer ("TRL" or "ours") with one m (rollouts trained on per group).

    `rows` is the number of rollouts trained on, over all devices. `cells` is the number of token positions, padding
    included, that the busiest device runs. `cells_per_micro_batch` is that of its largest micro-batch, if all rollouts
    have the maximum length. `seconds` comes from `predict_seconds`, and `bytes` from `predict_bytes`: the bytes of each
    part of the memory of one device.
    """

    trainer: str
    num_generations_update: int
    cells_per_micro_batch: int
    rows: float
    cells: float
    seconds: dict[str, float]
    bytes: dict[str, int]


@dataclass(frozen=True)
class _Basis:
    """The inputs of all predictions."""

    config: PlanConfig
    args: SubsetGRPOConfig
    summary: RunSummary | None
    lengths: NDArray[np.int64]
    dead_groups: float
    split: Split
    stock: Work  # the work of TRL's trainer


def forecast(config: PlanConfig) -> tuple[Sequence[Prediction], Sequence[Option], Sequence[str]]:
    """Return the predictions, a comparison of ways to save time, and notes on where the numbers come from.

    The predictions are for TRL's trainer, and for ours with every m (rollouts trained on per group). The comparison is
    empty unless `config` names a run that logged its rollouts.
    """
    recipes, model = read_recipes(config)
    args = recipes[-1]
    summary = None if config.run is None else read_costs(config.run, config.num_processes, args.num_generations)
    dead_groups = config.dead_groups
    if dead_groups is None:
        dead_groups = 0.0 if summary is None else 1 - summary["counts"]["trained"] / summary["counts"]["selected"]
    lengths = read_lengths(config, args)
    geometries = [read_geometry(recipe, config.num_processes, model) for recipe in recipes]
    works = [
        draw_work(geometry, lengths, prompt_length=config.prompt_length, dead_groups=dead_groups, seed=config.seed)
        for geometry in geometries
    ]
    split = read_split(config, summary, geometries[-1], works[-1])
    stock = replace(
        geometries[-1], num_generations_update=args.num_generations, subset_mode="drop", shared_prompts=False
    )
    stock_work = Work(stock.rows_per_step, works[-1].cells_all, works[-1].cells_all)
    cases = [("TRL", stock, stock_work, split._replace(selecting=0.0))]
    cases += [("ours", geometry, work, split) for geometry, work in zip(geometries, works, strict=True)]
    shape, precision = read_model(config, args, model)
    longest = config.prompt_length, args.max_completion_length
    predictions = [
        Prediction(
            trainer=trainer,
            num_generations_update=geometry.num_generations_update,
            cells_per_micro_batch=geometry.most_cells(*longest),
            rows=work.rows,
            cells=work.cells,
            seconds=predict_seconds(case_split, work, geometry.fraction),
            bytes=predict_bytes(config, args, model, shape, precision, geometry.most_cells(*longest)),
        )
        for trainer, geometry, work, case_split in cases
    ]
    notes = _notes(_Basis(config, args, summary, lengths, dead_groups, split, stock_work))
    if config.device_memory is not None:
        tokens = propose_tokens(
            config.device_memory, lambda cells: predict_bytes(config, args, model, shape, precision, cells)
        )
        whole = geometries[-1].packed_cells(*longest)
        notes.append(_proposal(config.device_memory, tokens, sum(longest), whole, packs=geometries[-1].packs))
    groups = None if config.run is None else read_groups(Path(config.run), args, config.prompt_length)
    if groups is None or not groups.live.any():
        notes.append(f"Not compared: ways to save, because {_missing(config.run, groups)}.")
        return predictions, [], notes
    per_step = geometries[-1].rows_per_step / args.num_generations / config.num_processes
    options = compare_options(groups, split, per_step, keep=args.prefix_keep, minimum=args.prefix_minimum)
    notes += [
        f"Compared: ways to save, on {len(groups.live):,} logged groups. Time is that to the same accuracy of the "
        "gradient, relative to m = G; gradients of different rollouts and tokens count as uncorrelated. Biased "
        "selections cannot be compared in this way. question_selection: mixed is what it gains at best.",
        recommend(options),
    ]
    return predictions, options, notes


def _missing(run: str | None, groups: Groups | None) -> str:
    """Return why ways to save cannot be compared."""
    if run is None:
        return "`run` names no run that has logged its rollouts"
    if groups is None:
        return f"{run} has logged no rollouts (log_completions: true logs them)"
    return "no logged group has a signal"


def _proposal(memory: float, tokens: int | None, longest: int, whole: int, *, packs: bool) -> str:
    """Return a sentence that proposes a number of tokens for a device with `memory` GiB.

    `tokens` is the number that fits, `longest` that of a rollout, and `whole` that of the generation of a process.
    """
    if not packs:
        return "Proposed: nothing, because this recipe does not pack rows by tokens (see shared_prompts)."
    if tokens is None or tokens < longest:
        return (
            f"Proposed: nothing, because a rollout of {longest:,} tokens does not fit into {memory:g} GiB: shard the "
            "states, use LoRA or gradient checkpointing, or shorten the completions."
        )
    if tokens >= whole:
        return (
            f"Proposed: max_tokens_per_micro_batch: {whole}, because a whole generation of a process fits into "
            f"{memory:g} GiB. A larger number changes nothing."
        )
    return f"Proposed: max_tokens_per_micro_batch: {tokens} for {memory:g} GiB, of which a tenth is left free."


def _fit(summary: RunSummary | None) -> str:
    """Return text with the microseconds that fit to the micro-batches of a run, or "" if there is no interval."""
    cost = None if summary is None else summary.get("cell_seconds")
    if cost is None or cost["low"] is None or cost["high"] is None:
        return ""
    fitted, low, high = (value * 1e6 for value in (cost["fitted"], cost["low"], cost["high"]))
    return f"; fitted: {fitted:,.4g}, 95 % interval {low:,.4g} to {high:,.4g}"


def _notes(basis: _Basis) -> list[str]:
    """Return sentences that state which numbers were measured, given or estimated."""
    config, args, split, lengths = basis.config, basis.args, basis.split, basis.lengths
    milliseconds, microseconds = split.updating * 1e3, split.updating_per_cell * 1e6
    price = (
        f"Estimated: an update costs {milliseconds:.3g} ms a step and {microseconds:,.4g} us a cell "
        f"(a token or padding{_fit(basis.summary)}). Attention, whose cost per cell grows with length, is not modelled "
        "separately."
    )
    if _fit(basis.summary) and not split.updating:
        price += " A cost of a step below 0 would fit better."
    if basis.summary is not None and is_uncertain(basis.summary):
        price += f" {UNCERTAIN}"
    cells = (
        f"Estimated: cells, from {len(lengths):,} lengths (mean {lengths.mean():.0f}, longest {lengths.max()}) drawn "
        f"independently, prompts of {config.prompt_length} tokens, and {basis.dead_groups:.1%} of the groups without a "
        "signal."
    )
    if basis.summary is None:
        seconds = (
            f"Given: {config.seconds_generating:g} s of generating and {config.seconds_updating:g} s of updating in a "
            "step of TRL on all G. The part of the update that does not shrink with its cells is unknown, taken as 0."
        )
    else:
        counts, steps = basis.summary["counts"], basis.summary["steps"]
        seconds = (
            f"Measured: {config.run}, {steps} steps at m = {basis.summary['num_generations_update']}: "
            + ", ".join(f"{name} {spent / steps:.3g} s" for name, spent in basis.summary["seconds"].items() if spent)
            + " a step."
        )
        rows = args.num_iterations * kept_rollouts(basis.summary)
        counted = counts["cells_updating_all"] * config.num_processes / rows
        drawn = basis.stock.cells * config.num_processes / basis.stock.rows
        cells += f" TRL's cells per rollout are {drawn:.1f} as drawn; that run counted {counted:.1f}."
    memory = (
        "Estimated: memory, by a formula, of weights, gradients, AdamW states and the activations of a micro-batch "
        f"whose rollouts all have {args.max_completion_length:,} tokens. Not included: vLLM, communication buffers, "
        "fragmentation, and the runtime."
    )
    baseline = (
        "Speed-up and ceiling: relative to TRL's trainer, which trains on all G rollouts with padding (the first row). "
        "The report of runs compares with our own trainer on all G instead."
    )
    return [seconds, price, cells, memory, baseline]
