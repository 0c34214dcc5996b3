"""Where the seconds of a GRPO step go, by m: as measured, and as one run says that others will be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from statistics import fmean, median
from typing import Any

import numpy as np

from raml_trl.evaluation.intervals import student_interval
from raml_trl.grpo.ledger import PHASES
from raml_trl.grpo.planning.step_cost import (
    Geometry,
    draw_work,
    logged_lengths,
    measured_split,
    predict_seconds,
)
from raml_trl.reports.runs import TrainingRun
from raml_trl.runtime.history import read_summary

UPDATING = ("scoring", "selecting", "updating")
"""Phases of what m changes; the others are the same for every m."""

_NOT_COMPARED = frozenset({"num_generations_update", "seed", "log_completions", "max_steps"})


@dataclass(frozen=True)
class TimedRun:
    """A GRPO run whose steps were timed. `name` says which it is; runs of one `setting` differ in m and seed alone."""

    name: str
    run: TrainingRun
    setting: str

    @property
    def g(self) -> int:
        return int(self.run.settings.get("num_generations", 8))

    @property
    def m(self) -> int:
        m = self.run.settings.get("num_generations_update")
        return self.g if m is None else int(m)

    def medians(self) -> dict[str, float]:
        """Of the seconds of a step, and of what of it is an update."""
        steps = list(zip(*(_phase(self.run, phase) for phase in PHASES), strict=True))
        update = [PHASES.index(phase) for phase in UPDATING]
        return {
            "update": median(sum(step[place] for place in update) for step in steps),
            "step": median(sum(step) for step in steps),
        }


def _phase(run: TrainingRun, phase: str) -> list[float]:
    curve = run.curves[f"seconds/{phase}"]
    return [curve[step] for step in sorted(curve)]


def is_timed(run: TrainingRun) -> bool:
    """Whether the run logged the seconds of all phases."""
    return all(f"seconds/{phase}" in run.curves for phase in PHASES)


def setting_of(run: TrainingRun, *, same_inputs: bool) -> str:
    """What a run has in common with those that differ from it in m and seed alone.

    Args:
        run: of `train_grpo`.
        same_inputs: whether model and data must be the same ones; seeds of a sweep may each have their own.
    """
    ignored = _NOT_COMPARED | (set() if same_inputs else set(run.record["inputs"]))
    settings = {name: value for name, value in run.settings.items() if name not in ignored}
    return repr(sorted(settings.items())) + repr(run.record["results"].get("processes"))


def split_seconds(runs: Sequence[TrainingRun]) -> dict[str, float]:
    """Mean seconds of a step by phase, over the steps and then over the runs."""
    return {phase: fmean(fmean(_phase(run, phase)) for run in runs) for phase in PHASES}


def read_geometry(run: TrainingRun) -> Geometry:
    """How the run cut its generations into micro-batches, from what was set and TRL's defaults."""
    settings, processes = run.settings, run.record["results"].get("processes", 1)
    rollouts, accumulation = (
        settings.get("per_device_train_batch_size", 8),
        settings.get("gradient_accumulation_steps", 1),
    )
    generations = settings.get("steps_per_generation") or accumulation
    if settings.get("generation_batch_size"):
        generations = settings["generation_batch_size"] // (rollouts * processes)
    group = settings.get("num_generations", 8)
    m, mode = settings.get("num_generations_update"), settings.get("subset_mode", "drop")
    # As in configs: what is a mean over a micro-batch depends on which rows share it.
    free = settings.get("loss_type") != "bnpo" and settings.get("top_entropy_quantile", 1.0) == 1.0
    free &= not any(settings.get(name) for name in ("entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef"))
    skips = free and settings.get("beta", 0.0) == 0.0 and mode == "drop"
    bucketing, skipping = settings.get("length_bucketing"), settings.get("skip_zero_advantage")
    return Geometry(
        num_processes=processes,
        per_device_train_batch_size=rollouts,
        steps_per_generation=generations,
        gradient_accumulation_steps=accumulation,
        num_iterations=settings.get("num_iterations", 1),
        num_generations=group,
        num_generations_update=group if m is None else m,
        selection=settings.get("selection", "random"),
        selection_scope=settings.get("selection_scope", "group"),
        subset_mode=mode,
        length_bucketing=free if bucketing is None else bucketing,
        skip_zero_advantage=skips if skipping is None else skipping,
    )


