"""The measured numbers as the Markdown table that README.md and benchmarks/README.md hold.

python -m benchmarks.tables
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import RESULTS


def load(name: str) -> Any:
    """The results of one benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def summary_table() -> str:
    """One line for each claim: what was measured, median, and the extremes over the pairs."""
    update, step, cost, memory = (load(name) for name in ("update_time", "whole_step", "selection_cost", "peak_memory"))
    equal, tailed, dead = update.values()
    rows = [
        ("update time over TRL's, equal lengths, m = 2 of 8", _spread(equal["ratio"]["2"])),
        ("the same, m = G", _spread(equal["ratio"]["8"])),
        ("update time over TRL's, log-normal lengths, m = 2 of 8", _spread(tailed["ratio"]["2"])),
        ("the same, m = G", _spread(tailed["ratio"]["8"])),
        (
            "update time over TRL's, half the groups all-right or all-wrong, equal lengths, m = G",
            _spread(dead["ratio"]["8"]),
        ),
        *(
            (f"whole step, m = {m} of 8: speed-up", f"{_spread(one['speedup'])}; ceiling {_spread(one['ceiling'])}")
            for m, one in step["by_m"].items()
        ),
        *(
            (f"peak memory of a step over TRL's, {load_name}, {setting}", _over(settings, setting))
            for load_name, settings in memory.items()
            for setting in ("drop, all of 8", "drop, 2 of 8", "mask, 2 of 8")
        ),
        *(
            (f"selecting and dealing of up to 1,048,576 rollouts, at worst of a {name}", f"{_worst(cost, name):.2%}")
            for name in cost[0]["of_step"]
        ),
    ]
    return "\n".join(["| measured | median (lowest to highest) |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def sft_table() -> str:
    """One line for each way to cut examples into micro-batches."""
    rows = ["| micro-batches | tokens per second over those of TRL's default | the step |", "|---|---|---|"]
    rows += [f"| {way} | {_spread(one['ratio'])} | {_STEPS[way]} |" for way, one in load("sft_throughput").items()]
    return "\n".join(rows)


def growth_table() -> str:
    """Seconds and memory of every stage and size."""
    rows = [
        "| stage | questions | seconds | microseconds a question | MiB above the imports |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {one['stage']} | {one['questions']:,} | {one['seconds']:,.1f} | {one['microseconds_a_question']:.0f} | "
        f"{one['mebibytes']:.0f} |"
        for one in load("data_growth")
    ]
    return "\n".join(rows)


def likelihood_table() -> str:
    """Seconds of both for every length, and how much faster all prefixes are at once."""
    rows = [
        "| tokens | all at once, seconds | prefix by prefix, seconds | faster |",
        "|---|---|---|---|",
    ]
    for one in load("likelihood_along"):
        whole = one["prefixes_of_the_loop"] == one["tokens"] + 1
        loop = f"{one['loop']['median']:,.0f}" + ("" if whole else f", from {one['prefixes_of_the_loop']} prefixes")
        faster = "{median:.0f} ({low:.0f} to {high:.0f})".format(**one["faster"])
        rows.append(f"| {one['tokens']:,} | {one['at_once']['median']:.2f} | {loop} | {faster} |")
    return "\n".join(rows)


def exponents_table() -> str:
    """How the time for all prefixes grows, by the width of the model."""
    rows = [
        "| width | seconds for 256 tokens | 2,048 | 16,384 | for 64 times the tokens | exponent | of the arithmetic |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in load("likelihood_growth").values():
        seconds = [f"{one['seconds'][length]['median']:.2f}" for length in ("256", "2048", "16384")]
        grown = f"{one['times_as_long']:.0f} times"
        exponents = [f"{one[name]:.2f}" for name in ("exponent", "exponent_of_arithmetic")]
        rows.append(f"| {' | '.join([format(one['width'], ','), *seconds, grown, *exponents])} |")
    return "\n".join(rows)


_STEPS = {
    "padding": "TRL's default: micro-batches of 8",
    "padding, one micro-batch": "the same",
    "group_by_length": "another: examples of like lengths come together",
    "batch_rebalance": "the same",
    "padding_free": "the same",
    "packing": "another: as many tokens, not as many examples",
}


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _over(settings: Mapping[str, Mapping[str, float]], setting: str) -> str:
    return f"{settings[setting]['median'] / settings['TRL, all of 8']['median']:.2f}"


def _worst(results: list[dict[str, Any]], yardstick: str) -> float:
    return max(one["of_step"][yardstick]["median"] for one in results)


if __name__ == "__main__":
    shown = [summary_table(), sft_table(), growth_table(), likelihood_table(), exponents_table()]
    sys.stdout.write("\n\n".join(shown) + "\n")
