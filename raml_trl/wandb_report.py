r"""Make a page of W&B's from the runs of a group: curves by m, selection, cost, the sweep, the rollouts.

    python -m raml_trl.wandb_report --project raml_trl --group grpo_num_generations_update \
        --output_dir runs/wandb_report

The runs must be in W&B by now: see `docs/logging.md`. `output_dir` gets `report.json`, the page as W&B has it.
"""

import logging
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from raml_trl.runtime.runs import Run
from raml_trl.runtime.trackers import PROJECT, check_tracker
from raml_trl.runtime.validation import check_types

logger = logging.getLogger(__name__)

_COMPARED = {"grpo": "num_generations_update", "sft": "num_trajectories"}


@dataclass
class WandbReportConfig:
    """`wandb_report`: which runs to show, and what of them."""

    output_dir: str
    project: str = field(default=PROJECT, metadata={"help": "Of the runs, and of the page."})
    entity: str | None = field(default=None, metadata={"help": "User or team; None: your own."})
    group: str | None = field(default=None, metadata={"help": "Of the runs, such as a sweep; None: the whole project."})
    stage: Literal["grpo", "sft"] = field(default="grpo", metadata={"help": "Which training the runs are of."})
    compare: str | None = field(
        default=None, metadata={"help": "The setting whose values are the curves; None: m for grpo, K for sft."}
    )
    metric: str = field(default="eval/pass@1", metadata={"help": "Of a run, as W&B names it."})
    settings: list[str] = field(
        default_factory=lambda: ["learning_rate", "seed"],
        metadata={"help": "Those that a sweep turned, beside `compare`."},
    )
    title: str = "RaML on TRL"

    def __post_init__(self) -> None:
        check_types(self, WandbReportConfig)
        self.compare = self.compare or _COMPARED[self.stage]
        if len(self.title) > 128:  # W&B's limit
            raise InputError(f"title must be at most 128 characters, got {len(self.title)}")


def main(config: WandbReportConfig, record: Run) -> None:
    """Build the page, hand it to W&B, keep it."""
    if find_spec("wandb_workspaces") is None:
        raise InputError("wandb_report needs wandb-workspaces, which is not installed: pip install raml_trl[wandb]")
    check_tracker("wandb")
    started = time.monotonic()
    report = make_report(config)
    report.save()
    write_json(record.directory / "report.json", specification(report))
    record.finish(time.monotonic() - started, {"url": report.url})
    logger.info("the page is %s", report.url)


def make_report(config: WandbReportConfig) -> Any:
    """The page, not saved yet.

    Raises:
        InputError: if W&B lets nobody in, or has no such project.
    """
    import wandb  # an extra, as is what the panels are made of
    from wandb_workspaces.reports import v2 as wr

    from raml_trl.reports.wandb_panels import Page, blocks

    try:
        api: Any = wandb.Api()
        entity = config.entity or api.default_entity
        projects = [project.name for project in api.projects(entity)]
    except wandb.Error as error:
        raise InputError(f"W&B cannot be asked: {' '.join(str(error).split())} (run wandb login)") from error
    if config.project not in projects:
        raise InputError(
            f"{entity} has no project {config.project} in W&B: train with --report_to wandb first, and upload what was "
            "logged offline with wandb sync"
        )
    assert config.compare is not None
    page = Page(
        entity=entity,
        project=config.project,
        group=config.group,
        stage=config.stage,
        compare=config.compare,
        metric=config.metric,
        settings=(config.compare, *config.settings),
    )
    return wr.Report(entity=entity, project=config.project, title=config.title, blocks=blocks(page))


def specification(report: Any) -> dict[str, Any]:
    """A page as W&B takes it."""
    return report._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)


if __name__ == "__main__":
    run(main, WandbReportConfig)
