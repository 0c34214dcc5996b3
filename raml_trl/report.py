"""From run directories to one self-contained page, and to a table in the terminal.

    python -m raml_trl.report --config recipes/tiny/report.yaml

`output_dir` gets `report.html` (no network, no files beside it), `report.md` and `report.json`, the numbers of both.
"""

import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from raml_trl.arguments import ReportConfig
from raml_trl.command_line import run
from raml_trl.figures import curve_figure, markdown_table, metrics_figure
from raml_trl.files import read_rows, whole_file, write_json
from raml_trl.runs import Run, complete_record

SAMPLES_PER_STAGE = 3

# What is worth a curve, by the name under which it is logged.
_CURVES = {
    "loss": "loss",
    "correct": "rollouts that are correct",
    "reward": "mean reward (eq. 21)",
    "grad_norm": "gradient norm",
    "completions/mean_length": "tokens per rollout",
    "selection/group_same_reward": "groups of one reward (no signal)",
}
_METRIC_NAMES = {"pass": "Pass", "mg_pass": "mG-Pass", "g_pass": "G-Pass", "maj": "maj"}


def main(config: ReportConfig, record: Run) -> None:
    """Collect, draw, write, print."""
    runs = [load_run(name, directory) for name, directory in map(_split, config.runs)]
    seconds = {one["name"]: one["seconds"] for one in runs}
    stages = [load_stage(name, directory, seconds.get(name)) for name, directory in map(_split, config.evaluations)]
    metric_names = [name for name in stages[0]["metrics"] if all(name in stage["metrics"] for stage in stages)]
    content = {"title": config.title, "lead": config.lead, "metric_names": metric_names, "stages": stages, "runs": runs}

    page = Environment(loader=PackageLoader("raml_trl"), autoescape=True).get_template("report.html.j2")
    names = [stage["name"] for stage in stages]
    by_metric = {name: [stage["metrics"][name] for stage in stages] for name in metric_names}
    html = page.render(
        **content,
        metrics_figure=Markup(metrics_figure(names, by_metric)),
        curve_figures=[Markup(figure) for one in runs for figure in curves(one)],
        samples=[sample for stage in stages for sample in stage["samples"]],
    )
    table = stage_table(metric_names, stages)
    with whole_file(record.directory / "report.html") as partial:
        partial.write_text(html, encoding="utf-8")
    with whole_file(record.directory / "report.md") as partial:
        partial.write_text(f"# {config.title}\n\n{config.lead}\n\n{table}\n", encoding="utf-8")
    write_json(record.directory / "report.json", content)
    record.finish(0.0, {})
    sys.stdout.write(f"\n{table}\n\nReport: {record.directory / 'report.html'}\n")


def load_stage(name: str, directory: str, seconds: float | None) -> dict[str, Any]:
    """One evaluation: its metrics, and its first samples.

    Raises:
        InputError: if the directory holds no complete evaluation.
    """
    record = complete_record(directory, "evaluate")
    metrics = record["results"]
    metrics |= {"metrics": {_display(metric): value for metric, value in metrics["metrics"].items()}}
    rows = read_rows(Path(directory) / "samples.parquet")
    samples = [
        {"stage": name, "question_id": row["question_id"], "text": row["text"], "correct": row["correct"]}
        for row in rows
        if row["sample"] == 0
    ]
    return {"name": name, "seconds": seconds, "samples": samples[:SAMPLES_PER_STAGE], **metrics}


def load_run(name: str, directory: str) -> dict[str, Any]:
    """One training run: how it was run, and what it logged.

    Raises:
        InputError: if the directory holds no complete training run.
    """
    record = complete_record(directory, "train_sft", "train_grpo")
    state = json.loads((Path(directory) / "trainer_state.json").read_text(encoding="utf-8"))
    logged = {
        key: [(entry["step"], entry[key]) for entry in state["log_history"] if entry.get(key) is not None]
        for key in _CURVES
    }
    return {
        "name": name,
        "command": record["command"],
        "settings": record["settings"],
        "seconds": record["seconds"],
        "logged": {key: values for key, values in logged.items() if values},
    }


def curves(loaded: dict[str, Any]) -> list[str]:
    """A figure for everything worth one that the run logged."""
    # The loss of GRPO is zero up to clipping, whatever is learned.
    keys = [key for key in loaded["logged"] if (key == "loss") == (loaded["command"] == "train_sft")]
    return [
        curve_figure(f"{loaded['name']}: {_CURVES[key]}", *zip(*loaded["logged"][key], strict=True)) for key in keys
    ]


def stage_table(metric_names: list[str], stages: list[dict[str, Any]]) -> str:
    """The stages as a Markdown table."""
    rows = [["stage", *metric_names, "seconds"]]
    for stage in stages:
        values = [stage["metrics"][name] for name in metric_names]
        cells = [f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" for value in values]
        rows.append([stage["name"], *cells, "-" if stage["seconds"] is None else f"{stage['seconds']:.0f}"])
    return markdown_table(rows)


def _split(value: str) -> tuple[str, str]:
    name, _, directory = value.partition("=")
    return name, directory


def _display(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{_METRIC_NAMES[name]}@{k}"


if __name__ == "__main__":
    run(main, ReportConfig, repeatable=True)
