r"""Makes a report page in Weights & Biases (W&B) about a group of runs.

    raml-trl wandb_report --project raml_trl --group grpo_num_generations_update \
        --output_dir runs/wandb_report

The page shows learning curves, one for each m (each K for SFT), and the sweep results. For GRPO it also shows the
selection, the cost and the last rollouts. The runs must already be in W&B, see `docs/logging.md`. `output_dir` gets
`report.json`, the page in W&B's own format.
"""

import logging
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.extras import how_to_install
from raml_trl.runtime.files import write_json
from raml_trl.runtime.limits import PATH, Limits, Text, check_settings
from raml_trl.runtime.runs import Run
from raml_trl.runtime.trackers import PROJECT, check_tracker

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2 as wr

logger = logging.getLogger(__name__)

_COMPARED = {"grpo": "num_generations_update", "sft": "num_trajectories"}


@dataclass
class WandbReportConfig:
    """Settings of `wandb_report`: the W&B project, the runs to show, and the title of the page."""

    limits: ClassVar[Limits] = {"output_dir": PATH, "title": Text(128)}  # W&B's limit

    output_dir: str
    project: str = field(default=PROJECT, metadata={"help": "W&B project of the runs and of the page."})
    entity: str | None = field(default=None, metadata={"help": "W&B user or team. The default is your own."})
    group: str | None = field(
        default=None, metadata={"help": "W&B group of the runs, such as a sweep. The default is the whole project."}
    )
    stage: Literal["grpo", "sft"] = field(default="grpo", metadata={"help": "How the runs were trained."})
    compare: str | None = field(
        default=None,
        metadata={"help": "Setting whose values get one curve each. The default is m for grpo and K for sft."},
    )
    metric: str = field(default="eval/pass@1", metadata={"help": "Final metric of a run, as W&B names it."})
    settings: list[str] = field(
        default_factory=lambda: ["learning_rate", "seed"], metadata={"help": "Swept settings other than `compare`."}
    )
    title: str = "RaML on TRL"

    def __post_init__(self) -> None:
        check_settings(self)
        self.compare = self.compare or _COMPARED[self.stage]


def main(config: WandbReportConfig, record: Run) -> None:
    """Build the page, save it in W&B, and keep a copy in `output_dir`, whose run is `record`."""
    if find_spec("wandb_workspaces") is None:
        raise InputError(f"wandb_report needs wandb-workspaces, which is not installed: {how_to_install('wandb')}")
    check_tracker("wandb")
    started = time.monotonic()
    report = make_report(config)
    report.save()
    write_json(record.directory / "report.json", specification(report))
    record.finish(time.monotonic() - started, {"url": report.url})
    logger.info("the page is at %s", report.url)


def make_report(config: WandbReportConfig) -> "wr.Report":
    """Return the page without saving it in W&B.

    Raises:
        InputError: if W&B refuses the connection, or has no project with the name in `config`.
    """
    import wandb  # wandb and wandb-workspaces are an extra
    from wandb_workspaces.reports import v2 as wr

    from raml_trl.reports.wandb_panels import Page, blocks

    try:
        api = wandb.Api()
        entity = config.entity or api.default_entity
        projects = [project.name for project in api.projects(entity)]
    except wandb.Error as error:
        raise InputError(f"cannot connect to W&B: {' '.join(str(error).split())} (run wandb login)") from error
    if config.project not in projects:
        raise InputError(
            f"{entity} has no project {config.project} in W&B: train with --report_to wandb first, and upload offline "
            "runs with wandb sync"
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


def specification(report: "wr.Report") -> dict[str, object]:
    """Return the page `report` in the JSON format that W&B stores."""
    return report._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)


if __name__ == "__main__":
    run(main, WandbReportConfig)
