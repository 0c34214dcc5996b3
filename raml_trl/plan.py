"""Predicts the time and memory of a training step of a GRPO recipe for several values of m, without training.

    raml-trl plan recipes/tiny/demo/plan.yaml

Writes `plan.json` and `plan.svg` to `output_dir`. m is the number of rollouts of each group that are trained on. Times
are derived from a run that was timed, or from seconds given in the settings. Memory is computed by a formula. The
output says for each number where it comes from.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from matplotlib.figure import Figure

from raml_trl.grpo.planning.advice import Option
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.forecast import Prediction, forecast
from raml_trl.render.figures import COLOURS, INK, dress, svg
from raml_trl.render.tables import markdown_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.runs import Run

GIB = 2**30


def main(config: PlanConfig, record: Run) -> None:
    """Predict the cost of a training step for every m, the number of rollouts of a group that are trained on.

    `plan.json` and `plan.svg` are written to the directory of `record`, which is `output_dir`. The tables are printed.
    """
    predictions, options, notes = forecast(config)
    names = [f"{prediction.trainer}, m = {prediction.num_generations_update}" for prediction in predictions]
    seconds = {part: [prediction.seconds[part] for prediction in predictions] for part in ("generating", "updating")}
    memory = {part: [prediction.bytes[part] / GIB for prediction in predictions] for part in predictions[0].bytes}
    figure = record.directory / "plan.svg"
    with whole_file(figure) as partial:
        partial.write_text(plan_figure([name.replace(", ", "\n") for name in names], seconds, memory), encoding="utf-8")
    content = {
        "predictions": [asdict(prediction) for prediction in predictions],
        "options": [asdict(option) for option in options],
        "notes": notes,
    }
    write_json(record.directory / "plan.json", content | {"plan": asdict(config)})
    record.finish(0.0, {})
    lines = [plan_table(names, predictions), ""]
    if options:
        lines += [options_table(options), ""]
    lines += [*notes, "", f"Figure: {figure}"]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def plan_table(names: Sequence[str], predictions: Sequence[Prediction]) -> str:
    """Return a Markdown table with one row per prediction, labelled by `names`.

    Its column "cells" counts token positions that the model runs; see `Prediction`.
    """
    head = ["trainer", "cells of a micro-batch", "rows", "cells", "generating s", "updating s", "step s"]
    head += ["speed-up", "ceiling", "GiB of a device"]
    body = [
        [
            name,
            f"{prediction.cells_per_micro_batch:,}",
            f"{prediction.rows:,.0f}",
            f"{prediction.cells:,.0f}",
            *(_three_digits(prediction.seconds[part]) for part in ("generating", "updating", "step")),
            *(f"{prediction.seconds[part]:.2f}" for part in ("speedup", "ceiling")),
            _three_digits(sum(prediction.bytes.values()) / GIB),
        ]
        for name, prediction in zip(names, predictions, strict=True)
    ]
    return markdown_table([head, *body])


def options_table(options: Sequence[Option]) -> str:
    """Return a Markdown table with one row per option, which is a way to save time, such as fewer trained rollouts.

    It shows the time of a step, the noise of the gradient, and the time to the same signal-to-noise ratio. Each number
    is relative to training on all G rollouts of a group.
    """
    body = [
        [option.name, *(f"{value:.2f}" for value in (option.seconds, option.noise, option.time))] for option in options
    ]
    return markdown_table([["ways to save, relative to all G", "step", "noise", "time"], *body])


def plan_figure(
    names: Sequence[str], seconds: Mapping[str, Sequence[float]], gibibytes: Mapping[str, Sequence[float]]
) -> str:
    """Draw two panels of stacked bars, as SVG: the seconds of a step and the memory of a device.

    Args:
        names: one label per bar, from left to right.
        seconds: for each part of a step, such as updating, its seconds in each bar.
        gibibytes: for each part of the memory, its GiB in each bar.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, title, parts in zip(
        figure.subplots(1, 2), ("seconds of a step", "GiB of a device"), (seconds, gibibytes), strict=True
    ):
        dress(axes)
        bottoms = [0.0] * len(names)
        for (part, heights), colour in zip(parts.items(), COLOURS, strict=False):
            axes.bar(names, heights, 0.7, bottom=bottoms, label=part, color=colour)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        axes.set_ylim(0, max(bottoms) * 1.35)  # room for the legend
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return svg(figure)


def _three_digits(value: float) -> str:
    """Format `value` to three significant digits, or to an integer from 100 on."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    run(main, PlanConfig, repeatable=True)
