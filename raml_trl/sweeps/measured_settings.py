"""Every setting of a sweep, over its seeds: what it reached at the end, how steadily, at what cost, and when."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.tables import markdown_table
from raml_trl.sweeps.learning_curves import Trial, last, steadiness, steps_to
from raml_trl.sweeps.sweep_file import SEED, Scalar


def by_setting(trials: Sequence[Trial]) -> dict[tuple[tuple[str, Scalar], ...], list[Trial]]:
    """Trials that differ in nothing but the seed, by the parameters in which settings differ."""
    names = [name for name in trials[0].parameters if name != SEED] if trials else []
    values = {name: {trial.parameters[name] for trial in trials} for name in names}
    swept = [name for name in names if len(values[name]) > 1] or names
    settings: dict[tuple[tuple[str, Scalar], ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda one: [_place(one.parameters[name]) for name in swept]):
        settings.setdefault(tuple((name, trial.parameters[name]) for name in swept), []).append(trial)
    return settings


def _place(value: Scalar) -> tuple[bool, float, str]:
    """Numbers by size, before words."""
    number = isinstance(value, int | float)
    return not number, float(value) if isinstance(value, int | float) else 0.0, str(value)


def measure_settings(trials: Sequence[Trial], *, metric: str, levels: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each setting.

    It has `parameters`; `n` seeds; for every metric `mean`, `low`, `high` of its last value; the mean `steadiness`;
    the least `steps`; the median `step_seconds` and `step_rollouts`; and for each of `levels` how many seeds reached
    it, with the median `steps` and `seconds` of all, None where not all did.
    """
    rows = []
    for parameters, own in by_setting(trials).items():
        price = median(one.step_seconds for one in own)
        row: dict[str, Any] = {
            "parameters": dict(parameters),
            "n": len(own),
            "metrics": {name: _over_seeds([last(one, name) for one in own]) for name in own[0].curves},
            "steadiness": fmean(steadiness(one, metric) for one in own),
            "steps": min(one.steps[-1] for one in own),
            "step_seconds": price,
            "step_rollouts": round(median(one.step_rollouts for one in own)),
            "levels": [],
        }
        for level in levels:
            reached = [step for one in own if (step := steps_to(one, metric, level)) is not None]
            steps: float | None = median(reached) if len(reached) == len(own) else None
            row["levels"].append(
                {"level": level, "reached": len(reached), "steps": steps, "seconds": steps and steps * price}
            )
        rows.append(row)
    return rows


def _over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    low, high = student_interval(values) if len(values) > 1 else (None, None)
    return {"mean": fmean(values), "low": low, "high": high}


def settings_table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """The rows of `measure_settings`, as Markdown."""
    if not rows:
        return "No trial is complete."
    names = list(rows[0]["parameters"])
    metrics = sorted(rows[0]["metrics"], key=lambda name: name != metric)[:1]
    metrics += [name for name in rows[0]["metrics"] if name.startswith("mg_pass")][:1]
    table = [
        [*names, "seeds", *metrics, "steadiness", "steps", "s a step", "rollouts a step"]
        + [f"s to {one['level']:g} (reached)" for one in rows[0]["levels"]]
    ]
    for row in rows:
        cells = [str(row["parameters"][name]) for name in names] + [str(row["n"])]
        for name in metrics:
            value = row["metrics"][name]
            interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
            cells.append(f"{value['mean']:.3f}{interval}")
        cells += [
            f"{row['steadiness']:.3f}",
            str(row["steps"]),
            f"{row['step_seconds']:.3f}",
            str(row["step_rollouts"]),
        ]
        for one in row["levels"]:
            seconds = "-" if one["seconds"] is None else f"{one['seconds']:.0f}"
            cells.append(f"{seconds} ({one['reached']} of {row['n']})")
        table.append(cells)
    return markdown_table(table)
