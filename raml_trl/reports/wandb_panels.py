"""The page of a group of runs in W&B, as blocks of its report API: curves, selection, cost, sweep, completions.

Every figure that is drawn is one that a trainer logs; `docs/logging.md` says what it is.
"""

from dataclasses import dataclass
from typing import Any, Literal

from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as wr

from raml_trl.grpo.ledger import PHASES

_LEARNING = {
    "grpo": [
        ("Share of rollouts that are correct", ["correct"]),
        ("Reward", ["reward"]),
        ("Share of rollouts laid out as asked", ["formatted"]),
        ("Entropy", ["entropy"]),
        ("Length of a rollout, tokens", ["completions/mean_length"]),
        ("Norm of the gradient", ["grad_norm"]),
    ],
    "sft": [
        ("Loss", ["loss"]),
        ("Accuracy of the next token", ["mean_token_accuracy"]),
        ("Norm of the gradient", ["grad_norm"]),
    ],
}
_SELECTION = [
    ("Groups, over all G", ["groups/all_right", "groups/mixed", "groups/all_wrong"]),
    ("Groups, over the m", ["selected/all_right", "selected/mixed", "selected/all_wrong"]),
    ("Groups whose rewards are all equal", ["selection/group_same_reward", "selection/selected_same_reward"]),
    ("Rows of a generation", ["rows/selected", "rows/trained"]),
    ("Completion tokens of a generation", ["tokens/generated", "tokens/scored", "tokens/trained"]),
]
_SPEED = ("Speed-up over training on all G", ["speedup/estimated", "speedup/ceiling"])


@dataclass(frozen=True)
class Page:
    """Which runs, and what of them. Metrics are named as W&B has them, such as `eval/pass@1`; settings by field.

    `compare` is the setting whose values are the curves, over all runs that have it in common.
    """

    entity: str
    project: str
    group: str | None
    stage: Literal["grpo", "sft"]
    compare: str
    metric: str
    settings: tuple[str, ...]


def blocks(page: Page) -> list[Any]:
    """The page from top to bottom."""
    told = f"the runs of group {page.group}" if page.group else f"all runs of project {page.project}"
    lead = f"Curves are means over {told} with the same {page.compare}; their bands reach from the least to the most."
    found = [
        wr.P(lead),
        wr.H2("Learning"),
        _grid(page, [*_lines(_LEARNING[page.stage]), wr.LinePlot(title=page.metric, x=_STEP, y=[page.metric])]),
    ]
    if page.stage == "grpo":
        seconds = [shown(f"seconds/{phase}") for phase in PHASES]
        cost = [
            wr.LinePlot(title="Seconds of a step, by phase", x=_STEP, y=seconds, plot_type="stacked-area"),
            *_lines([_SPEED]),
        ]
        found += [wr.H2("Selection"), _grid(page, _lines(_SELECTION)), wr.H2("Cost"), _grid(page, cost)]
    axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in page.settings]
    axes.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(page.metric)))
    whole = wr.Layout(w=24, h=10)
    sweep = [
        wr.ParallelCoordinatesPlot(title=f"{page.metric} of every run", columns=axes, layout=whole),
        wr.ParameterImportancePlot(with_respect_to=page.metric, layout=wr.Layout(w=12, h=8)),
        wr.ScatterPlot(
            x=wr.Config(page.compare), y=wr.SummaryMetric(page.metric), layout=wr.Layout(x=12, y=10, w=12, h=8)
        ),
    ]
    found += [wr.H2("Sweep"), _grid(page, sweep, grouped=False)]
    if page.stage == "grpo":
        table = wr.WeavePanelSummaryTable(table_name="completions", layout=whole)
        lead = "All G rollouts of the last generation; selected says which m of each group were trained on."
        found += [wr.H2("Rollouts"), wr.P(lead), _grid(page, [table], grouped=False)]
    return found


def shown(name: str) -> str:
    """What transformers makes of the name of a figure on its way to a dashboard."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


_STEP = shown("global_step")


def _lines(plots: list[tuple[str, list[str]]]) -> list[Any]:
    return [wr.LinePlot(title=title, x=_STEP, y=[shown(name) for name in names]) for title, names in plots]


def _grid(page: Page, panels: list[Any], *, grouped: bool = True) -> Any:
    runs = wr.Runset(
        entity=page.entity,
        project=page.project,
        name=page.group or page.project,
        filters=[expr.Metric("Group") == page.group] if page.group else [],
        groupby=[f"config.{page.compare}"] if grouped else [],
    )
    return wr.PanelGrid(runsets=[runs], panels=panels)
