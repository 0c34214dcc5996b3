"""Computes and writes the results of a sweep: the metric of each trial, means over seeds, a table and a figure."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raml_trl.evaluation.intervals import mean_over_seeds
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import escape_cell, markdown_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.history import STATE_FILE, read_log_history
from raml_trl.runtime.runs import find_record
from raml_trl.sweeps.sweep_file import SEED, Scalar, Settings, Sweep, logged_name

Status = Literal["complete", "failed", "unfinished"]
STATUSES: tuple[Status, ...] = ("complete", "failed", "unfinished")


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial, which may also be unfinished.

    `metric` is the sweep's metric, None unless the trial is complete. `reason` says why the trial failed; it is None if
    the trial did not fail. `seconds` is the time that the run has taken, without the time between an interruption and
    the next start; None if it has not started. `log` is the path of the log file.
    """

    name: str
    parameters: Settings
    status: Status
    metric: float | None
    seconds: float | None
    reason: str | None
    log: str


@dataclass(frozen=True)
class SettingMean:
    """The metric of one setting, averaged over its `n` complete trials, one per seed.

    `parameters` are the swept parameters except the seed. `low` and `high` bound the 95 % interval of the mean. They
    are None with fewer than two trials.
    """

    parameters: Settings
    n: int
    mean: float | None
    low: float | None
    high: float | None


def read_metric(directory: Path, name: str) -> float:
    """Read the metric `name` of the run in `directory`.

    `name` is the name that was logged (`eval_pass@1`) or the name that W&B shows (`eval/pass@1`). The value comes from
    the first of these sources that has the metric:

    - `log_history` in the `trainer_state.json` of a training run: the last value
    - `metrics.json` of an evaluation: the mean
    - the results in `run.json`

    Raises:
        InputError: if the run has no such metric. The message lists the metrics of the run.
    """
    sources = [_logged(directory), _evaluated(directory), _numbers(_read(directory / "run.json").get("results"))]
    for source in sources:
        for candidate in (name, logged_name(name)):
            if candidate in source:
                return source[candidate]
    metrics = list(dict.fromkeys(metric for source in sources for metric in source))
    near = difflib.get_close_matches(logged_name(name), metrics, n=3)
    known = f"only {', '.join(metrics)}" if metrics else "nor any other"
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"{directory} has no metric {name!r}, {known}{hint}")


def _logged(directory: Path) -> dict[str, float]:
    logs = read_log_history(directory) if (directory / STATE_FILE).is_file() else []
    return {name: float(value) for log in logs for name, value in log.items()}


def _evaluated(directory: Path) -> dict[str, float]:
    content = _read(directory / "metrics.json")
    metrics = content.get("metrics", {})
    assert isinstance(metrics, dict)
    return _numbers({name: value["mean"] for name, value in metrics.items()}) | _numbers(content)


