"""Formats the measured numbers as the Markdown tables of README.md, benchmarks/README.md and docs/.

python -m benchmarks.tables
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import RESULTS
from raml_trl.grpo.agreement.results import agreement_table, from_json


def load(name: str) -> Any:
    """Return the results of one benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def summary_table() -> str:
    """Make the table of speed and memory: one row per quantity. Times have their median and extremes over the pairs."""
    update, step, cost, memory = (load(name) for name in ("update_time", "whole_step", "selection_cost", "peak_memory"))
    shared = load("shared_prompts")
    equal, tailed, dead = update.values()
    rows = [
        ("update time / TRL's, equal lengths, m = 2 of 8", _spread(equal["ratio"]["2"])),
        ("update time / TRL's, equal lengths, m = G", _spread(equal["ratio"]["8"])),
        ("update time / TRL's, log-normal lengths, m = 2 of 8", _spread(tailed["ratio"]["2"])),
        ("update time / TRL's, log-normal lengths, m = G", _spread(tailed["ratio"]["8"])),
        (
            "update time / TRL's, equal lengths, half the groups all right or all wrong, m = G",
            _spread(dead["ratio"]["8"]),
        ),
        *(
            (
                f"update time / TRL's, prompts of {length} tokens, completions of about 128, m = {m}",
                f"{_spread(measured['ratio'][selected])}; limit {measured['limit'][selected]['median']:.3f}",
            )
            for length in ("256", "1,024")
            for measured in [shared[f"{length} tokens, vocabulary 512"]]
            for selected, m in (("2", "2 of 8"), ("8", "G"))
        ),
        *(
            (
                f"speed-up of the complete step, m = {m} of 8",
                f"{_spread(measured['speedup'])}; ceiling {_spread(measured['ceiling'])}",
            )
            for m, measured in step["by_m"].items()
        ),
        *(
            (f"peak memory of a step / TRL's, {lengths}, {setting}", _relative_memory(settings, setting))
            for lengths, settings in memory.items()
            for setting in ("drop, all of 8", "drop, 2 of 8", "mask, 2 of 8")
        ),
        *(
            (
                f"selection and batching of up to 1,048,576 rollouts, worst share of a {title}",
                f"{_worst(cost, name):.2%}",
            )
            for name, title in _YARDSTICKS.items()
        ),
    ]
    return "\n".join(["| measured | median (lowest to highest) |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def readme_table() -> str:
    """Make the table of the README: four measured numbers with their conditions."""
    update, shared = (load(name) for name in ("update_time", "shared_prompts"))
    equal, tailed, _ = update.values()
    prompts = shared["1,024 tokens, vocabulary 512"]
    rows = [
        ("time of an update, log-normal lengths", "m = G", _spread(tailed["ratio"]["8"])),
        (
            "time of an update, prompts of 1,024 tokens, completions of about 128",
            "m = G",
            _spread(prompts["ratio"]["8"]),
        ),
        (
            "time of an update, equal lengths and short prompts",
            "m = 2 of 8",
            _spread(equal["ratio"]["2"]),
        ),
        (
            "peak memory, prompts of 1,024 tokens, completions of about 128",
            "m = G",
            _spread(prompts["memory"]["8"]),
        ),
    ]
    head = ["| relative to TRL's trainer | rollouts trained on | median (lowest to highest) |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {what} | {m} | {value} |" for what, m, value in rows)])


def shared_prompts_table() -> str:
    """Make the table of update time with shared prompts, beside its limit: one row per cell, one column per m/G."""
    return _by_fraction(
        lambda cell, m: f"{_spread(cell['ratio'][m])}; limit {cell['limit'][m]['median']:.3f}", "update time / TRL's"
    )


def shared_prompts_memory_table() -> str:
    """Make the table of peak memory with shared prompts, relative to TRL's: one row per cell, one column per m/G."""
    return _by_fraction(lambda cell, m: _spread(cell["memory"][m]), "peak memory / TRL's")


