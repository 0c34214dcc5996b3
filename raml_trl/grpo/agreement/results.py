"""Shows how closely our trainer agrees with that of TRL, as a table, a figure and JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from raml_trl.grpo.agreement.comparison import COLUMNS, Agreement, Difference
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import markdown_table

REJECTED = "rejected"
_LEFTMOST = 1e-9  # where the figure draws 0
_RIGHTMOST = 10.0


def agreement_table(agreements: Sequence[Agreement], head: str = "case") -> str:
    """Return a Markdown table with one row per case and one column per comparison.

    A cell is the largest relative difference of all gradients and logged metrics. `head` is the title of the first
    column.
    """
    body = [[result.case, *(_cell(result.columns[name]) for name in COLUMNS)] for result in agreements]
    return markdown_table([[head, *COLUMNS], *body])


def _cell(result: Difference | str) -> str:
    if isinstance(result, str):
        return REJECTED
    return "0" if result.worst == 0.0 else f"{result.worst:.0e}"


def agreement_figure(agreements: Sequence[Agreement], tolerance: float) -> str:
    """Draw the largest relative difference of every comparison as a dot, and return the SVG.

    The axis is logarithmic, with one row per case, and a dashed line marks `tolerance`. A comparison has no dot if our
    trainer rejected its settings. A difference of 0 is drawn at the left edge, and an infinite one at the right edge.
    """
    figure = Figure(figsize=(7.2, 1.0 + 0.19 * len(agreements)), layout="constrained")
    axes = figure.subplots()
    dress(axes)
    for shift, (name, colour) in enumerate(zip(COLUMNS, COLOURS, strict=False)):
        values = [result.columns[name] for result in agreements]
        rows = [row for row, value in enumerate(values) if isinstance(value, Difference)]
        sizes = [min(max(value.worst, _LEFTMOST), _RIGHTMOST) for value in values if isinstance(value, Difference)]
        axes.scatter(sizes, [row + 0.2 * (shift - 1) for row in rows], s=14, color=colour, label=name)
    axes.axvline(tolerance, color=INK, linewidth=0.8, linestyle="--", label="tolerance")
    axes.set_xscale("log")
    axes.set_xlim(_LEFTMOST / 2, _RIGHTMOST * 2)
    axes.set_xlabel("worst relative difference of gradients and logged metrics (left edge: 0)", fontsize=8, color=INK)
    axes.set_yticks(range(len(agreements)), [result.case for result in agreements])
    axes.invert_yaxis()
    figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside upper center")
    return svg(figure)


def as_json(agreements: Sequence[Agreement]) -> list[dict[str, Any]]:
    """Return the results for a JSON file. Infinite differences become null."""
    return [
        {"case": result.case} | {name: _as_json(value) for name, value in result.columns.items()}
        for result in agreements
    ]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Agreement]:
    """Return the results that `as_json` has converted to `rows`."""
    return [Agreement(row["case"], {name: _from_json(row[name]) for name in COLUMNS}) for row in rows]


def _as_json(value: Difference | str) -> dict[str, object]:
    if isinstance(value, str):
        return {REJECTED: value}
    numbers = {name: getattr(value, name) for name in ("gradient", "logs")}
    numbers = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return numbers | {"metric": value.metric}


def _from_json(value: Mapping[str, Any]) -> Difference | str:
    if REJECTED in value:
        return str(value[REJECTED])
    gradient, logs = (math.inf if value[name] is None else float(value[name]) for name in ("gradient", "logs"))
    return Difference(gradient, logs, value["metric"])
