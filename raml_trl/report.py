"""From runs, evaluations and sweeps to one self-contained page, and to tables in the terminal.

    python -m raml_trl.report --config recipes/tiny/demo/report.yaml

`output_dir` gets `report.html` (no network, no files beside it), `report.md`, which has the same tables and
completions, and `report.json`, the numbers of both.
"""

import sys
from dataclasses import asdict

from raml_trl.render.tables import markdown
from raml_trl.reports.combinations import combinations_table
from raml_trl.reports.curves import figures
from raml_trl.reports.evaluations import add_differences, common_metrics, read_stage, stage_table
from raml_trl.reports.page import html_page, markdown_page
from raml_trl.reports.runs import TRAINING, read_seeds
from raml_trl.reports.samples import logged_groups, stage_samples
from raml_trl.reports.sections import (
    completion_section,
    settings_section,
    stage_section,
    sweep_section,
    time_section,
    training_section,
)
from raml_trl.reports.summary import tell_sweep, tell_times, tell_training
from raml_trl.reports.sweeps import read_swept
from raml_trl.result_arguments import ReportConfig
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.runs import Run


def main(config: ReportConfig, record: Run) -> None:
    """Read, compare, write, print."""
    trainings = read_seeds([_split(value) for value in config.runs])
    seconds = {one.name: one.seconds for one in trainings}
    stages = [read_stage(name, path, seconds.get(name)) for name, path in map(_split, config.evaluations)]
    read = [read_swept(name, path) for name, path in map(_split, config.sweeps)]
    metrics = common_metrics(stages)
    add_differences(stages, metrics, config.seed)
    baselines = dict(map(_split, config.baselines))
    sweeps = [tell_sweep(sweep, baselines.get(sweep.name)) for sweep in read]
    times = tell_times(trainings, read)
    samples = {stage["name"]: stage_samples(stage) for stage in stages}
    groups = logged_groups(trainings)
    curves = {
        command: figures({one.name: one.runs for one in trainings if one.command == command}) for command in TRAINING
    }

    sections = [stage_section(stages, metrics)] if stages else []
    sections += [training_section(trainings, curves)] if trainings else []
    sections += [sweep_section(place, sweep) for place, sweep in enumerate(sweeps, start=1)]
    sections += [time_section(times)] if times.splits else []
    sections += [completion_section(samples, groups)] if groups or any(samples.values()) else []
    sections += [settings_section(trainings)] if trainings else []
    for name, text in (
        ("report.html", html_page(config.title, config.lead, sections)),
        ("report.md", markdown_page(config.title, config.lead, sections)),
    ):
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")
    content = {
        "title": config.title,
        "lead": config.lead,
        "stages": stages,
        "runs": [tell_training(one) for one in trainings],
        "sweeps": sweeps,
        "times": asdict(times),
    }
    write_json(record.directory / "report.json", content)
    record.finish(0.0, {})

    tables = [stage_table(stages, metrics)] if stages else []
    tables += [combinations_table(sweep["combinations"], sweep["baseline"]) for sweep in sweeps]
    shown = "".join(f"\n{markdown(table)}\n" for table in tables)
    sys.stdout.write(f"{shown}\nReport: {record.directory / 'report.html'}\n")


def _split(value: str) -> tuple[str, str]:
    """NAME=DIR, or what else stands behind the name."""
    name, _, rest = value.partition("=")
    return name, rest


if __name__ == "__main__":
    run(main, ReportConfig, repeatable=True)
