"""Reads the inputs of a plan: the recipe with every m (rollouts trained on per group), costs and completion lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer
from trl import ModelConfig

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.config_checks import MEAN_OF_ROW_LOSSES
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.grpo.planning.advice import Groups
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.geometry import Geometry
from raml_trl.grpo.planning.step_cost import (
    ROLLOUTS_DRAWN,
    Split,
    Work,
    given_split,
    logged_lengths,
    lognormal_lengths,
    measured_split,
)
from raml_trl.grpo.row_rules import ModelTraits
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_rows, read_yaml
from raml_trl.runtime.history import SUMMARY_FILE, RunSummary, read_log_history, read_summary
from raml_trl.runtime.parser import StrictParser
from raml_trl.runtime.recipes import find_recipe
from raml_trl.runtime.rollout_table import SELECTED, column_name, read_rollouts
from raml_trl.runtime.runs import complete_record
from raml_trl.runtime.validation import check_type
from raml_trl.training.config import CheckedModelConfig


def read_recipes(config: PlanConfig) -> tuple[list[SubsetGRPOConfig], ModelConfig]:
    """Return one config of the recipe for every m (rollouts trained on per group), and the settings of its model.

    The configs are in ascending order of m. If the recipe is for several processes, each config describes one process
    that runs the micro-batches of all of them.

    Raises:
        InputError: if the recipe is invalid, or invalid with a requested m.
    """
    path, num_processes = find_recipe(config.recipe), config.num_processes
    dataclass_types: Any = [GRPOArguments, SubsetGRPOConfig, CheckedModelConfig]
    parser = StrictParser(dataclass_types, allow_abbrev=False)
    # Batch sizes are valid for several processes if they are valid for one process that runs the micro-batches of all
    # of them. So no process group is needed. The device and the trackers belong to another machine, so they are not
    # checked here.
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
    requested, group = config.num_generations_update, args.num_generations
    powers = {*(2**power for power in range(group.bit_length())), group}
    recipes = []
    for selected in sorted(powers if requested is None else set(requested)):
        try:
            recipes.append(read("--num_generations_update", str(selected))[0])
        except InputError:
            if requested is not None or selected == group:
                raise
    return recipes, model


def read_geometry(args: SubsetGRPOConfig, num_processes: int, model: ModelConfig | None = None) -> Geometry:
    """Return the batch sizes and numbers of steps of a run, from a config and the model that `read_recipes` returned.

    Some of them depend on whether the model draws random numbers in training. Only the settings in `args` and `model`
    are read to find this out; dropout in the model's own config, for example, is ignored.
    """
    noise = bool(args.neftune_noise_alpha) or (model is not None and model.use_peft and model.lora_dropout > 0)
    rules = args.row_rules(ModelTraits(noise=noise))
    cuts = args.token_selection == "prefix" and args.subset_mode == "drop"
    return Geometry(
        num_processes=num_processes,
        per_device_train_batch_size=args.per_device_train_batch_size,
        steps_per_generation=args.steps_per_generation // num_processes,
        gradient_accumulation_steps=args.gradient_accumulation_steps // num_processes,
        num_iterations=args.num_iterations,
        num_generations=args.num_generations,
        num_generations_update=args.num_generations_update,
        selection=str(args.selection),
        selection_scope=args.selection_scope,
        subset_mode=args.subset_mode,
        length_bucketing=rules.length_bucketing,
        skip_zero_advantage=rules.skip_zero_advantage,
        shared_prompts=args.shared_prompts != "off" and not noise,
        max_tokens_per_micro_batch=args.max_tokens_per_micro_batch,
        selection_cost=args.selection_cost,
        mean_of_row=args.loss_type in MEAN_OF_ROW_LOSSES,
        prefix=(args.prefix_minimum, args.prefix_keep) if cuts else None,
    )


def read_costs(directory: str, num_processes: int, num_generations: int) -> RunSummary:
    """Read the measured costs (seconds, rows and tokens) of the run of `train_grpo` in `directory`.

    The run must have had `num_processes` processes, and groups of `num_generations` rollouts.

    Raises:
        InputError: if there is no such run, or if it had another number of processes or of rollouts per group.
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
            raise InputError(
                f"run {directory} had {name} {of_run} and the plan has {planned}: use a run with {name} {planned}"
            )
    if not summary["counts"].get("trained"):
        raise InputError(f"run {directory} trained on no row, so the cost of an update is unknown: use another run")
    return summary


