"""What a step of a GRPO recipe will take, in seconds and in memory, for several m: before a GPU hour is spent on it.

    python -m raml_trl.plan --config recipes/tiny/demo/plan.yaml

`output_dir` gets `plan.json` and `plan.svg`. Seconds rest on a run that was timed, or on seconds that are given; memory
on a formula. The output says which number is which, `raml_trl.grpo.planning` how
each is computed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.inputs import read_costs, read_geometry, read_lengths, read_recipes, read_split
from raml_trl.grpo.planning.plan_memory import predict_bytes, read_model
from raml_trl.grpo.planning.step_cost import Split, Work, draw_work, predict_seconds
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import markdown_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.history import RunSummary
from raml_trl.runtime.runs import Run

GIB = 2**30


def main(config: PlanConfig, record: Run) -> None:
    """Read, draw, predict, write, print."""
    recipes, model = read_recipes(config)
    args = recipes[-1]
    summary = None if config.run is None else read_costs(config.run, config.num_processes, args.num_generations)
    dead = config.dead_groups
    if dead is None:
        dead = 0.0 if summary is None else 1 - summary["counts"]["trained"] / summary["counts"]["selected"]
    lengths = read_lengths(config, args)
    geometries = [read_geometry(one, config.num_processes) for one in recipes]
    works = [
        draw_work(geometry, lengths, prompt_length=config.prompt_length, dead_groups=dead, seed=config.seed)
        for geometry in geometries
    ]
    split = read_split(config, summary, geometries[-1], works[-1])

    stock = replace(geometries[-1], num_generations_update=args.num_generations, subset_mode="drop")
    everything = Work(stock.rollouts_per_step, works[-1].cells_all, works[-1].cells_all)
    cases = [("TRL", stock, everything, split._replace(selecting=0.0))]
    cases += [("ours", geometry, work, split) for geometry, work in zip(geometries, works, strict=True)]
    shape, precision = read_model(config, args, model)
    predictions = [
        {
            "trainer": trainer,
            "num_generations_update": geometry.num_generations_update,
            "rows_per_micro_batch": geometry.rows_per_micro_batch,
            "rows": work.rows,
            "cells": work.cells,
            "seconds": predict_seconds(by, work, geometry.fraction),
            "bytes": predict_bytes(config, args, model, shape, precision, geometry.rows_per_micro_batch),
        }
        for trainer, geometry, work, by in cases
    ]
    notes = explain(config, args, summary, split, everything, lengths, dead)
    write_plan(record, config, predictions, notes)


def explain(
    config: PlanConfig,
    args: SubsetGRPOConfig,
    summary: RunSummary | None,
    split: Split,
    everything: Work,
    lengths: NDArray[np.int64],
    dead: float,
) -> list[str]:
    """What the numbers rest on: what was measured, what was given, and what is estimated."""
    price = (
        f"Estimated: an update costs {split.updating * 1e3:.3g} ms a step and {split.updating_per_cell * 1e6:.3g} us a "
        "cell (a token or padding); attention, whose cost per cell grows with length, is not treated apart."
    )
    drawn = (
        f"Estimated: cells, from {len(lengths):,} lengths (mean {lengths.mean():.0f}, longest {lengths.max()}) drawn "
        f"independently, prompts of {config.prompt_length} tokens, and {dead:.1%} of the groups without a signal."
    )
    if summary is None:
        seconds = (
            f"Given: {config.seconds_generating:g} s of generating and {config.seconds_updating:g} s of updating in a "
            "step of TRL on all G. What of the update does not shrink with its cells is not known, and taken to be 0."
        )
    else:
        counts, steps = summary["counts"], summary["steps"]
        seconds = (
            f"Measured: {config.run}, {steps} steps at m = {summary['num_generations_update']}: "
            + ", ".join(f"{name} {spent / steps:.3g} s" for name, spent in summary["seconds"].items() if spent)
            + " a step."
        )
        per_rollout = counts["cells_updating_all"] * config.num_processes / args.num_iterations / counts["rollouts"]
        ours = everything.cells * config.num_processes / args.num_iterations / everything.rows
        drawn += f" TRL's cells a rollout are {ours:.1f} as drawn; that run counted {per_rollout:.1f}."
    memory = (
        "Estimated: memory, by a formula, of weights, gradients, AdamW's states and the activations of a micro-batch "
        f"whose rollouts all have {args.max_completion_length:,} tokens. Not counted: vLLM, buffers of communication, "
        "fragmentation, and what the runtime takes."
    )
    return [seconds, price, drawn, memory]


def write_plan(record: Run, config: PlanConfig, predictions: list[dict[str, Any]], notes: list[str]) -> None:
    """The table to standard output, the numbers and the figure to the run's directory."""
    names = [f"{one['trainer']}, m = {one['num_generations_update']}" for one in predictions]
    head = ["trainer", "rows of a micro-batch", "rows", "cells", "generating s", "updating s", "step s"]
    head += ["speed-up", "ceiling", "GiB of a device"]
    body = [
        [
            name,
            str(one["rows_per_micro_batch"]),
            f"{one['rows']:,.0f}",
            f"{one['cells']:,.0f}",
            *(_digits(one["seconds"][part]) for part in ("generating", "updating", "step")),
            *(f"{one['seconds'][part]:.2f}" for part in ("speedup", "ceiling")),
            _digits(sum(one["bytes"].values()) / GIB),
        ]
        for name, one in zip(names, predictions, strict=True)
    ]
    seconds = {part: [one["seconds"][part] for one in predictions] for part in ("generating", "updating")}
    memory = {part: [one["bytes"][part] / GIB for one in predictions] for part in predictions[0]["bytes"]}
    with whole_file(record.directory / "plan.svg") as partial:
        partial.write_text(plan_figure([name.replace(", ", "\n") for name in names], seconds, memory), encoding="utf-8")
    write_json(record.directory / "plan.json", {"predictions": predictions, "notes": notes, "plan": asdict(config)})
    record.finish(0.0, {})
    lines = [markdown_table([head, *body]), "", *notes, "", f"Figure: {record.directory / 'plan.svg'}"]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def plan_figure(
    names: Sequence[str], seconds: Mapping[str, Sequence[float]], gibibytes: Mapping[str, Sequence[float]]
) -> str:
    """Draw two panels of stacked bars, as SVG: the seconds of a step and the memory of a device.

    Args:
        names: one label per bar, from left to right.
        seconds: for each part of a step, the height of each bar.
        gibibytes: for each part of the memory, the height of each bar.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, title, parts in zip(
        figure.subplots(1, 2), ("seconds of a step", "GiB of a device"), (seconds, gibibytes), strict=True
    ):
        dress(axes)
        bottoms = [0.0] * len(names)
        for (part, heights), colour in zip(parts.items(), COLOURS, strict=False):
            axes.bar(names, heights, 0.7, bottom=bottoms, label=part, color=colour)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        axes.set_ylim(0, max(bottoms) * 1.35)  # room for the legend
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return svg(figure)


def _digits(value: float) -> str:
    """Three that count."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    run(main, PlanConfig, repeatable=True)
