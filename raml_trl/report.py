"""Writes a self-contained page about training runs, evaluations and sweeps, and prints the tables of the page.

    python -m raml_trl.report --config recipes/tiny/demo/report.yaml

`output_dir` gets three files: `report.html`, which loads nothing from the network or from other files; `report.md`
with the same tables and completions; and `report.json` with the numbers.
"""

import sys
from dataclasses import dataclass, field
from typing import ClassVar

from raml_trl.render.tables import markdown
from raml_trl.reports.page import html_page, markdown_page
from raml_trl.reports.sections import report_sections, summary_tables
from raml_trl.reports.summary import read_report
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.limits import PATH, SEED, Each, Limits, check_settings
from raml_trl.runtime.runs import Run


@dataclass
class ReportConfig:
    """Settings of `report`."""

    limits: ClassVar[Limits] = {
        "output_dir": PATH,
        "evaluations": Each(PATH),
        "runs": Each(PATH),
        "sweeps": Each(PATH),
        "seed": SEED,
    }

    output_dir: str
    evaluations: list[str] = field(
        default_factory=list, metadata={"help": "stage=DIR for each evaluation, in the order of the table."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "stage=DIR for each training run to plot. Give a stage several times for several seeds."},
    )
    sweeps: list[str] = field(
        default_factory=list, metadata={"help": "name=DIR for each directory of `sweep`, complete or not."}
    )
    baselines: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sweep=PARAMETER=VALUE,... sets the combination that the others of a sweep are compared with. The "
            "default is the one with the largest m, or the first one if m was not swept."
        },
    )
    title: str = "RaML on TRL"
    lead: str = field(default="", metadata={"help": "A sentence or two under the title."})
    seed: int = field(default=0, metadata={"help": "Seed of the resampling for confidence intervals and p-values."})

    def __post_init__(self) -> None:
        check_settings(self)
        for value in (*self.evaluations, *self.runs, *self.sweeps):
            name, directory = _split(value)
            if not name or not directory:
                raise InputError(f"{value!r} must have the form stage=DIR")
        if not (self.evaluations or self.runs or self.sweeps):
            raise InputError("there is nothing to report: give evaluations, runs or sweeps")
        for kind, values in (("evaluations", self.evaluations), ("sweeps", self.sweeps), ("baselines", self.baselines)):
            names = [_split(value)[0] for value in values]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise InputError(f"{kind} has the name {twice[0]!r} twice: give each a name of its own")
        swept = [_split(value)[0] for value in self.sweeps]
        for value in self.baselines:
            name, combination = _split(value)
            if name not in swept or "=" not in combination:
                raise InputError(
                    f"baseline {value!r} must have the form sweep=PARAMETER=VALUE,... where sweep is one of sweeps: "
                    f"{', '.join(swept) or 'none given'}"
                )


def main(config: ReportConfig, record: Run) -> None:
    """Read the configured runs, write `report.html`, `report.md` and `report.json`, and print the tables."""
    report = read_report(
        runs=[_split(value) for value in config.runs],
        evaluations=[_split(value) for value in config.evaluations],
        sweeps=[_split(value) for value in config.sweeps],
        baselines=dict(map(_split, config.baselines)),
        seed=config.seed,
    )
    sections = report_sections(report)
    for name, text in (
        ("report.html", html_page(config.title, config.lead, sections)),
        ("report.md", markdown_page(config.title, config.lead, sections)),
    ):
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")
    write_json(record.directory / "report.json", {"title": config.title, "lead": config.lead, **report.to_json()})
    record.finish(0.0, {})

    tables = "".join(f"\n{markdown(table)}\n" for table in summary_tables(report))
    sys.stdout.write(tables)


def _split(value: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, _, rest = value.partition("=")
    return name, rest


if __name__ == "__main__":
    run(main, ReportConfig, repeatable=True)