def _by_fraction(text: Callable[[Any, str], str], title: str) -> str:
    fractions = (0.125, 0.25, 0.5, 1.0)
    rows = [
        f"| prompt | model | checkpointing | {title}, m = G/8 | m = G/4 | m = G/2 | m = G |",
        "|---|---|---|---|---|---|---|",
    ]
    cells = load("shared_prompts").values()
    for cell in sorted(cells, key=lambda cell: (_MODELS.index(cell["model"]), cell["checkpointing"], _prompt(cell))):
        group = cell["workload"]["num_generations"]
        by_fraction = {int(m) / group: text(cell, m) for m in cell["ratio"]}
        columns = [by_fraction.get(fraction, "-") for fraction in fractions]
        name = "Qwen2.5-0.5B" if cell["model"] == "0.5b" else cell["model"]
        rows.append(
            f"| {_prompt(cell):,} | {name} | {'on' if cell['checkpointing'] else 'off'} | {' | '.join(columns)} |"
        )
    return "\n".join(rows)


def sft_table() -> str:
    """Make the table of SFT throughput: one row per way to form micro-batches."""
    rows = ["| micro-batches | tokens per second / TRL's default | optimizer step |", "|---|---|---|"]
    rows += [
        f"| {way} | {_spread(measured['ratio'])} | {_STEPS[way]} |" for way, measured in load("sft_throughput").items()
    ]
    return "\n".join(rows)


def growth_table() -> str:
    """Make the table of seconds and memory of the data stages, by number of questions."""
    rows = [
        "| stage | questions | seconds | microseconds per question | MiB above imports |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['stage']} | {row['questions']:,} | {row['seconds']:,.1f} | {row['microseconds_a_question']:.0f} | "
        f"{row['mebibytes']:.0f} |"
        for row in load("data_growth")
    ]
    return "\n".join(rows)


def likelihood_table() -> str:
    """Make the table of the likelihood methods: the seconds of both by length of the trajectory, and the speed-up."""
    rows = [
        "| tokens | all at once, seconds | prefix by prefix, seconds | speed-up |",
        "|---|---|---|---|",
    ]
    for row in load("likelihood_along"):
        complete = row["prefixes_of_the_loop"] == row["tokens"] + 1
        loop = f"{row['loop']['median']:,.0f}" + ("" if complete else f", from {row['prefixes_of_the_loop']} prefixes")
        faster = "{median:.0f} ({low:.0f} to {high:.0f})".format(**row["faster"])
        rows.append(f"| {row['tokens']:,} | {row['at_once']['median']:.2f} | {loop} | {faster} |")
    return "\n".join(rows)


def exponents_table() -> str:
    """Make the table of how the time for all prefixes grows with trajectory length, by the width of the model."""
    rows = [
        "| width | seconds for 256 tokens | 2,048 | 16,384 | time for 64 times the tokens | exponent | of operations |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in load("likelihood_growth").values():
        seconds = [f"{row['seconds'][length]['median']:.2f}" for length in ("256", "2048", "16384")]
        growth = f"{row['times_as_long']:.0f} times"
        exponents = [f"{row[name]:.2f}" for name in ("exponent", "exponent_of_arithmetic")]
        rows.append(f"| {' | '.join([format(row['width'], ','), *seconds, growth, *exponents])} |")
    return "\n".join(rows)


def features_table() -> str:
    """Make the table of how closely the trainer agrees with TRL's, by feature of TRL."""
    return agreement_table(from_json(load("features")), head="feature of TRL")


_MODELS = ["vocabulary 512", "vocabulary 32,000", "0.5b"]  # of the shared prompts, in the order of the table
_YARDSTICKS = {"cpu update": "CPU update", "gpu update": "GPU update", "gpu step": "GPU step"}
_STEPS = {
    "padding": "TRL's default: micro-batches of 8",
    "padding, one micro-batch": "the same",
    "group_by_length": "different: groups examples of similar length",
    "batch_rebalance": "the same",
    "padding_free": "the same",
    "packing": "different: the same number of tokens, not of examples",
}


def _prompt(cell: Mapping[str, Any]) -> int:
    length: int = cell["workload"]["prompt_length"]
    return length


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _relative_memory(settings: Mapping[str, Mapping[str, float]], setting: str) -> str:
    return f"{settings[setting]['median'] / settings['TRL, all of 8']['median']:.2f}"


def _worst(results: list[dict[str, Any]], yardstick: str) -> float:
    return max(result["of_step"][yardstick]["median"] for result in results)


if __name__ == "__main__":
    tables = [
        summary_table(),
        shared_prompts_table(),
        shared_prompts_memory_table(),
        sft_table(),
        growth_table(),
        likelihood_table(),
        exponents_table(),
        features_table(),
    ]
    sys.stdout.write("\n\n".join(tables) + "\n")
