"""What a sweep has found: the metric of every trial, means over seeds with intervals, a table and a figure."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import student_interval
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import markdown_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.history import STATE_FILE, read_log_history
from raml_trl.runtime.runs import is_run, read_record
from raml_trl.sweeps.sweep_file import SEED, Settings, Sweep

_SLASHED = {"eval/": "eval_", "train/": ""}
"""What transformers' callback makes of names on their way to W&B, undone."""


@dataclass(frozen=True)
class Outcome:
    """A trial: `status` is complete, failed (`reason` says why) or unfinished; `seconds` are those of its run."""

    name: str
    parameters: Settings
    status: str
    metric: float | None
    seconds: float | None
    reason: str | None
    log: str


def read_metric(directory: Path, name: str) -> float:
    """The metric `name` of the run in `directory`, the last one logged where it was logged several times.

    Found are what a training run logged (`log_history` of `trainer_state.json`, as it stands there or as W&B has it:
    `eval/pass@1` is `eval_pass@1`, `train/reward` is `reward`), the means in `metrics.json` of an evaluation, and the
    numbers among the results in `run.json`; the first of these that has it counts.

    Raises:
        InputError: if there is none, with what is there.
    """
    slashed = [new + name.removeprefix(old) for old, new in _SLASHED.items() if name.startswith(old)]
    sources = [_logged(directory), _measured(directory), _resulted(directory)]
    for source in sources:
        for one in (name, *slashed):
            if one in source:
                return source[one]
    there = {one: None for source in sources for one in source}
    near = difflib.get_close_matches(slashed[0] if slashed else name, there, n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"metric {name!r} is none of what {directory} has: {', '.join(there) or 'nothing'}{meant}")


def _logged(directory: Path) -> dict[str, float]:
    logs = read_log_history(directory) if (directory / STATE_FILE).is_file() else []
    return {name: float(value) for log in logs for name, value in log.items()}


def _measured(directory: Path) -> dict[str, float]:
    content = _read(directory / "metrics.json")
    means = {name: value["mean"] for name, value in content.get("metrics", {}).items()}
    return _numbers(means) | _numbers(content)


def _resulted(directory: Path) -> dict[str, float]:
    return _numbers(_read(directory / "run.json").get("results", {}))


