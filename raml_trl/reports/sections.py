"""What stands in a report: its sections, from what was read."""

from collections.abc import Mapping, Sequence
from typing import Any

from raml_trl.grpo.ledger import PHASES
from raml_trl.render.tables import Cell, Table
from raml_trl.reports.combinations import combinations_table
from raml_trl.reports.curves import metric_title
from raml_trl.reports.evaluations import difference_table, stage_table
from raml_trl.reports.page import Block, Figure, Section, ShownCompletion
from raml_trl.reports.runs import Seeds
from raml_trl.reports.step_time_tables import speedup_table, split_table
from raml_trl.reports.summary import Times
from raml_trl.reports.sweeps import label, told


def stage_section(stages: Sequence[dict[str, Any]], metrics: Sequence[str]) -> Section:
    """The evaluations: a table, bars, and each stage beside the one before it."""
    bars = {
        "groups": [metric_title(name) for name in metrics],
        "bars": {one["name"]: [one["metrics"][name] for name in metrics] for one in stages},
    }
    differences = difference_table(stages, metrics)
    blocks = [
        Block(
            figures=[Figure("bars", "Metrics of each stage", bars)],
            caption="Means over questions; whiskers are 95 % bootstrap intervals over questions.",
            tables=[stage_table(stages, metrics)],
        )
    ]
    if differences is not None:
        blocks.append(Block(title="Each stage beside the one before it", tables=[differences]))
    return Section("results", "Results", blocks)


def training_section(trainings: Sequence[Seeds], figures: Mapping[str, list[dict[str, Any]]]) -> Section:
    """The curves of the runs, those of each command together.

    Args:
        trainings: the runs.
        figures: by command, what `report_curves.figures` returns.
    """
    blocks = []
    for command, drawn in figures.items():
        of_command = [one for one in trainings if one.command == command]
        if not of_command:
            continue
        told_seeds = [f"{one.name}: {len(one.runs)} seeds" for one in of_command if len(one.runs) > 1]
        title = ", ".join(one.name for one in of_command)
        blocks.append(Block(title, ", ".join(told_seeds), _curve_figures(drawn), caption(drawn)))
    return Section("training", "Training", blocks)


def sweep_section(place: int, sweep: Mapping[str, Any]) -> Section:
    """A sweep: what of it is there, its curves, and its combinations beside the baseline.

    Args:
        place: of the sweep in the report, for its anchor.
        sweep: what `report_numbers.tell_sweep` returns.
    """
    text = told(sweep["trials"])
    there = {label(row["parameters"]) for row in sweep["combinations"] if row["mean"] is not None}
    if len(sweep["drawn"]) < len(there):
        text += f" Curves are those of the {len(sweep['drawn'])} best of {len(there)} combinations."
    curves = Block("", text, _curve_figures(sweep["figures"]), caption(sweep["figures"]))
    table = combinations_table(sweep["combinations"], sweep["baseline"])
    return Section(f"sweep-{place}", f"Sweep: {sweep['name']}", [curves, Block("Final metrics", tables=[table])])


def _curve_figures(figures: Sequence[dict[str, Any]]) -> list[Figure]:
    return [Figure("curves", one["title"], {"lines": one["lines"]}) for one in figures]


def caption(figures: Sequence[dict[str, Any]]) -> str:
    """What lines and bands are."""
    bands = [band for one in figures for band in one["lines"].values()]
    if not bands:
        return "No training run here logged a curve."
    words = []
    seeds = sorted({band["n"] for band in bands if band["n"] > 1})
    if seeds:
        words.append(
            f"Lines are means over {' or '.join(map(str, seeds))} seeds, bands 95 % intervals of these means "
            "(Student's, at each step by itself)."
        )
        if seeds[0] < 5:
            words.append("So few seeds make wide bands; they are cut where the figure ends.")
    if any(band["n"] == 1 for band in bands):
        words.append("A single seed has no band: how another would go is not known.")
    if any(band["window"] > 1 for band in bands):
        words.append(
            "Curves of 40 steps or more are moving means over a twentieth of them; a single seed's own are pale."
        )
    return " ".join(words)


