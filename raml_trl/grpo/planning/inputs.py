"""What `plan` rests on: the recipe for every m, the seconds of a run, and lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer
from trl import ModelConfig

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.step_cost import (
    ROLLOUTS_DRAWN,
    Geometry,
    Split,
    Work,
    given_split,
    logged_lengths,
    lognormal_lengths,
    measured_split,
)
from raml_trl.runtime.cli import StrictParser
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows, read_yaml
from raml_trl.runtime.history import SUMMARY_FILE, RunSummary, read_log_history, read_summary
from raml_trl.runtime.runs import complete_record
from raml_trl.runtime.validation import check_type


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


def read_costs(directory: str, num_processes: int, num_generations: int) -> RunSummary:
    """What a run of train_grpo spent.

    Raises:
        InputError: if there is no such run, or it says nothing of this plan.
    """
    results = complete_record(directory, "train_grpo")["results"]
    summary = read_summary(Path(directory))
    if summary is None:
        raise InputError(f"run {directory} cannot be read: it has no {SUMMARY_FILE}")
    for name, of_run, planned in (
        ("processes", results["processes"], num_processes),
        ("num_generations", summary["num_generations"], num_generations),
    ):
        if of_run != planned:
            raise InputError(f"run {directory} had {name} {of_run}, and the plan has {planned}: its seconds say little")
    if not summary["counts"].get("trained"):
        raise InputError(f"run {directory} trained on no row: it does not say what an update costs")
    return summary


def read_split(config: PlanConfig, summary: RunSummary | None, geometry: Geometry, work: Work) -> Split:
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
                found = logged_lengths(read_log_history(source), args.generation_batch_size, rng).tolist()
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