def _numbers(content: dict[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in content.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if not isinstance(value, bool)}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_seconds(directory: Path) -> float | None:
    """How long the run in `directory` took, over all its sessions; None if there is no run."""
    return read_record(directory)["seconds"] if is_run(str(directory)) else None


def over_seeds(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For every combination of the parameters but the seed: `n` trials that are complete, and the `mean` of their
    metric, with `low` and `high` of its 95 % interval where there are two or more; in the order of the sweep file.
    """
    names = [name for name in sweep.swept if name != SEED]
    groups: dict[tuple[Any, ...], list[float]] = {}
    for one in outcomes:
        values = groups.setdefault(tuple(one.parameters[name] for name in names), [])
        if one.metric is not None:
            values.append(one.metric)

    def place(key: tuple[Any, ...]) -> list[Any]:
        listed = [sweep.parameters[name].values for name in names]
        return [values.index(value) if values else value for value, values in zip(key, listed, strict=True)]

    rows = []
    for key in sorted(groups, key=place):
        values = groups[key]
        low, high = student_interval(values) if len(values) > 1 else (None, None)
        mean = fmean(values) if values else None
        parameters = dict(zip(names, key, strict=True))
        rows.append({"parameters": parameters, "n": len(values), "mean": mean, "low": low, "high": high})
    return rows


def best(sweep: Sweep, groups: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of `over_seeds` whose mean is the best by the sweep's goal."""
    found = [row for row in groups if row["mean"] is not None]
    choose = max if sweep.goal == "maximize" else min
    return choose(found, key=lambda row: row["mean"]) if found else None


def sweep_table(sweep: Sweep, groups: Sequence[dict[str, Any]]) -> str:
    """A line for each combination, as Markdown."""
    names = [name for name in sweep.swept if name != SEED]
    rows = [[*names, "trials", f"{sweep.metric}: mean", "95 % interval"]]
    for row in groups:
        mean = "-" if row["mean"] is None else f"{row['mean']:.4g}"
        interval = "-" if row["low"] is None else f"[{row['low']:.4g}, {row['high']:.4g}]"
        rows.append([*(str(row["parameters"][name]) for name in names), str(row["n"]), mean, interval])
    return markdown_table([[cell.replace("|", "\\|") for cell in row] for row in rows])


def write_results(directory: Path, sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Write `sweep.json`, `sweep.md` and `sweep.svg`; what the first of them holds."""
    groups = over_seeds(sweep, outcomes)
    statuses = [one.status for one in outcomes]
    content = {
        "sweep": str(sweep.path),
        "method": sweep.method,
        "metric": sweep.metric,
        "goal": sweep.goal,
        **{status: statuses.count(status) for status in ("complete", "failed", "unfinished")},
        "best": best(sweep, groups),
        "means": groups,
        "trials": [asdict(one) for one in outcomes],
    }
    write_json(directory / "sweep.json", content)
    for name, text in (
        ("sweep.md", sweep_table(sweep, groups) + "\n"),
        ("sweep.svg", sweep_figure(sweep, outcomes)),
    ):
        with whole_file(directory / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return content


def sweep_figure(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """The metric against what was swept.

    Listed values: means over seeds with intervals along the parameter with the most values, a line for each
    combination of the others, every trial a pale dot. Continuous ones: a panel for each parameter, every trial a dot.
    """
    ranges = [name for name, one in sweep.swept.items() if not one.values]
    if not ranges:
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots()
        _draw_means(axes, sweep, outcomes)
        dress(axes)
        axes.set_ylabel(sweep.metric, fontsize=8)
        return svg(figure)
    figure = Figure(figsize=(max(3.6, 2.6 * len(ranges)), 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0], ranges, strict=True):
        complete = [one for one in outcomes if one.metric is not None]
        axes.plot([one.parameters[name] for one in complete], [one.metric for one in complete], "o", color=COLOURS[0])
        axes.set_xscale("log" if sweep.parameters[name].log else "linear")
        axes.set_xlabel(name, fontsize=8)
        dress(axes)
    figure.axes[0].set_ylabel(sweep.metric, fontsize=8)
    return svg(figure)


def _draw_means(axes: Axes, sweep: Sweep, outcomes: Sequence[Outcome]) -> None:
    names = sorted((name for name in sweep.swept if name != SEED), key=lambda name: -len(sweep.parameters[name].values))
    along, others = names[:1], names[1:]
    groups = over_seeds(sweep, outcomes)
    labels = [[str(value) for value in sweep.parameters[name].values] for name in along] or [[""]]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in groups:
        lines.setdefault(", ".join(f"{name} {row['parameters'][name]}" for name in others), []).append(row)
    for number, (label, rows) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        shift = 0.5 * ((number + 0.5) / len(lines) - 0.5)
        for row in rows:
            place = sum(sweep.parameters[name].values.index(row["parameters"][name]) for name in along) + shift
            own = [one for one in outcomes if row["parameters"].items() <= one.parameters.items()]
            dots = [one.metric for one in own if one.metric is not None]
            axes.plot([place] * len(dots), dots, "o", color=colour, alpha=0.3, markersize=4, markeredgewidth=0)
            if row["low"] is not None:
                axes.plot([place, place], [row["low"], row["high"]], color=INK, linewidth=1)
            if row["mean"] is not None:
                axes.plot(place, row["mean"], "D", color=colour, markersize=6, label=label if row is rows[0] else None)
    axes.set_xticks(range(len(labels[0])), labels[0])
    axes.set_xlabel("".join(along), fontsize=8)
    if others:
        axes.legend(frameon=False, fontsize=8)
