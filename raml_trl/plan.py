"""What a step of a GRPO recipe will take, in seconds and in memory, for several m: before a GPU hour is spent on it.

    python -m raml_trl.plan --config recipes/tiny/plan.yaml

`output_dir` gets `plan.json` and `plan.svg`. Seconds rest on a run that was timed, or on seconds that are given; memory
on a formula. The output says which number is which, `raml_trl.planning` how it is had.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, get_peft_config

from raml_trl.command_line import StrictParser, read_yaml, run
from raml_trl.configs import SubsetGRPOConfig
from raml_trl.errors import InputError
from raml_trl.figures import markdown_table, plan_figure
from raml_trl.files import read_rows, whole_file, write_json
from raml_trl.lifecycle import model_init_kwargs
from raml_trl.models import check_model
from raml_trl.plan_arguments import PlanConfig
from raml_trl.planning import (
    ROLLOUTS_DRAWN,
    Geometry,
    Precision,
    Shape,
    Split,
    Work,
    activation_bytes,
    draw_work,
    find_precision,
    given_split,
    logged_lengths,
    lognormal_lengths,
    measured_split,
    predict_seconds,
    state_bytes,
)
from raml_trl.runs import Run, complete_record
from raml_trl.training_arguments import GRPOArguments
from raml_trl.validation import check_type

GIB = 2**30


def main(config: PlanConfig, record: Run) -> None:
    """Read, draw, predict, write, print."""
    recipes, model = read_recipes(config)
    args = recipes[-1]
    summary = None if config.run is None else read_summary(config.run, config.num_processes, args.num_generations)
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


def read_recipes(config: PlanConfig) -> tuple[list[SubsetGRPOConfig], ModelConfig]:
    """The recipe for every m, ascending, as `SubsetGRPOConfig` accepts it, and its model.

    Raises:
        InputError: if the recipe cannot work, or with an m that was asked for.
    """
    path, num_processes = Path(config.recipe), config.num_processes
    dataclass_types: Any = [GRPOArguments, SubsetGRPOConfig, ModelConfig]
    parser = StrictParser(dataclass_types, allow_abbrev=False)
    # One process that takes the micro-batches of all in turn has the same arithmetic, and starts no process group. What
    # the device and the trackers of another machine are is not for this one to check.
    overrides = ["--config", str(path), "--use_cpu", "true", "--report_to", "none"]
    written = {"gradient_accumulation_steps": 1} | read_yaml(path)
    for name in ("gradient_accumulation_steps", "steps_per_generation"):
        if written.get(name) is not None:
            check_type(name, written[name], int)
            overrides += [f"--{name}", str(written[name] * num_processes)]

    def read(*more: str) -> tuple[SubsetGRPOConfig, ModelConfig]:
        _, args, model = parser.parse([*overrides, *more])
        if args.steps_per_generation % num_processes:
            raise InputError(
                f"generation_batch_size ({args.generation_batch_size}) must be a multiple of "
                f"per_device_train_batch_size x processes ({args.per_device_train_batch_size} x {num_processes})"
            )
        return args, model

    args, model = read()
    asked, group = config.num_generations_update, args.num_generations
    found = []
    for selected in sorted({*(2**power for power in range(group.bit_length())), group} if asked is None else {*asked}):
        try:
            found.append(read("--num_generations_update", str(selected))[0])
        except InputError:
            if asked is not None or selected == group:
                raise
    return found, model


def read_geometry(args: SubsetGRPOConfig, num_processes: int) -> Geometry:
    """Of a recipe as `read_recipes` has it."""
    free = not args.per_micro_batch_terms
    skips = free and args.beta == 0.0 and args.subset_mode == "drop"
    return Geometry(
        num_processes=num_processes,
        per_device_train_batch_size=args.per_device_train_batch_size,
        steps_per_generation=args.steps_per_generation // num_processes,
        gradient_accumulation_steps=args.gradient_accumulation_steps // num_processes,
        num_iterations=args.num_iterations,
        num_generations=args.num_generations,
        num_generations_update=args.num_generations_update,
        selection=args.selection,
        selection_scope=args.selection_scope,
        subset_mode=args.subset_mode,
        length_bucketing=free if args.length_bucketing is None else args.length_bucketing,
        skip_zero_advantage=skips if args.skip_zero_advantage is None else args.skip_zero_advantage,
    )


def read_summary(directory: str, num_processes: int, num_generations: int) -> dict[str, Any]:
    """What a run of train_grpo spent.

    Raises:
        InputError: if there is no such run, or it says nothing of this plan.
    """
    results = complete_record(directory, "train_grpo")["results"]
    try:
        summary = json.loads((Path(directory) / "summary.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"run {directory} cannot be read: {error.strerror}: {error.filename}") from error
    for name, of_run, planned in (
        ("processes", results["processes"], num_processes),
        ("num_generations", summary["num_generations"], num_generations),
    ):
        if of_run != planned:
            raise InputError(f"run {directory} had {name} {of_run}, and the plan has {planned}: its seconds say little")
    if not summary["counts"].get("trained"):
        raise InputError(f"run {directory} trained on no row: it does not say what an update costs")
    return summary


def read_split(config: PlanConfig, summary: dict[str, Any] | None, geometry: Geometry, work: Work) -> Split:
    """Where the seconds of a step go: as measured, or as given."""
    if summary is not None:
        return measured_split(summary, geometry)
    return given_split(config.seconds_generating, config.seconds_updating, work)


def read_lengths(config: PlanConfig, args: SubsetGRPOConfig) -> NDArray[np.int64]:
    """`(N,)` completion tokens to draw from.

    Raises:
        InputError: if they cannot be read.
    """
    longest, rng = args.max_completion_length, np.random.default_rng(config.seed)
    if config.length_median is not None and config.length_sigma is not None:
        return lognormal_lengths(config.length_median, config.length_sigma, longest, rng)
    source = Path(config.lengths or config.run or "")
    try:
        if source.is_dir():
            complete_record(str(source), "train_grpo")
            found = written_lengths(source)
            if not found:
                entries = json.loads((source / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
                found = logged_lengths(entries, args.generation_batch_size, rng).tolist()
        elif source.suffix == ".json":
            found = json.loads(source.read_text(encoding="utf-8"))
        else:
            found = [row["num_tokens"] for row in read_rows(source)]
        lengths = np.array(found)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:  # missing, damaged, without the column
        raise InputError(f"lengths {source} cannot be read: {type(error).__name__}: {error}") from error
    if lengths.ndim != 1 or not lengths.size or lengths.dtype.kind != "i" or lengths.min() < 1:
        raise InputError(f"lengths {source} must be whole numbers of tokens, 1 or more, and one at least")
    return np.minimum(lengths, longest)


def written_lengths(run: Path) -> list[int]:
    """Tokens, with the one that ends them, of the rollouts that a run logged; none if it did not."""
    rows = [row["completion"] for path in sorted((run / "completions").glob("*.parquet")) for row in read_rows(path)]
    texts = [row if isinstance(row, str) else "".join(message["content"] for message in row) for row in rows]
    if not texts:
        return []
    texts = texts[:: -(-len(texts) // ROLLOUTS_DRAWN)]
    tokenizer = AutoTokenizer.from_pretrained(run)
    return [len(tokens) + 1 for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def read_model(config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig) -> tuple[Shape, Precision]:
    """The model of the recipe, counted without its weights.

    Raises:
        InputError: if its config cannot be read, or it is of a kind that the formula for its memory does not know.
    """
    name = config.model_config or check_model(model.model_name_or_path)
    try:
        described = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(described)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the config of model {name} cannot be read: name a directory that holds its config.json in model_config "
            f"({reason})"
        ) from error
    fields = described.get_text_config().to_dict()
    adapter = get_peft_config(model)
    if adapter is not None:
        empty = get_peft_model(empty, adapter)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in empty.parameters()]
    if "intermediate_size" not in fields or "num_experts_per_tok" in fields or model.load_in_4bit or model.load_in_8bit:
        raise InputError(f"model {name}: the memory of this kind is not known here, only of dense Llama-like models")
    heads = fields["num_attention_heads"]
    head_size = fields.get("head_dim") or fields["hidden_size"] // heads
    shape = Shape(
        num_parameters=sum(size for size, _ in sizes),
        num_trained=sum(size for size, trained in sizes if trained),
        num_layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        queries=heads * head_size,
        keys=(fields.get("num_key_value_heads") or heads) * head_size,
        heads=heads,
        vocabulary=fields["vocab_size"],
    )
    dtype = model_init_kwargs(args, model)["dtype"]
    dtype = str(described.dtype if dtype == "auto" else dtype).removeprefix("torch.")
    return shape, find_precision(dtype, mixed=bool(args.bf16 or args.fp16), sharding=config.sharding)


def predict_bytes(
    config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig, shape: Shape, precision: Precision, rows: int
) -> dict[str, int]:
    """Of one device, when all `rows` of a micro-batch are as long as they may be."""
    states = state_bytes(
        shape,
        precision,
        sharding=config.sharding,
        num_processes=config.num_processes,
        reference=args.beta != 0.0 and not model.use_peft,
    )
    width = config.prompt_length + args.max_completion_length
    attention = model_init_kwargs(args, model)["attn_implementation"] or "sdpa"
    activations = activation_bytes(
        shape,
        precision,
        rows=rows,
        width=width,
        checkpointing=bool(args.gradient_checkpointing),
        attention=attention,
        on_cpu=bool(read_yaml(Path(config.recipe)).get("use_cpu")),
    )
    return {**states, "activations": activations}


def explain(
    config: PlanConfig,
    args: SubsetGRPOConfig,
    summary: dict[str, Any] | None,
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


def _digits(value: float) -> str:
    """Three that count."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    run(main, PlanConfig, repeatable=True)
