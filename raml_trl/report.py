"""Writes a self-contained page about training runs, evaluations and sweeps, and prints the tables of the page.

    raml-trl report recipes/tiny/demo/report.yaml

`output_dir` gets three files: `report.html`, which loads nothing from the network or from other files; `report.md`
with the same tables and completions; and `report.json` with the numbers.

With `watch: true` the runs may still be running, or not have started. The report is then written again every
`watch_seconds`, until all runs are complete or the command is interrupted. A run that has failed is not complete. A
browser that shows the page loads it again by itself.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from raml_trl.render.tables import markdown
from raml_trl.reports.page import html_page, markdown_page
from raml_trl.reports.sections import report_sections, report_title, summary_tables
from raml_trl.reports.summary import Report, read_report
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError, one_line
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.limits import PATH, SEED, Each, Limits, check_settings, whole
from raml_trl.runtime.runs import Run
from raml_trl.runtime.stopping import Terminated

logger = logging.getLogger(__name__)


@dataclass
class ReportConfig:
    """Settings of `report`."""

    limits: ClassVar[Limits] = {
        "output_dir": PATH,
        "evaluations": Each(PATH),
        "runs": Each(PATH),
        "sweeps": Each(PATH),
        "seed": SEED,
        "watch_seconds": whole(1, 86400),
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
    title: str = field(default="", metadata={"help": "The default names what the report shows."})
    lead: str = field(default="", metadata={"help": "A sentence or two under the title."})
    seed: int = field(default=0, metadata={"help": "Seed of the resampling for confidence intervals and p-values."})
    watch: bool = field(
        default=False,
        metadata={"help": "Write the report of runs that are still running, again and again until they are complete."},
    )
    watch_seconds: int = field(default=30, metadata={"help": "Seconds from one report to the next, with watch."})

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
    """Read the configured runs, write `report.html`, `report.md` and `report.json`, and print the tables.

    The files are written to the directory of `record`, which is `output_dir`.
    """
    report = watch(config, record, now=datetime.now, sleep=time.sleep) if config.watch else read(config)
    write(config, record, report)
    record.finish(0.0, {})
    tables = "".join(f"\n{markdown(table)}\n" for table in summary_tables(report))
    left_out = [f"{sweep.name}: {sweep.trials.sentence()}" for sweep in report.sweeps if sweep.trials.left_out]
    sys.stdout.write(tables + "".join(f"\n{one_line(line)}\n" for line in left_out))


def watch(
    config: ReportConfig, record: Run, *, now: Callable[[], datetime], sleep: Callable[[float], object]
) -> Report:
    """Write a report that refreshes itself every `watch_seconds`, until all runs are complete.

    After an interruption, the last report stays, but no longer refreshes itself.

    Args:
        config: settings of the report.
        record: the run whose directory gets the report.
        now: returns the time, which the page states.
        sleep: waits for a number of seconds.

    Returns:
        The report of the complete runs. The caller must write it.
    """
    pending: list[str] = []
    while (report := read(config, so_far=True)).pending:
        if report.pending != pending:
            logger.info("report: %s: %s", record.directory / "report.html", " ".join(report.pending))
        pending = report.pending
        written = f"Written at {now():%H:%M:%S}."
        try:
            again = f"Every {config.watch_seconds} seconds it is written again."
            write(config, record, report, status=" ".join([written, again, *pending]), refresh=config.watch_seconds)
            sleep(config.watch_seconds)
        except (KeyboardInterrupt, Terminated):
            write(config, record, report, status=" ".join([written, "No longer updated.", *pending]))
            raise
    return report


def read(config: ReportConfig, *, so_far: bool = False) -> Report:
    """Return the report of the configured runs, evaluations and sweeps.

    With `so_far`, what exists is reported. Otherwise, an incomplete run or evaluation raises an `InputError`.
    """
    return read_report(
        runs=[_split(value) for value in config.runs],
        evaluations=[_split(value) for value in config.evaluations],
        sweeps=[_split(value) for value in config.sweeps],
        baselines=dict(map(_split, config.baselines)),
        seed=config.seed,
        so_far=so_far,
    )


def write(config: ReportConfig, record: Run, report: Report, *, status: str = "", refresh: int | None = None) -> None:
    """Write the three files of a report. A reader of a file sees either its old or its new content, never a part.

    Args:
        config: settings of the report.
        record: the run whose directory gets the files.
        report: the content.
        status: text that says which runs are still running.
        refresh: a browser loads `report.html` again after this number of seconds; None: never.
    """
    sections, title = report_sections(report), config.title or report_title(report)
    for name, text in (
        ("report.html", html_page(title, config.lead, sections, status=status, refresh=refresh)),
        ("report.md", markdown_page(title, config.lead, sections, status=status)),
    ):
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")
    write_json(record.directory / "report.json", {"title": title, "lead": config.lead, **report.to_json()})


def _split(value: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, _, rest = value.partition("=")
    return name, rest


if __name__ == "__main__":
    run(main, ReportConfig, repeatable=True)
