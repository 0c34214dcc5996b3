"""Stages of a report: evaluations in their order, each beside the one before it, question by question."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from raml_trl.evaluation.comparison import compare_runs
from raml_trl.evaluation.samples import read_samples
from raml_trl.render.tables import DASH, Cell, Table, interval
from raml_trl.reports.curves import metric_title
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import complete_record

SAMPLES = "samples.parquet"


def read_stage(name: str, directory: str, seconds: float | None) -> dict[str, Any]:
    """One evaluation: its metrics, and how long the training before it took.

    Raises:
        InputError: if the directory holds no complete evaluation.
    """
    record = complete_record(directory, "evaluate")
    if "metrics" not in record["results"]:
        raise InputError(f"{directory} evaluated several models: name the directory of one of them")
    return {"name": name, "directory": directory, "seconds": seconds, **record["results"]}


def common_metrics(stages: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics that all stages have, as the first one orders them."""
    return [name for name in stages[0]["metrics"] if all(name in one["metrics"] for one in stages)] if stages else []


def add_differences(stages: Sequence[dict[str, Any]], metrics: Sequence[str], seed: int) -> None:
    """Give each stage but the first its `differences` to the one `before` it, or a `reason` why there are none.

    By metric, a difference is `mean`, `low`, `high` and `p_value`, paired by question; metrics that `compare` does not
    know have none.
    """
    for before, stage in pairwise(stages):
        stage["before"] = before["name"]
        try:
            stage["differences"] = _differences(before, stage, metrics, seed)
        except InputError as error:  # a report of what there is does not end for what there is not
            stage["differences"], stage["reason"] = {}, str(error)


def _differences(before: dict[str, Any], stage: dict[str, Any], metrics: Sequence[str], seed: int) -> dict[str, Any]:
    runs = {one["name"]: read_samples(Path(one["directory"]) / SAMPLES) for one in (before, stage)}
    ks = sorted({int(name.partition("@")[2].partition("_")[0]) for name in metrics})
    compared = compare_runs(runs, ks, seed)
    return {name: compared[name][stage["name"]]["difference"] for name in metrics if name in compared}


def stage_table(stages: Sequence[dict[str, Any]], metrics: Sequence[str]) -> Table:
    """A row for each stage."""
    rows = [
        (
            Cell(stage["name"]),
            *(interval(stage["metrics"][name]) for name in metrics),
            Cell(DASH if stage["seconds"] is None else f"{stage['seconds']:.0f}"),
        )
        for stage in stages
    ]
    sizes = {(stage["questions"], stage["samples_per_question"]) for stage in stages}
    over = " or ".join(f"{questions} questions, {samples} samples each" for questions, samples in sorted(sizes))
    note = f"Means over {over}, with 95 % bootstrap intervals over questions. Seconds are those of training."
    return Table(("stage", *map(metric_title, metrics), "seconds"), tuple(rows), note)


def difference_table(stages: Sequence[dict[str, Any]], metrics: Sequence[str]) -> Table | None:
    """A row for each stage but the first: how much it is above the one before; None with fewer than two."""
    rows = [
        (
            Cell(f"{stage['name']} \N{MINUS SIGN} {stage['before']}"),
            *(interval(stage["differences"].get(name), "+.3f") for name in metrics),
        )
        for stage in stages[1:]
    ]
    if not rows:
        return None
    note = (
        "Each stage minus the one before it, paired by question: what both find hard is no noise. 95 % bootstrap "
        "intervals, p of the two-sided sign-flip test, each of one comparison."
    )
    missing = [f" {stage['name']}: {stage['reason']}." for stage in stages[1:] if "reason" in stage]
    return Table(("difference", *map(metric_title, metrics)), tuple(rows), note + "".join(missing))
