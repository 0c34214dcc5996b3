"""Makes the tables of the seconds of a GRPO step: by phase, and speed-ups by m, both predicted and measured.

m is the number of rollouts selected per group.
"""

from collections.abc import Mapping

from raml_trl.grpo.ledger import PHASES
from raml_trl.grpo.planning.step_cost import UNCERTAIN
from raml_trl.render.tables import DASH, Cell, Table, interval, number
from raml_trl.reports.step_prediction import PARTS, Part
from raml_trl.reports.step_time import Split, StepTimeComparison, StepTimeRow
from raml_trl.reports.terms import PHASE_MEANINGS

_SPEEDUP_TERMS = (
    ("m", "rollouts of each question that are trained on"),
    ("update", "the phases scoring, selecting and updating, which depend on m"),
    ("speed-up", "how many times as fast as our trainer, not TRL's, on all G rollouts (m = G): 2 means half the time"),
)


def phases_of(splits: Mapping[str, Split]) -> list[str]:
    """Return the phases that took time in any of the `splits`, in the order in which a step runs them."""
    return [phase for phase in PHASES if any(split.seconds[phase] for split in splits.values())]


def split_table(splits: Mapping[str, Split]) -> Table:
    """Make the table of seconds by phase, one row for each training and for each combination of a sweep."""
    phases = phases_of(splits)
    rows = []
    for name, split in splits.items():
        total = sum(split.seconds.values())
        cells = [
            Cell(_three_digits(split.seconds[phase]), f"{100 * split.seconds[phase] / total:.0f} %") for phase in phases
        ]
        rows.append((Cell(name), *cells, Cell(_three_digits(total)), Cell(str(split.n))))
    note = "Logged seconds of an optimizer step, averaged over steps and runs, and the share of each phase."
    terms = tuple((phase, PHASE_MEANINGS[phase]) for phase in phases)
    return Table(("", *phases, "step", "runs"), tuple(rows), note, terms, "seconds of a step by phase")


def speedup_table(compared: StepTimeComparison) -> Table:
    """Make the table of seconds and speed-ups by m, the number of rollouts selected per group.

    It has columns for predicted values, for measured values, or for both, depending on which are known.
    """
    known = {"predicted": not compared.reason, "measured": bool(compared.others)}
    kinds = [kind for kind, is_known in known.items() if is_known]
    quantities = ("update s", "step s", "speed-up of an update", "speed-up of a step")
    rows = []
    for row in compared.rows:
        seconds = [_seconds_cells(row, part) for part in PARTS]
        speedups = [_speedup_cells(row, part, is_all=row.m == compared.g) for part in PARTS]
        count = [Cell(str(row.n or DASH))] if compared.others else []
        pairs = [dict(zip(known, pair, strict=True)) for pair in (*seconds, *speedups)]
        cells = [pair[kind] for pair in pairs for kind in kinds]
        rows.append((Cell(str(row.m)), *count, *cells))
    head = [f"{quantity}, {kind}" for quantity in quantities for kind in kinds]
    runs = ["runs measured"] if compared.others else []
    return Table(("m", *runs, *head), tuple(rows), speedup_note(compared), _SPEEDUP_TERMS, "seconds and speed-ups by m")


def _seconds_cells(row: StepTimeRow, part: Part) -> tuple[Cell, Cell]:
    """Return predicted and measured seconds."""
    predicted = row.predicted[part] if row.predicted else None
    measured = row.measured[part] if row.measured else None
    return Cell(_three_digits(predicted)), Cell(_three_digits(measured))


def _speedup_cells(row: StepTimeRow, part: Part, *, is_all: bool) -> tuple[Cell, Cell]:
    """Return predicted and measured speed-up."""
    if is_all:
        return Cell("1" if row.predicted else DASH), Cell("1" if row.measured else DASH)
    predicted = row.predicted_speedup[part] if row.predicted_speedup else None
    measured = row.measured_speedup[part] if row.measured_speedup else None
    return Cell(number(predicted, ".2f")), interval(measured, least=2)


def speedup_note(compared: StepTimeComparison) -> str:
    """Return the note below the table of speed-ups, which says how its numbers were predicted and measured."""
    if compared.reason:
        basis = f"No prediction: {compared.reason}."
    else:
        basis = (
            "Predictions (raml_trl.grpo.planning) use only the seconds and lengths logged by one run: "
            f"{compared.source}. The first micro-batch of a run takes longer, because of checks that run once. "
            "Predictions leave out this time, so a short run took longer than predicted."
        )
        if compared.uncertain:
            basis += f" {UNCERTAIN}"
    if not compared.others:
        return f"{basis} Nothing was measured to compare with: no other run differs from it in m and seed alone."
    measured = (
        " Measurements are those of the other runs, which differ from it in m and seed alone: medians over steps, "
        f"means over runs. Speed-ups are relative to our trainer with m = {compared.g}, with the same seed where there "
        "is one: geometric means with 95 % intervals over seeds (Student's, of the logarithm)."
    )
    if not any(row.n for row in compared.rows if row.m == compared.g):
        measured += f" No other run has m = {compared.g}, so there is no measured speed-up."
    return f"{basis}{measured}"


def _three_digits(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds:.3g}"