def time_section(times: Times) -> Section:
    """Where the seconds go, and predicted against measured speed-up."""
    splits = times.splits
    phases = [phase for phase in PHASES if any(one["seconds"][phase] for one in splits.values())]
    parts = {phase: [one["seconds"][phase] for one in splits.values()] for phase in phases}
    alone = [
        f"Trials of the sweep {name} differ in more than m and seed: their seconds say nothing of m alone."
        for name in times.alone
    ]
    blocks = [
        Block(
            "Where the seconds of a step go",
            figures=[Figure("stack", "seconds of an optimizer step", {"rows": list(splits), "parts": parts})],
            caption=" ".join(["Means over steps, and over runs where there are several.", *alone]),
            tables=[split_table(splits)],
        )
    ]
    for name, one in times.speedups.items():
        figures = [
            Figure("speedups", f"{part}: times as fast as all {one['g']}", _speedups(one, part))
            for part in ("update", "step")
            if not one["reason"]
        ]
        measured = (
            " Dots are measured, with 95 % intervals over seeds where there are several." if one["others"] else ""
        )
        said = f"The line is predicted.{measured}" if figures else ""
        title = f"Predicted against measured speed-up: {name}"
        blocks.append(Block(title, figures=figures, caption=said, tables=[speedup_table(one)]))
    return Section("time", "Time", blocks)


def _speedups(compared: Mapping[str, Any], part: str) -> dict[str, Any]:
    rows = compared["rows"]
    return {
        "m": [row["m"] for row in rows],
        "predicted": [row["predicted_speedup"][part] for row in rows],
        "measured": [row["measured_speedup"] and row["measured_speedup"][part] for row in rows],
        "g": compared["g"],
    }


def completion_section(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], groups: Sequence[Mapping[str, Any]]
) -> Section:
    """What the models wrote: by stage, and of GRPO a group with its choice."""
    blocks = [
        Block(
            name,
            completions=[
                ShownCompletion(row["question"] or row["question_id"], row["text"], _verdict(row["correct"]))
                for row in rows
            ],
        )
        for name, rows in samples.items()
    ]
    for group in groups:
        chosen = sum(bool(one["selected"]) for one in group["rollouts"])
        rollouts = [
            ShownCompletion("", one["text"], _verdict(one["correct"]), _choice(one), pale=not one["selected"])
            for one in group["rollouts"]
        ]
        text = (
            f"A group of the last step whose completions were logged, step {group['step']}: {chosen} of "
            f"{len(group['rollouts'])} were selected and carried gradient. The question: {group['question']}"
        )
        blocks.append(Block(f"Rollouts of {group['name']}", text, completions=rollouts))
    return Section("completions", "What the models write", blocks)


def _verdict(correct: bool | None) -> str:
    return "not graded" if correct is None else "right" if correct else "wrong"


def _choice(rollout: Mapping[str, Any]) -> str:
    words = ["selected" if rollout["selected"] else "not selected"]
    if rollout["advantage"] is not None:
        words.append(f"advantage {rollout['advantage']:+.2f}".replace("-", "\N{MINUS SIGN}"))
    return ", ".join(words)


def settings_section(trainings: Sequence[Seeds]) -> Section:
    """How each training was run."""
    blocks = []
    for one in trainings:
        run = one.runs[0]
        rows = tuple((Cell(name), Cell(str(value))) for name, value in run.settings.items())
        seeds = ", ".join(str(each.seed) for each in one.runs)
        table = Table(("setting", "value"), rows, f"Seeds: {seeds}; {one.seconds:.0f} seconds a run.")
        blocks.append(Block(f"{one.name}: {one.command}", tables=[table], folded=True))
    return Section("settings", "How it was run", blocks)
