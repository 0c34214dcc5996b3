"""Tables of where the seconds of a step go, and of predicted against measured speed-up."""

from collections.abc import Mapping
from typing import Any

from raml_trl.grpo.ledger import PHASES
from raml_trl.render.tables import DASH, Cell, Table, interval, number


def split_table(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each run: `seconds` by phase, over `n` runs."""
    phases = [phase for phase in PHASES if any(one["seconds"][phase] for one in splits.values())]
    rows = []
    for name, one in splits.items():
        seconds, whole = one["seconds"], sum(one["seconds"].values())
        cells = [Cell(_seconds(seconds[phase]), f"{100 * seconds[phase] / whole:.0f} %") for phase in phases]
        rows.append((Cell(name), *cells, Cell(_seconds(whole)), Cell(str(one["n"]))))
    note = "Seconds of an optimizer step as the trainer logged them, means over steps and runs, and their share of it."
    return Table(("", *phases, "step", "runs"), tuple(rows), note)


def speedup_table(compared: Mapping[str, Any]) -> Table:
    """A row for each m: seconds and speed-ups, predicted and, where there are other runs, measured."""
    hows = ("predicted", "measured") if compared["others"] else ("predicted",)
    whats = ("update s", "step s", "speed-up of an update", "speed-up of a step")
    rows = []
    for row in compared["rows"]:
        columns = []
        for part in ("update", "step"):
            seconds = {how: Cell(_seconds((row[how] or {}).get(part))) for how in hows}
            columns.append([seconds[how] for how in hows])
        for part in ("update", "step"):
            columns.append([_speedup(compared, row, how, part) for how in hows])
        count = [Cell(str(row["n"] or DASH))] if compared["others"] else []
        rows.append((Cell(str(row["m"])), *count, *(cell for cells in columns for cell in cells)))
    head = [f"{what}, {how}" for what in whats for how in hows]
    return Table(("m", *(["runs measured"] if compared["others"] else []), *head), tuple(rows), speedup_note(compared))


def _speedup(compared: Mapping[str, Any], row: Mapping[str, Any], how: str, part: str) -> Cell:
    if row["m"] == compared["g"]:
        return Cell("1" if row[how] else DASH)
    value = (row[f"{how}_speedup"] or {}).get(part)
    return interval(value, ".2f") if isinstance(value, Mapping) else Cell(number(value, ".2f"))


def speedup_note(compared: Mapping[str, Any]) -> str:
    """What the numbers rest on."""
    if compared["reason"]:
        basis = f"Nothing is predicted: {compared['reason']}."
    else:
        basis = (
            f"Predicted from {compared['source']} alone, by raml_trl.grpo.planning: its seconds, and the lengths that "
            "it logged."
        )
    if not compared["others"]:
        return f"{basis} There is no other run that differs in m and seed alone, so nothing was measured to compare."
    measured = (
        " Measured in the others, which differ from it in m and seed alone: medians over steps, means over runs. "
        f"Speed-ups are over m = {compared['g']}, of the same seed where there is one: geometric means with 95 % "
        "intervals over seeds (Student's, of the logarithm)."
    )
    if not any(row["n"] for row in compared["rows"] if row["m"] == compared["g"]):
        measured += f" No other run has m = {compared['g']}: there is nothing to be faster than."
    return f"{basis}{measured} An update is scoring, selecting and updating."


def _seconds(value: float | None) -> str:
    """Three digits that count."""
    return DASH if value is None else f"{value:.3g}"
