"""Predicts the seconds of a GRPO step for other values of m (rollouts selected per group), from a single run."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Literal

import numpy as np

from raml_trl.grpo.config_checks import MEAN_OF_ROW_LOSSES
from raml_trl.grpo.planning.geometry import Geometry
from raml_trl.grpo.planning.step_cost import draw_work, logged_lengths, measured_split, predict_seconds
from raml_trl.grpo.row_rules import RowRules, settle_row_rules
from raml_trl.reports.runs import TrainingRun
from raml_trl.runtime.history import RunSummary, read_summary

Part = Literal["update", "step"]
PARTS: tuple[Part, ...] = ("update", "step")


def read_geometry(run: TrainingRun, summary: RunSummary | None) -> Geometry:
    """Return the settings that determine how `run` cut its generation batches into micro-batches.

    They come from the settings of the run and from TRL's defaults. `summary` says whether `length_bucketing` and
    `skip_zero_advantage` were on, and whether rows were packed. Summaries of older versions lack these fields. Then,
    and if `summary` is None, the first two are derived from the settings, and rows were not packed.
    """
    settings, processes = run.settings, run.processes
    rollouts = settings.get("per_device_train_batch_size", 8)
    accumulation = settings.get("gradient_accumulation_steps", 1)
    generations = settings.get("steps_per_generation") or accumulation
    if settings.get("generation_batch_size"):
        generations = settings["generation_batch_size"] // (rollouts * processes)
    rules = _row_rules(settings, summary)
    subset_mode = settings.get("subset_mode", "drop")
    cuts = settings.get("token_selection") == "prefix" and subset_mode == "drop"
    return Geometry(
        num_processes=processes,
        per_device_train_batch_size=rollouts,
        steps_per_generation=generations,
        gradient_accumulation_steps=accumulation,
        num_iterations=settings.get("num_iterations", 1),
        num_generations=run.num_generations,
        num_generations_update=run.num_generations_update,
        selection=settings.get("selection", "random"),
        selection_scope=settings.get("selection_scope", "group"),
        subset_mode=subset_mode,
        length_bucketing=rules.length_bucketing,
        skip_zero_advantage=rules.skip_zero_advantage,
        shared_prompts=bool(summary and summary.get("shared_prompts")),
        max_tokens_per_micro_batch=settings.get("max_tokens_per_micro_batch"),
        selection_cost=settings.get("selection_cost", "rows"),
        mean_of_row=settings.get("loss_type") in MEAN_OF_ROW_LOSSES,
        prefix=(settings.get("prefix_minimum", 16), settings.get("prefix_keep", 0.5)) if cuts else None,
    )


def _row_rules(settings: Mapping[str, object], summary: RunSummary | None) -> RowRules:
    if summary is not None and "length_bucketing" in summary and "skip_zero_advantage" in summary:
        return RowRules(summary["length_bucketing"], summary["skip_zero_advantage"])
    return settle_row_rules(settings)


def predict_step(name: str, run: TrainingRun, ms: Iterable[int]) -> dict[int, dict[Part, float]]:
    """Predict the seconds of an update and of a step for each m, from seconds and rollout lengths that `run` logged.

    m is the number of rollouts selected per group. An update is the part of a step that depends on m: scoring,
    selecting and updating.

    Args:
        name: name of the run in error messages.
        run: a run of `train_grpo`, with any m.
        ms: the values of m to predict.

    Returns:
        For each m, the seconds of an `update` and of a `step`.

    Raises:
        ValueError: if the run did not record what the prediction needs. The message says what is missing.
    """
    summary = read_summary(run.directory)
    if summary is None or not summary["counts"].get("trained"):
        raise ValueError(f"{name} has no summary.json with counts of trained rows")
    geometry, counts = read_geometry(run, summary), summary["counts"]
    lengths = logged_lengths(run.logs, geometry.rollouts, np.random.default_rng(0))
    dead = 1 - counts["trained"] / counts["selected"]
    prompt = _prompt_length(run, geometry, counts)
    split = measured_split(summary, geometry)
    predicted: dict[int, dict[Part, float]] = {}
    for m in ms:
        of_m = replace(geometry, num_generations_update=m)
        work = draw_work(of_m, lengths, prompt_length=prompt, dead_groups=dead, seed=0)
        seconds = predict_seconds(split, work, of_m.fraction)
        predicted[m] = {"update": seconds["updating"], "step": seconds["step"]}
    return predicted


def _prompt_length(run: TrainingRun, geometry: Geometry, counts: Mapping[str, int]) -> int:
    """Return the length of the prompts in tokens, padding included.

    TRL pads all rollouts of a generation to the longest prompt plus the longest completion among them. So the length of
    the prompts is the mean padded length of a rollout minus the mean length of the longest completions.
    """
    width = counts["cells_updating_all"] * geometry.num_processes / geometry.num_iterations / counts["rollouts"]
    return max(1, round(width - fmean(run.curves["completions/max_length"].values())))


def possible_m(run: TrainingRun) -> list[int]:
    """Return the values of m for which the step times of a run are predicted if there is no other run to compare.

    m of the G rollouts of a group are selected. The values are G, and the powers of two below G that give each
    micro-batch a whole number of selected rows.
    """
    rollouts, g = run.settings.get("per_device_train_batch_size", 8), run.num_generations
    powers = {2**power for power in range(g.bit_length()) if 2**power <= g} | {g}
    return sorted(m for m in powers if rollouts * m % g == 0)
