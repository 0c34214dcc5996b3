"""The pictures of the benchmarks, in the style of the package's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from raml_trl.render.figures import COLOURS, blank_figure, dress, svg


def ratio_figure(results: Mapping[str, Any]) -> str:
    """Update time over TRL's against m/G, with the line that m/G itself is."""
    figure, axes = blank_figure(5.2, 3.4)
    axes.plot([0, 1], [0, 1], color="#9aa1ab", linestyle="--", linewidth=1, label="m/G of TRL's time")
    for (name, result), colour in zip(results.items(), COLOURS, strict=False):
        group = result["workload"]["num_generations"]
        fractions = [int(selected) / group for selected in result["ratio"]]
        ratios = list(result["ratio"].values())
        medians = [one["median"] for one in ratios]
        errors = [[one["median"] - one["low"] for one in ratios], [one["high"] - one["median"] for one in ratios]]
        axes.errorbar(fractions, medians, yerr=errors, marker="o", markersize=4, color=colour, label=name, capsize=2)
    axes.set_xlabel("m/G", fontsize=8)
    axes.set_title("update time over that of TRL's trainer on all G", fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def ceiling_figure(by_m: Mapping[str, Any]) -> str:
    """Measured speed-up of the whole step beside the ceiling, for every m."""
    figure, axes = blank_figure(4.2, 2.9)
    for offset, name, colour in ((-0.2, "ceiling", "#9aa1ab"), (0.2, "speedup", COLOURS[0])):
        values = [one[name] for one in by_m.values()]
        medians = [one["median"] for one in values]
        errors = [[one["median"] - one["low"] for one in values], [one["high"] - one["median"] for one in values]]
        places = [index + offset for index in range(len(values))]
        axes.bar(places, medians, width=0.38, color=colour, label=name, yerr=errors, capsize=2)
    axes.set_xticks(range(len(by_m)), [f"m = {selected}" for selected in by_m])
    axes.set_title("whole step against TRL's on all 8", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def likelihood_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Seconds for all prefixes of a trajectory against its tokens: prefix by prefix, and all at once."""
    figure, axes = blank_figure(5.2, 3.2)
    tokens = [one["tokens"] for one in results]
    for name, key, colour in (("prefix by prefix", "loop", COLOURS[1]), ("all at once", "at_once", COLOURS[0])):
        medians = [one[key]["median"] for one in results]
        axes.plot(tokens, medians, marker="o", markersize=4, color=colour, label=name)
        axes.fill_between(
            tokens, [one[key]["low"] for one in results], [one[key]["high"] for one in results], color=colour, alpha=0.2
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
    """Peak memory above the trainer itself, in MiB, for every setting and both kinds of lengths."""
    figure, axes = blank_figure(6.4, 3.0)
    width = 0.8 / len(results)
    for index, (load, settings) in enumerate(results.items()):
        places = [place + width * (index - 0.5) for place in range(len(settings))]
        axes.bar(places, [one["median"] for one in settings.values()], width=width, color=COLOURS[index], label=load)
    axes.set_xticks(range(len(settings)), list(settings))
    axes.set_title("peak memory of a step, MiB above the trainer", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def cost_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Seconds to select, deal and pack against rollouts, for every strategy."""
    figure, axes = blank_figure(5.2, 3.2)
    for strategy, colour in zip(dict.fromkeys(one["strategy"] for one in results), COLOURS, strict=False):
        own = [one for one in results if one["strategy"] == strategy]
        axes.plot([one["rollouts"] for one in own], [one["seconds"]["median"] for one in own], marker="o", markersize=3)
        axes.lines[-1].set(color=colour, label=strategy)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rollouts of a generation", fontsize=8)
    axes.set_title("seconds to select, deal and pack", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)


def growth_figure(results: Sequence[Mapping[str, Any]]) -> str:
    """Seconds, and memory above the imports, against questions, for every stage; a dashed line is proportional."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    panels = (("seconds", "seconds"), ("mebibytes", "MiB above the imports"))
    for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
        dress(axes)
        for stage, colour in zip(dict.fromkeys(one["stage"] for one in results), COLOURS, strict=False):
            own = [one for one in results if one["stage"] == stage]
            sizes, values = [one["questions"] for one in own], [one[name] for one in own]
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
    """Tokens per second over those of padding, for every way."""
    figure, axes = blank_figure(5.6, 2.7)
    ratios = [one["ratio"] for one in results.values()]
    medians = [one["median"] for one in ratios]
    errors = [[one["median"] - one["low"] for one in ratios], [one["high"] - one["median"] for one in ratios]]
    axes.barh(list(results), medians, xerr=errors, color=COLOURS[0], capsize=2)
    axes.axvline(1, color="#9aa1ab", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set_title("tokens per second over those of TRL's default", fontsize=9, loc="left")
    return svg(figure)


def exponents_figure(results: Mapping[str, Any]) -> str:
    """Seconds a token against the tokens of a trajectory, over those of the shortest, for every model."""
    figure, axes = blank_figure(5.2, 3.2)
    for (name, result), colour in zip(results.items(), COLOURS, strict=False):
        tokens = [int(length) for length in result["seconds"]]
        each = [one["median"] / length for length, one in zip(tokens, result["seconds"].values(), strict=True)]
        label = f"width {result['width']:,} ({name}): exponent {result['exponent']:.2f}"
        axes.plot(tokens, [one / each[0] for one in each], marker="o", markersize=4, color=colour, label=label)
    axes.axhline(1, color="#9aa1ab", linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of the trajectory", fontsize=8)
    axes.set_title("time a token, over that at the shortest", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False)
    return svg(figure)