def _numbers(content: object) -> dict[str, float]:
    numbers = content.items() if isinstance(content, dict) else ()
    return {
        name: float(value) for name, value in numbers if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_seconds(directory: Path) -> float | None:
    """Return the seconds that the run in `directory` has taken, interruptions left out; None if there is no run."""
    record = find_record(directory)
    return None if record is None else record["seconds"]


def means_over_seeds(sweep: Sweep, results: Sequence[TrialResult]) -> list[SettingMean]:
    """Return the mean of the metric over the complete trials of each setting, which differ only in the seed.

    Settings are in the order in which the sweep file lists their values; numbers drawn from a range are sorted by size.
    """
    names = [name for name in sweep.swept if name != SEED]
    values: dict[tuple[Scalar, ...], list[float]] = {}
    for result in results:
        of_setting = values.setdefault(tuple(result.parameters[name] for name in names), [])
        if result.metric is not None:
            of_setting.append(result.metric)
    listed = [sweep.parameters[name].values for name in names]

    def position(setting: tuple[Scalar, ...]) -> list[float]:
        """Sort key of a setting: listed values by their place in the file, numbers drawn from a range by size."""
        return [
            places.index(value) if places else float(value or 0) for value, places in zip(setting, listed, strict=True)
        ]

    means = []
    for setting in sorted(values, key=position):
        mean = mean_over_seeds(values[setting])
        parameters = dict(zip(names, setting, strict=True))
        means.append(SettingMean(parameters, mean.n, mean.mean, mean.low, mean.high))
    return means


def best_setting(sweep: Sweep, means: Sequence[SettingMean]) -> SettingMean | None:
    """Return the setting with the highest or lowest mean, as the sweep's goal says; None if no trial is complete."""
    known = [(row.mean, row) for row in means if row.mean is not None]
    choose = max if sweep.goal == "maximize" else min
    return choose(known, key=lambda pair: pair[0])[1] if known else None


def means_table(sweep: Sweep, means: Sequence[SettingMean]) -> str:
    """Format the means as a Markdown table, one row per setting."""
    names = [name for name in sweep.swept if name != SEED]
    rows = [[*names, "trials", f"{sweep.metric}: mean", "95 % interval"]]
    for row in means:
        mean = "-" if row.mean is None else f"{row.mean:.4g}"
        interval = "-" if row.low is None else f"[{row.low:.4g}, {row.high:.4g}]"
        rows.append([*(str(row.parameters[name]) for name in names), str(row.n), mean, interval])
    return markdown_table([[escape_cell(cell) for cell in row] for row in rows])


def write_results(directory: Path, sweep: Sweep, results: Sequence[TrialResult], means: Sequence[SettingMean]) -> None:
    """Write `sweep.json`, `sweep.md` and `sweep.svg` to `directory`."""
    best = best_setting(sweep, means)
    content: dict[str, object] = {
        "sweep": str(sweep.path),
        "method": sweep.method,
        "metric": sweep.metric,
        "goal": sweep.goal,
        **{status: sum(result.status == status for result in results) for status in STATUSES},
        "best": best and asdict(best),
        "means": [asdict(row) for row in means],
        "trials": [asdict(result) for result in results],
    }
    write_json(directory / "sweep.json", content)
    texts = {"sweep.md": means_table(sweep, means) + "\n", "sweep.svg": sweep_figure(sweep, results)}
    for name, text in texts.items():
        with whole_file(directory / name) as partial:
            partial.write_text(text, encoding="utf-8")


def sweep_figure(sweep: Sweep, results: Sequence[TrialResult]) -> str:
    """Plot the metric against the swept parameters, as SVG.

    If the sweep file lists all values, the horizontal axis is the parameter with the most values, and each combination
    of the other parameters has a colour. Diamonds are means over seeds with 95 % intervals; pale dots are trials. If
    some parameters are drawn from a range, each of these has a panel with a dot for each trial.
    """
    ranges = [name for name, parameter in sweep.swept.items() if not parameter.values]
    if not ranges:
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots()
        _draw_means(axes, sweep, results)
        dress(axes)
        axes.set_ylabel(sweep.metric, fontsize=8)
        return svg(figure)
    complete = [result for result in results if result.metric is not None]
    figure = Figure(figsize=(max(3.6, 2.6 * len(ranges)), 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0], ranges, strict=True):
        places = [result.parameters[name] for result in complete]
        axes.plot(places, [result.metric for result in complete], "o", color=COLOURS[0])
        axes.set_xscale("log" if sweep.parameters[name].log else "linear")
        axes.set_xlabel(name, fontsize=8)
        dress(axes)
    figure.axes[0].set_ylabel(sweep.metric, fontsize=8)
    return svg(figure)


def _draw_means(axes: Axes, sweep: Sweep, results: Sequence[TrialResult]) -> None:
    names = sorted((name for name in sweep.swept if name != SEED), key=lambda name: -len(sweep.parameters[name].values))
    along, others = names[:1], names[1:]
    ticks = [str(value) for name in along for value in sweep.parameters[name].values] or [""]
    lines: dict[str, list[SettingMean]] = {}
    for row in means_over_seeds(sweep, results):
        lines.setdefault(", ".join(f"{name} {row.parameters[name]}" for name in others), []).append(row)
    for number, (label, rows) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        shift = 0.5 * ((number + 0.5) / len(lines) - 0.5)
        for row in rows:
            place = sum(sweep.parameters[name].values.index(row.parameters[name]) for name in along) + shift
            dots = _metrics(results, row.parameters)
            axes.plot([place] * len(dots), dots, "o", color=colour, alpha=0.3, markersize=4, markeredgewidth=0)
            if row.low is not None and row.high is not None:
                axes.plot([place, place], [row.low, row.high], color=INK, linewidth=1)
            if row.mean is not None:
                axes.plot(place, row.mean, "D", color=colour, markersize=6, label=label if row is rows[0] else None)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlabel("".join(along), fontsize=8)
    if others:
        axes.legend(frameon=False, fontsize=8)


def _metrics(results: Sequence[TrialResult], parameters: Mapping[str, Scalar]) -> list[float]:
    return [
        result.metric
        for result in results
        if result.metric is not None and parameters.items() <= result.parameters.items()
    ]