def predict(source: TimedRun, ms: Iterable[int]) -> dict[int, dict[str, float]]:
    """For each m, `update` and `step` seconds predicted from the seconds and lengths of `source`.

    Raises:
        ValueError: if the run does not say enough, with what is missing.
    """
    summary = read_summary(source.run.directory)
    if summary is None or not summary["counts"].get("trained"):
        raise ValueError(f"{source.name} keeps no summary.json of rows that it trained on")
    geometry, counts = read_geometry(source.run), summary["counts"]
    lengths = logged_lengths(source.run.logs, geometry.rollouts, np.random.default_rng(0))
    dead = 1 - counts["trained"] / counts["selected"]
    prompt = _prompt_length(source.run, geometry, counts)
    split = measured_split(summary, geometry)
    found = {}
    for m in ms:
        of_m = replace(geometry, num_generations_update=m)
        work = draw_work(of_m, lengths, prompt_length=prompt, dead_groups=dead, seed=0)
        seconds = predict_seconds(split, work, of_m.fraction)
        found[m] = {"update": seconds["updating"], "step": seconds["step"]}
    return found


def _prompt_length(run: TrainingRun, geometry: Geometry, counts: dict[str, int]) -> int:
    """Tokens of a padded prompt: what is left of the cells of a rollout, as TRL pads it, beside the longest one."""
    width = counts["cells_updating_all"] * geometry.num_processes / geometry.num_iterations / counts["rollouts"]
    return max(1, round(width - fmean(run.curves["completions/max_length"].values())))


def possible(source: TimedRun) -> list[int]:
    """Each m that is a power of two, and G, with which the rows of a micro-batch come out whole."""
    geometry, g = read_geometry(source.run), source.g
    powers = {2**power for power in range(g.bit_length()) if 2**power <= g} | {g}
    return sorted(m for m in powers if geometry.per_device_train_batch_size * m % g == 0)


def compare_seconds(timed: Sequence[TimedRun]) -> list[dict[str, Any]]:
    """For all runs that differ in m and seed alone: seconds of a step by m, predicted from one run, measured in others.

    The run that the prediction rests on, the first whose m is below G where there is one, is in no measurement.

    Each has `source`, its name; `g`; `others`, how many runs were measured, and whether the runs `differ` in m;
    `reason`, why nothing is predicted, else None; and `rows`. A row has `m`; `n` measured runs; `predicted` and
    `measured`, seconds of an `update` and of a `step`, or None; and of both how many times as fast as m = G they are:
    `predicted_speedup`, and `measured_speedup` with `mean`, and over seeds that both have `low` and `high`.
    """
    settings: dict[str, list[TimedRun]] = {}
    for one in timed:
        settings.setdefault(one.setting, []).append(one)
    return [_compare(runs) for runs in settings.values()]


def _compare(runs: Sequence[TimedRun]) -> dict[str, Any]:
    source = next((one for one in runs if one.m < one.g), runs[0])
    others = [one for one in runs if one is not source]
    measured: dict[int, dict[tuple[int, int], dict[str, float]]] = {}
    for one in others:
        of_m = measured.setdefault(one.m, {})
        of_m[one.run.seed, sum(seed == one.run.seed for seed, _ in of_m)] = one.medians()
    ms = sorted({*measured, source.m, source.g}) if others else possible(source)
    predicted: dict[int, dict[str, float]] = {}
    reason = None
    try:
        predicted = predict(source, ms)
    except ValueError as error:
        reason = str(error)
    whole = measured.get(source.g, {})
    rows = []
    for m in ms:
        found = list(measured.get(m, {}).values())
        row: dict[str, Any] = {"m": m, "n": len(found), "predicted": predicted.get(m)}
        row["measured"] = {part: fmean(one[part] for one in found) for part in ("update", "step")} if found else None
        row["predicted_speedup"] = (
            {part: predicted[source.g][part] / predicted[m][part] for part in ("update", "step")} if predicted else None
        )
        row["measured_speedup"] = _speedups(whole, measured.get(m, {})) if m != source.g else None
        rows.append(row)
    return {
        "source": source.name,
        "g": source.g,
        "others": len(others),
        "differ": len({one.m for one in runs}) > 1,
        "reason": reason,
        "rows": rows,
    }


def _speedups(
    whole: dict[tuple[int, int], dict[str, float]], of_m: dict[tuple[int, int], dict[str, float]]
) -> dict[str, Any] | None:
    """How many times faster than all G: geometric mean over the seeds that both have, else the ratio of their means."""
    if not whole or not of_m:
        return None
    seeds = [seed for seed in of_m if seed in whole]
    found = {}
    for part in ("update", "step"):
        ratios = [whole[seed][part] / of_m[seed][part] for seed in seeds]
        if not ratios:
            ratios = [fmean(one[part] for one in whole.values()) / fmean(one[part] for one in of_m.values())]
        logs = [log(ratio) for ratio in ratios]  # half as fast is as far from 1 as twice as fast
        low, high = map(exp, student_interval(logs)) if len(logs) > 1 else (None, None)
        found[part] = {"mean": exp(fmean(logs)), "low": low, "high": high}
    return found
