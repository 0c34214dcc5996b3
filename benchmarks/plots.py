"""Draws the figures of the benchmarks, in the style of the package."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from raml_trl.render.figures import COLOURS, blank_figure, dress, svg


def ratio_figure(results: Mapping[str, Any]) -> str:
    """Plot update time relative to TRL against m/G, with the line y = m/G."""
    figure, axes = blank_figure(5.2, 3.4)
    axes.plot([0, 1], [0, 1], color="#9aa1ab", linestyle="--", linewidth=1, label="m/G of TRL's time")
    for (name, result), colour in zip(results.items(), COLOURS, strict=False):
        group = result["workload"]["num_generations"]
        fractions = [int(selected) / group for selected in result["ratio"]]
        ratios = list(result["ratio"].values())
        medians, errors = _medians_and_errors(ratios)
        axes.errorbar(fractions, medians, yerr=errors, marker="o", markersize=4, color=colour, label=name, capsize=2)
    axes.set_xlabel("m/G", fontsize=8)
    axes.set_title("update time over that of TRL's trainer on all G", fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def ceiling_figure(by_m: Mapping[str, Any]) -> str:
    """Plot the measured speed-up of the complete step beside its ceiling, for every m."""
    figure, axes = blank_figure(4.2, 2.9)
    for offset, name, colour in ((-0.2, "ceiling", "#9aa1ab"), (0.2, "speedup", COLOURS[0])):
        values = [measured[name] for measured in by_m.values()]
        medians, errors = _medians_and_errors(values)
        places = [index + offset for index in range(len(values))]
        axes.bar(places, medians, width=0.38, color=colour, label=name, yerr=errors, capsize=2)
    axes.set_xticks(range(len(by_m)), [f"m = {selected}" for selected in by_m])
    axes.set_title("whole step against TRL's on all 8", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def likelihood_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Plot seconds for all prefixes of a trajectory against its tokens: prefix by prefix, and all at once."""
    figure, axes = blank_figure(5.2, 3.2)
    tokens = [row["tokens"] for row in results]
    for name, key, colour in (("prefix by prefix", "loop", COLOURS[1]), ("all at once", "at_once", COLOURS[0])):
        medians = [row[key]["median"] for row in results]
        axes.plot(tokens, medians, marker="o", markersize=4, color=colour, label=name)
        axes.fill_between(
            tokens, [row[key]["low"] for row in results], [row[key]["high"] for row in results], color=colour, alpha=0.2
        )
    linear = results[0]["at_once"]["median"] / tokens[0]
    axes.plot(
        tokens, [linear * count for count in tokens], color="#9aa1ab", linestyle="--", linewidth=1, label="linear"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of the trajectory", fontsize=8)
    axes.set_title("seconds for the answer's likelihood after every prefix", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def memory_figure(results: Mapping[str, Any]) -> str:
    """Plot peak memory beyond the trainer itself, in MiB, for every setting, at equal and at long-tailed lengths."""
    figure, axes = blank_figure(6.4, 3.0)
    width = 0.8 / len(results)
    for index, (load, settings) in enumerate(results.items()):
        places = [place + width * (index - 0.5) for place in range(len(settings))]
        axes.bar(
            places, [setting["median"] for setting in settings.values()], width=width, color=COLOURS[index], label=load
        )
    axes.set_xticks(range(len(settings)), list(settings))
    axes.set_title("peak memory of a step, MiB above the trainer", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def cost_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Plot seconds to select, deal and pack rollouts against the number of rollouts, for every selection strategy."""
    figure, axes = blank_figure(5.2, 3.2)
    for strategy, colour in zip(dict.fromkeys(row["strategy"] for row in results), COLOURS, strict=False):
        own = [row for row in results if row["strategy"] == strategy]
        axes.plot([row["rollouts"] for row in own], [row["seconds"]["median"] for row in own], marker="o", markersize=3)
        axes.lines[-1].set(color=colour, label=strategy)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rollouts of a generation", fontsize=8)
    axes.set_title("seconds to select, deal and pack", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def growth_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Plot the seconds and the memory of every stage against the number of questions.

    Memory is that above a process with the same imports. The dashed lines show seconds proportional to the questions.
    """
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    panels = (("seconds", "seconds"), ("mebibytes", "MiB above the imports"))
    for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
        dress(axes)
        for stage, colour in zip(dict.fromkeys(row["stage"] for row in results), COLOURS, strict=False):
            own = [row for row in results if row["stage"] == stage]
            sizes, values = [row["questions"] for row in own], [row[name] for row in own]
            axes.plot(sizes, values, marker="o", markersize=3, color=colour, label=stage)
            if name == "seconds":
                line = [values[-1] * size / sizes[-1] for size in sizes]
                axes.plot(sizes, line, color=colour, linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("questions, four trajectories each", fontsize=8)
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(fontsize=7, frameon=False)
        if name == "seconds":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    return svg(figure)


def throughput_figure(results: Mapping[str, Any]) -> str:
    """Plot tokens per second relative to `padding`, for every way to form micro-batches."""
    figure, axes = blank_figure(5.6, 2.7)
    ratios = [result["ratio"] for result in results.values()]
    medians, errors = _medians_and_errors(ratios)
    axes.barh(list(results), medians, xerr=errors, color=COLOURS[0], capsize=2)
    axes.axvline(1, color="#9aa1ab", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set_title("tokens per second over those of TRL's default", fontsize=9, loc="left")
    return svg(figure)


def exponents_figure(results: Mapping[str, Any]) -> str:
    """Plot seconds per token, relative to those at the shortest length, against trajectory length, for every model."""
    figure, axes = blank_figure(5.2, 3.2)
    for (name, result), colour in zip(results.items(), COLOURS, strict=False):
        tokens = [int(length) for length in result["seconds"]]
        each = [value["median"] / length for length, value in zip(tokens, result["seconds"].values(), strict=True)]
        label = f"width {result['width']:,} ({name}): exponent {result['exponent']:.2f}"
        axes.plot(tokens, [value / each[0] for value in each], marker="o", markersize=4, color=colour, label=label)
    axes.axhline(1, color="#9aa1ab", linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of the trajectory", fontsize=8)
    axes.set_title("time a token, over that at the shortest", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def shared_prompts_figure(results: Mapping[str, Any]) -> str:
    """Plot update time relative to TRL's against prompt length, for every m, with the limits as dashed lines.

    There is a panel for every model, with gradient checkpointing off and on, that was measured at two prompt lengths.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for result in results.values():
        title = result["model"] + (", checkpointing" if result["checkpointing"] else "")
        panels.setdefault(title, []).append(result)
    panels = {title: cells for title, cells in panels.items() if len(cells) > 1}
    figure = Figure(figsize=(3.6 * max(len(panels), 1), 3.2), layout="constrained")
    subplots = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axes, (title, cells) in zip(subplots, panels.items(), strict=False):
        dress(axes)
        cells = sorted(cells, key=lambda cell: cell["workload"]["prompt_length"])
        lengths = [cell["workload"]["prompt_length"] for cell in cells]
        for selected, colour in zip(cells[0]["ratio"], COLOURS, strict=False):
            medians, errors = _medians_and_errors([cell["ratio"][selected] for cell in cells])
            style = {"marker": "o", "markersize": 4, "color": colour, "label": f"m = {selected}"}
            axes.errorbar(lengths, medians, yerr=errors, capsize=2, **style)
            limits = [cell["limit"][selected]["median"] for cell in cells]
            axes.plot(lengths, limits, color=colour, linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        apart = [length for length in lengths if not any(length < other < 2 * length for other in lengths)]
        axes.set_xticks(apart, [f"{length:,}" for length in apart])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("prompt tokens; dashed: limits", fontsize=8)
        axes.set_title(f"update time / TRL's, {title}", fontsize=9, loc="left")
        axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def _medians_and_errors(spreads: Sequence[Mapping[str, float]]) -> tuple[list[float], list[list[float]]]:
    """Return the medians, and their distances to the lowest and the highest value as matplotlib's error bars."""
    below = [spread["median"] - spread["low"] for spread in spreads]
    above = [spread["high"] - spread["median"] for spread in spreads]
    return [spread["median"] for spread in spreads], [below, above]