def read_split(config: PlanConfig, summary: RunSummary | None, geometry: Geometry, work: Work) -> Split:
    """Return the constant seconds of a step, and its seconds per cell (a token position of a batch, padding included).

    If there is a `summary` of a run, `measured_split` computes them for the recipe's `geometry`. Otherwise
    `given_split` computes them from the seconds in `config` and the `work` of a step.
    """
    if summary is not None:
        return measured_split(summary, geometry)
    return given_split(config.seconds_generating, config.seconds_updating, work)


def read_lengths(config: PlanConfig, args: SubsetGRPOConfig) -> NDArray[np.int64]:
    """Return the N completion lengths `(N,)`, in tokens, from which the lengths of simulated rollouts are drawn.

    They are drawn from a log-normal distribution if `config` gives `length_median` and `length_sigma`. Otherwise they
    are read from the file or run `config.lengths` or, without it, from the run `config.run`. If a run has logged no
    completions, they are drawn from a log-normal distribution fitted to its log. No length exceeds
    `max_completion_length` in `args`.

    Raises:
        InputError: if the lengths cannot be read.
    """
    longest, rng = args.max_completion_length, np.random.default_rng(config.seed)
    if config.length_median is not None and config.length_sigma is not None:
        return lognormal_lengths(config.length_median, config.length_sigma, longest, rng)
    source = Path(config.lengths or config.run or "")
    try:
        if source.is_dir():
            complete_record(str(source), "train_grpo")
            values: object = logged_completion_lengths(source)
            if not values:
                values = logged_lengths(read_log_history(source), args.generation_batch_size, rng)
        elif source.suffix == ".json":
            values = json.loads(source.read_text(encoding="utf-8"))
        else:
            values = [row["num_tokens"] for row in read_rows(source)]
        lengths = np.array(values)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:  # the file or its column is missing or damaged
        raise InputError(f"lengths {source} cannot be read: {type(error).__name__}: {error}") from error
    if lengths.ndim != 1 or not lengths.size or lengths.dtype.kind != "i" or lengths.min() < 1:
        raise InputError(f"lengths {source} must be a non-empty list of whole numbers of tokens, each 1 or more")
    return np.minimum(lengths, longest)


def read_groups(run: Path, args: SubsetGRPOConfig, prompt_length: int) -> Groups | None:
    """Return the advantages and lengths of the groups that a run logged in training; None if it logged none.

    At most `ROLLOUTS_DRAWN` rollouts are used. They come from generations that are spread over the run.

    Args:
        run: the directory of the run.
        args: the config of the recipe, which gives G and the type of the loss.
        prompt_length: number of tokens of every prompt; it becomes `Groups.prompt`.

    Raises:
        InputError: if a file of rollouts cannot be read.
    """
    paths, group = sorted((run / "completions").glob("*.parquet")), args.num_generations
    tokenizer = None
    advantages, lengths = [], []
    per_file = max(1, ROLLOUTS_DRAWN // group // max(len(paths), 1)) * group
    for path in paths[:: max(1, len(paths) * group // ROLLOUTS_DRAWN)]:
        table = read_rollouts(path)
        selected = column_name(table[0], SELECTED) if table else SELECTED
        rows = [row for row in table if row.get(selected) is not None]  # None marks rows of an evaluation
        if not rows or len(rows) % group or "advantage" not in rows[0]:
            continue
        rows = rows[:per_file]
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(run)
        texts = [completion_text(row["completion"]) for row in rows]
        lengths += [len(tokens) + 1 for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        advantages += [row["advantage"] for row in rows]
    if not advantages:
        return None
    of_groups = np.array(advantages, dtype=np.float64).reshape(-1, group)
    mean_of_row = args.loss_type in MEAN_OF_ROW_LOSSES
    return Groups(of_groups, np.array(lengths).reshape(-1, group), prompt_length, mean_of_row)


def completion_text(completion: Any) -> str:
    """Return the text of a completion in the table that TRL logs, where it is a string or a list of messages."""
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)


def logged_completion_lengths(run: Path) -> list[int]:
    """Return the length in tokens, end token included, of each completion that a run logged; empty if it logged none.

    If the run logged more than `ROLLOUTS_DRAWN` completions, at most this number of them is used, evenly spaced over
    the run.

    Raises:
        InputError: if a file of completions cannot be read.
    """
    paths = sorted((run / "completions").glob("*.parquet"))
    texts = [completion_text(row["completion"]) for path in paths for row in read_rollouts(path)]
    if not texts:
        return []
    texts = texts[:: -(-len(texts) // ROLLOUTS_DRAWN)]
    tokenizer = AutoTokenizer.from_pretrained(run)
    return [len(tokens) + 1 for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]]
