"""Combinations of a sweep's parameters in a report: means over seeds, and each beside a baseline, paired by seed."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from raml_trl.evaluation.intervals import student_difference, student_interval
from raml_trl.render.tables import DASH, Cell, Table, difference, interval, number
from raml_trl.reports.curves import metric_title
from raml_trl.reports.sweeps import SHORT, M, ReadSweep, label
from raml_trl.runtime.errors import InputError
from raml_trl.sweeps.sweep_file import SEED, Settings


def find_baseline(sweep: ReadSweep, wanted: str | None) -> Settings:
    """The combination that the others are compared with.

    Args:
        sweep: whose combinations.
        wanted: it, as `parameter=value,…`; None: that of the largest m, which is all G where that was swept, and
            of these the first in the order of the sweep file.

    Raises:
        InputError: if no combination is as wanted, or several are.
    """
    if wanted is None:
        sizes = [one.get(M) for one in sweep.combinations]
        largest = max((size for size in sizes if isinstance(size, int)), default=None)
        return sweep.combinations[sizes.index(largest)]
    pairs = dict(pair.partition("=")[::2] for pair in wanted.split(","))
    found = [
        one for one in sweep.combinations if all(name in one and str(one[name]) == text for name, text in pairs.items())
    ]
    if len(found) != 1:
        there = "; ".join(",".join(f"{name}={value}" for name, value in one.items()) for one in sweep.combinations)
        raise InputError(f"baseline {wanted!r} of sweep {sweep.name!r} is {len(found)} of its combinations: {there}")
    return found[0]


def best_combinations(sweep: ReadSweep, most: int) -> list[Settings]:
    """The `most` combinations whose mean of the sweep's metric is the best, in the order of the sweep file."""
    means = {}
    for place, combination in enumerate(sweep.combinations):
        metrics = [one.metric for one in sweep.of(combination) if one.metric is not None]
        if metrics:
            means[place] = fmean(metrics)
    ranked = sorted(means, key=lambda place: means[place], reverse=sweep.goal == "maximize")
    return [sweep.combinations[place] for place in sorted(ranked[:most])]


def swept_without(combination: Settings) -> str:
    """What a combination has in common with those that differ from it in m alone."""
    return repr([(name, value) for name, value in combination.items() if name != M])


def compare_combinations(sweep: ReadSweep, baseline: Settings) -> list[dict[str, Any]]:
    """For every metric and combination: the mean over seeds, and the difference to `baseline` paired by seed.

    Each has `metric`, `parameters`, `n` trials, `mean`, `low` and `high` (None where there are too few), and but for
    the baseline its `difference`: `mean`, `low`, `high`, `p_value` of the paired t-test and `n` pairs; or `reason`.
    """
    finals = {one.name: sweep.finals(one) for one in sweep.outcomes if one.metric is not None}
    metrics = list(dict.fromkeys(name for values in finals.values() for name in values)) or [sweep.metric]
    rows = []
    for metric in metrics:
        of_baseline = _by_seed(sweep, baseline, finals, metric)
        for combination in sweep.combinations:
            by_seed = _by_seed(sweep, combination, finals, metric)
            values = [value for _, value in by_seed]
            low, high = student_interval(values) if len(values) > 1 else (None, None)
            row: dict[str, Any] = {"metric": metric, "parameters": combination, "n": len(values)}
            row |= {"mean": fmean(values) if values else None, "low": low, "high": high}
            if combination != baseline:
                row["difference"] = _paired(dict(of_baseline), dict(by_seed))
            rows.append(row)
    return rows


def _by_seed(
    sweep: ReadSweep, combination: Settings, finals: dict[str, dict[str, float]], metric: str
) -> list[tuple[Any, float]]:
    """Seed and value of each trial that has the metric."""
    own = [one for one in sweep.of(combination) if metric in finals[one.name]]
    return [(one.parameters.get(SEED), finals[one.name][metric]) for one in own]


def _paired(baseline: dict[Any, float], values: dict[Any, float]) -> dict[str, Any]:
    seeds = [seed for seed in values if seed in baseline and seed is not None]
    if len(seeds) < 2:
        return {"reason": f"{len(seeds)} seed{'s' * (len(seeds) != 1)} in common"}
    found = student_difference([baseline[seed] for seed in seeds], [values[seed] for seed in seeds])
    return {**asdict(found), "n": len(seeds)}


def combinations_table(rows: Sequence[dict[str, Any]], baseline: Settings) -> Table:
    """A row for each metric and combination."""
    shown = []
    for row in rows:
        compared = row.get("difference")
        if compared is None:
            cells = [Cell(DASH, "the baseline"), Cell(DASH)]
        else:
            cells = [difference(compared), Cell(str(compared.get("n", DASH)))]
        values = [Cell(str(value)) for value in row["parameters"].values()]
        mean = Cell(number(row["mean"]), "one seed") if row["n"] == 1 else interval(row)
        shown.append((Cell(metric_title(row["metric"])), *values, Cell(str(row["n"])), mean, *cells))
    few = min((row["n"] for row in rows if row["n"] > 1), default=0)
    seeds = f" With {few} seeds they are wide: they rest on {few - 1} degree{'s' * (few > 2)} of freedom." * (
        1 < few < 5
    )
    note = (
        f"Last values, means over seeds with 95 % intervals (Student's).{seeds} Differences are to {label(baseline)}, "
        "paired by seed, with p of the paired t-test, each of one comparison."
    )
    names = [SHORT.get(name, name) for name in baseline]
    return Table(("metric", *names, "seeds", "mean", f"minus {label(baseline)}", "pairs"), tuple(shown), note)
