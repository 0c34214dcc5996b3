"""Makes the sections of a report page from the content of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from raml_trl.render.tables import Cell, Table, Terms, number
from raml_trl.reports.evaluations import Group, Rollout, Sample, Stage, common_metrics, difference_table, stage_table
from raml_trl.reports.page import Block, Figure, Section, ShownCompletion
from raml_trl.reports.runs import Band, CurveFigure, Seeds
from raml_trl.reports.step_prediction import PARTS, Part
from raml_trl.reports.step_time import StepTimeComparison
from raml_trl.reports.step_time_tables import phases_of, speedup_note, speedup_table, split_table
from raml_trl.reports.summary import Report, StepTimes, SweepSummary
from raml_trl.reports.sweeps import combinations_table, label
from raml_trl.reports.terms import is_share, metric_title, quantity_terms

_MOST_NAMES = 6  # in a title


def report_sections(report: Report) -> list[Section]:
    """Return the sections of a report in order, leaving out those without content."""
    sections = [_stage_section(report.stages)] if report.stages else []
    sections += [_training_section(report.trainings, report.curves)] if report.trainings else []
    sections += [_sweep_section(place, sweep) for place, sweep in enumerate(report.sweeps, start=1)]
    sections += [_time_section(report.times)] if report.times.splits else []
    if report.groups or any(report.samples.values()):
        sections.append(_completion_section(report.samples, report.groups))
    sections += [_settings_section(report.trainings)] if report.trainings else []
    return sections


def summary_tables(report: Report) -> list[Table]:
    """Return the tables that are also shown in the terminal."""
    tables = [stage_table(report.stages)] if report.stages else []
    tables += [_ends_table(figures) for figures in report.curves.values() if figures]
    return tables + [combinations_table(sweep.combinations, sweep.baseline) for sweep in report.sweeps]


def _stage_section(stages: Sequence[Stage]) -> Section:
    """Make the section of evaluations: bars, a table, and the difference of each stage to the stage before it."""
    metrics = common_metrics(stages)
    bars = {
        "groups": [metric_title(name) for name in metrics],
        "bars": {stage.name: [asdict(stage.metrics[name]) for name in metrics] for stage in stages},
    }
    differences = difference_table(stages)
    blocks = [
        Block(
            figures=[Figure("bars", "Metrics of each stage", bars)],
            caption="Means over questions; whiskers are 95 % bootstrap intervals over questions.",
            tables=[stage_table(stages)],
        )
    ]
    if differences is not None:
        blocks.append(Block(title="Difference of each stage to the one before", tables=[differences]))
    return Section("results", "Evaluations" if len(stages) > 1 else f"Evaluation: {stages[0].name}", blocks)


def _training_section(trainings: Sequence[Seeds], curves: Mapping[str, Sequence[CurveFigure]]) -> Section:
    """Make the section with the curves of the training runs, one block for each command."""
    blocks = []
    for command, figures in curves.items():
        of_command = [training for training in trainings if training.command == command]
        if not of_command:
            continue
        seeds = [f"{training.name}: {len(training.runs)} seeds" for training in of_command if len(training.runs) > 1]
        title = ", ".join(training.name for training in of_command)
        tables = [_ends_table(figures)] if figures else []
        blocks.append(Block(title, ", ".join(seeds), _drawn(figures), _caption(figures), _terms(figures), tables))
    return Section("training", "Training curves", blocks)


def _ends_table(figures: Sequence[CurveFigure]) -> Table:
    """Make the table of the first and the last value of every curve."""
    rows = [
        (Cell(name), Cell(figure.title), _value(band, 0), _value(band, -1), Cell(f"{band.x[0]:,} to {band.x[-1]:,}"))
        for figure in figures
        for name, band in figure.lines.items()
    ]
    averaged = any(band.window > 1 for figure in figures for band in figure.lines.values())
    note = "First and last values of the curves."
    note += " Curves of 40 steps or more are moving means over a twentieth of the steps." if averaged else ""
    head = ("training", "quantity", "first", "last", "steps")
    return Table(head, tuple(rows), note, label="first and last values of the curves")


def _value(band: Band, place: int) -> Cell:
    """Return a value of a curve, with its interval if there are several seeds."""
    if band.low is None or band.high is None:
        return Cell(number(band.mean[place], ".3g"))
    return Cell(
        number(band.mean[place], ".3g"), f"[{number(band.low[place], '.3g')}, {number(band.high[place], '.3g')}]"
    )


def _sweep_section(place: int, sweep: SweepSummary) -> Section:
    """Make the section of a sweep: complete trials, curves, and each combination compared with the baseline.

    `place` is the position of the sweep among the sweeps of the report. The anchor of the section contains it.
    """
    text = sweep.trials.sentence()
    measured = {label(row.parameters) for row in sweep.combinations if row.value.mean is not None}
    if len(sweep.drawn) < len(measured):
        text += f" Curves are shown for the {len(sweep.drawn)} best of {len(measured)} combinations."
    curves = Block("", text, _drawn(sweep.figures), _caption(sweep.figures), _terms(sweep.figures))
    table = combinations_table(sweep.combinations, sweep.baseline)
    return Section(f"sweep-{place}", f"Sweep: {sweep.name}", [curves, Block("Final metrics", tables=[table])])


def _drawn(figures: Sequence[CurveFigure]) -> list[Figure]:
    drawn = []
    for figure in figures:
        lines = {name: asdict(band) for name, band in figure.lines.items()}
        drawn.append(Figure("curves", figure.title, {"lines": lines, "share": is_share(figure.name)}))
    return drawn


def _terms(figures: Sequence[CurveFigure]) -> Terms:
    return quantity_terms(figure.name for figure in figures)


def _caption(figures: Sequence[CurveFigure]) -> str:
    """Return a caption that explains the lines and bands of the figures."""
    bands = [band for figure in figures for band in figure.lines.values()]
    if not bands:
        return "None of these training runs logged a curve."
    sentences = []
    seeds = sorted({band.n for band in bands if band.n > 1})
    if seeds:
        sentences.append(
            f"Lines are means over {' or '.join(map(str, seeds))} seeds; bands are Student's 95 % intervals of the "
            "mean at each step."
        )
        if seeds[0] < 5:
            sentences.append("With so few seeds the bands are wide; they are clipped at the edge of the figure.")
    if any(band.n == 1 for band in bands):
        sentences.append("A single seed has no band.")
    if any(band.window > 1 for band in bands):
        sentences.append(
            "Curves of 40 steps or more are moving means over a twentieth of the steps; a single seed's unsmoothed "
            "values are pale."
        )
    return " ".join(sentences)


def _time_section(times: StepTimes) -> Section:
    """Make the section of step times: seconds by phase, and predicted beside measured speed-ups."""
    splits = times.splits
    parts = {phase: [split.seconds[phase] for split in splits.values()] for phase in phases_of(splits)}
    alone = [
        f"Trials of sweep {name} differ in more than m and seed, so their step times are not compared by m."
        for name in times.alone
    ]
    blocks = [
        Block(
            "Seconds of a step by phase",
            figures=[Figure("stack", "seconds of an optimizer step", {"rows": list(splits), "parts": parts})],
            caption=" ".join(["Means over steps and runs.", *alone]),
            tables=[split_table(splits)],
        )
    ]
    return Section(
        "time", "Time of a training step", [*blocks, *(_speedup_block(*item) for item in times.speedups.items())]
    )


def _speedup_block(name: str, compared: StepTimeComparison) -> Block:
    """Make the block of one comparison. Its title names only what the block shows."""
    if compared.reason and not compared.others:
        return Block(text=f"Speed-up of {name}: {speedup_note(compared)}")
    kinds = ["predicted"] * (not compared.reason) + ["measured"] * bool(compared.others)
    figures = [
        Figure("speedups", f"speed-up of the {part} over our m = {compared.g}", _speedup_data(compared, part))
        for part in PARTS
        if not compared.reason
    ]
    measured = " Dots are measured, with 95 % intervals over seeds if there are two or more." if compared.others else ""
    return Block(
        f"{' and '.join(kinds).capitalize()} speed-up: {name}",
        figures=figures,
        caption=f"The line is predicted.{measured}" if figures else "",
        tables=[speedup_table(compared)],
    )


def _speedup_data(compared: StepTimeComparison, part: Part) -> dict[str, object]:
    return {
        "m": [row.m for row in compared.rows],
        "predicted": [row.predicted_speedup and row.predicted_speedup[part] for row in compared.rows],
        "measured": [row.measured_speedup and asdict(row.measured_speedup[part]) for row in compared.rows],
        "g": compared.g,
    }


def _completion_section(samples: Mapping[str, Sequence[Sample]], groups: Sequence[Group]) -> Section:
    """Make the section of completions: samples of each stage, and a group of rollouts of each GRPO training."""
    blocks = [
        Block(
            name,
            "The first right and the first wrong samples, among the first sample of each question.",
            completions=[
                ShownCompletion(
                    sample.question or sample.question_id,
                    sample.text,
                    _verdict(sample.correct),
                    "" if sample.reference is None else f"reference answer {sample.reference}",
                )
                for sample in of_stage
            ],
        )
        for name, of_stage in samples.items()
        if of_stage
    ]
    for group in groups:
        selected = sum(bool(rollout.selected) for rollout in group.rollouts)
        completions = [
            ShownCompletion("", rollout.text, _verdict(rollout.correct), _selection(rollout), pale=not rollout.selected)
            for rollout in group.rollouts
        ]
        later = ""
        if group.unreadable:
            later = f" that can be read ({group.unreadable} later: being written, or cut off when the run was killed)"
        text = (
            f"One group of step {group.step}, the last step with logged completions{later}. {selected} of its "
            f"{len(group.rollouts)} rollouts were selected and carried gradient. Question: {group.question}"
        )
        blocks.append(Block(f"Rollouts of {group.name}", text, completions=completions))
    titles = ["samples of evaluations"] * any(samples.values()) + ["rollouts of training"] * bool(groups)
    title = " and ".join(titles)
    return Section("completions", title[0].upper() + title[1:], blocks)


def _verdict(correct: bool | None) -> str:
    return "not graded" if correct is None else "right" if correct else "wrong"


def _selection(rollout: Rollout) -> str:
    words = ["selected" if rollout.selected else "not selected"]
    if rollout.advantage is not None:
        words.append(f"advantage {rollout.advantage:+.2f}".replace("-", "\N{MINUS SIGN}"))
    return ", ".join(words)


def _settings_section(trainings: Sequence[Seeds]) -> Section:
    """Make the section with the settings of each training."""
    blocks = []
    for training in trainings:
        rows = tuple((Cell(name), Cell(str(value))) for name, value in training.runs[0].settings.items())
        seeds = ", ".join(str(run.seed) for run in training.runs)
        note = f"Seeds: {seeds}. {training.seconds:.0f} seconds per run."
        table = Table(("setting", "value"), rows, note, label=f"settings of {training.name}")
        blocks.append(Block(f"{training.name}: {training.command}", tables=[table], folded=True))
    return Section("settings", "Settings of the training runs", blocks)


def report_title(report: Report) -> str:
    """Return a title that says what the report shows, such as "Evaluations of SFT and GRPO; training of GRPO"."""
    stages, sweeps = [stage.name for stage in report.stages], [sweep.name for sweep in report.sweeps]
    parts = [
        f"evaluation{'s' * (len(stages) > 1)} of {_listed(stages)}" if stages else "",
        f"training of {_listed([training.name for training in report.trainings])}" if report.trainings else "",
        f"sweep{'s' * (len(sweeps) > 1)} {_listed(sweeps)}" if sweeps else "",
    ]
    title = "; ".join(filter(None, parts)) or "runs in progress"
    return title[0].upper() + title[1:]


def _listed(names: Sequence[str]) -> str:
    """Return the names in words, or their number if there are many."""
    if len(names) > _MOST_NAMES:
        return f"{len(names)} runs"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
