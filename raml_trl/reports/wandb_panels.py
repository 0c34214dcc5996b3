"""Builds a report page in W&B about a group of runs, from blocks of W&B's report API.

All plotted metrics are logged by our trainers; `docs/logging.md` explains them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as wr

from raml_trl.grpo.ledger import PHASES
from raml_trl.runtime.rollout_table import SELECTED

_Plots = Sequence[tuple[str, Sequence[str]]]
"""Titles of line plots, each with the logged metrics that the plot shows."""

_LEARNING: dict[str, _Plots] = {
    "grpo": [
        ("Share of correct rollouts", ["correct"]),
        ("Reward", ["reward"]),
        ("Share of formatted rollouts", ["formatted"]),
        ("Entropy", ["entropy"]),
        ("Tokens per rollout", ["completions/mean_length"]),
        ("Gradient norm", ["grad_norm"]),
    ],
    "sft": [
        ("Loss", ["loss"]),
        ("Next-token accuracy", ["mean_token_accuracy"]),
        ("Gradient norm", ["grad_norm"]),
    ],
}
_SELECTION: _Plots = [
    ("Groups, all G rollouts", ["groups/all_right", "groups/mixed", "groups/all_wrong"]),
    ("Groups, m selected rollouts", ["selected/all_right", "selected/mixed", "selected/all_wrong"]),
    ("Groups with equal rewards", ["selection/group_same_reward", "selection/selected_same_reward"]),
    ("Rows per generation", ["rows/selected", "rows/trained"]),
    ("Completion tokens per generation", ["tokens/generated", "tokens/scored", "tokens/trained"]),
]
_SPEED: _Plots = [("Speed-up over training on all G with TRL's padding", ["speedup/estimated", "speedup/ceiling"])]


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        entity: user or team in W&B.
        project: project of the runs.
        group: group of the runs; None means all runs of the project.
        stage: `grpo` if the runs were trained with GRPO, `sft` if they were trained with SFT.
        compare: setting whose values get one curve each; a curve is the mean over all runs with that value.
        metric: final metric of a run, as W&B names it, such as `eval/pass@1`.
        settings: field names of the swept settings other than `compare`.
    """

    entity: str
    project: str
    group: str | None
    stage: Literal["grpo", "sft"]
    compare: str
    metric: str
    settings: tuple[str, ...]


def blocks(page: Page) -> list[object]:
    """Return the blocks of the page from top to bottom."""
    runs = f"the runs of group {page.group}" if page.group else f"all runs of project {page.project}"
    lead = f"Each curve is a mean over {runs} with the same {page.compare}. Its band spans their minimum and maximum."
    learning = [*_line_plots(_LEARNING[page.stage]), wr.LinePlot(title=page.metric, x=_STEP, y=[page.metric])]
    parts = [wr.P(lead), wr.H2("Learning"), _grid(page, learning)]
    if page.stage == "grpo":
        parts += [wr.H2("Selection"), _grid(page, _line_plots(_SELECTION)), wr.H2("Cost"), _grid(page, _cost_plots())]
    parts += [wr.H2("Sweep"), _grid(page, _sweep_plots(page), grouped=False)]
    if page.stage == "grpo":
        table = wr.WeavePanelSummaryTable(table_name="completions", layout=_full_width())
        note = f"All G rollouts of the last generation. The column `{SELECTED}` marks the m that were trained on."
        parts += [wr.H2("Rollouts"), wr.P(note), _grid(page, [table], grouped=False)]
    return parts


def wandb_name(name: str) -> str:
    """Return the name that transformers' W&B callback gives to a logged metric."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


_STEP = wandb_name("global_step")


def _cost_plots() -> list[object]:
    seconds = [wandb_name(f"seconds/{phase}") for phase in PHASES]
    stacked = wr.LinePlot(title="Seconds per step, by phase", x=_STEP, y=seconds, plot_type="stacked-area")
    return [stacked, *_line_plots(_SPEED)]


def _sweep_plots(page: Page) -> list[object]:
    axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in page.settings]
    axes.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(page.metric)))
    return [
        wr.ParallelCoordinatesPlot(title=f"{page.metric} of every run", columns=axes, layout=_full_width()),
        wr.ParameterImportancePlot(with_respect_to=page.metric, layout=wr.Layout(w=12, h=8)),
        wr.ScatterPlot(
            x=wr.Config(page.compare), y=wr.SummaryMetric(page.metric), layout=wr.Layout(x=12, y=10, w=12, h=8)
        ),
    ]


def _line_plots(plots: _Plots) -> list[object]:
    return [wr.LinePlot(title=title, x=_STEP, y=[wandb_name(name) for name in names]) for title, names in plots]


def _full_width() -> wr.Layout:
    return wr.Layout(w=24, h=10)


def _grid(page: Page, panels: Sequence[object], *, grouped: bool = True) -> wr.PanelGrid:
    runs = wr.Runset(
        entity=page.entity,
        project=page.project,
        name=page.group or page.project,
        filters=[expr.Metric("Group") == page.group] if page.group else [],
        groupby=[f"config.{page.compare}"] if grouped else [],
    )
    return wr.PanelGrid(runsets=[runs], panels=list(panels))
