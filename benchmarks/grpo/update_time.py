"""Measures the time of an update for several m, relative to an update by TRL's own trainer.

There are three workloads: rollouts of equal length, rollouts of long-tailed lengths, and rollouts of equal length where
half the groups are dead (all their rewards are equal, so they have no gradient).

python -m benchmarks.grpo.update_time
python -m benchmarks.grpo.update_time --device cuda --model 1.5b --completion_length 2048 --max_length 8192
"""

from dataclasses import replace
from typing import Any

from tqdm import tqdm

from benchmarks.harness import Device, Workload, describe, measure_pairs, parse, run, spread, write
from benchmarks.plots import ratio_figure

SELECTIONS = (1, 2, 4, 8)


def workloads(completion_length: int, max_length: int) -> dict[str, tuple[Workload, tuple[int, ...]]]:
    """Return each workload by its name, with the values of m to measure. Groups have 8 rollouts."""
    equal = Workload(completion_length=completion_length, max_length=completion_length)
    tailed = replace(equal, completion_length=completion_length // 2, sigma=1.0, max_length=max_length)
    return {
        "equal lengths": (equal, SELECTIONS),
        "long-tailed lengths": (tailed, SELECTIONS),
        "half the groups dead, equal lengths": (replace(equal, dead_groups=4), (2, 8)),
    }


def measure(
    workload: Workload, device: Device, selections: tuple[int, ...], *, pairs: int, steps: int
) -> dict[str, Any]:
    """Return the ratio of our update time to TRL's for every m, measured in `pairs` pairs of trainings."""
    measured = list(
        tqdm(measure_pairs(workload, device, selections, pairs=pairs, steps=steps), total=pairs, desc="pairs")
    )
    ratios = {
        str(selected): [pair[str(selected)]["updating"] / pair["stock"]["updating"] for pair in measured]
        for selected in selections
    }
    return {
        "workload": describe(workload),
        "ratio": {selected: spread(values) for selected, values in ratios.items()},
        "stock_seconds": spread([pair["stock"]["updating"] for pair in measured]),
        "pairs": measured,
    }


def utilisation(workload: Workload, device: Device, selected: int, seconds: float, peak_tflops: float) -> float:
    """Return the FLOP/s of an update that takes `seconds`, as a share of the device's peak.

    The FLOPs are 6 x parameters x tokens, where prompts count, and dead groups do not.
    """
    live = 1 - workload.dead_groups / workload.questions
    lengths = live * (workload.lengths(1).sum() + workload.rollouts * workload.prompt_length)
    flops = 6 * device.build().num_parameters() * lengths * selected / workload.num_generations
    return float(flops / seconds / (peak_tflops * 1e12))


def main() -> None:
    """Measure, and write the results and the figure."""
    given = parse(str(__doc__), pairs=7, steps=2, completion_length=128, max_length=512, peak_tflops=0.0)
    device = Device(given.device, given.model)
    results = {}
    for name, (workload, selections) in workloads(given.completion_length, given.max_length).items():
        run(workload, device, steps=0, selected=None)  # warms up the process
        results[name] = measure(workload, device, selections, pairs=given.pairs, steps=given.steps)
        if given.peak_tflops:
            results[name]["utilisation"] = {
                str(m): utilisation(
                    workload,
                    device,
                    m,
                    spread([pair[str(m)]["updating"] for pair in results[name]["pairs"]])["median"],
                    given.peak_tflops,
                )
                for m in selections
            }
    settings = {key: value for key, value in vars(given).items() if key != "output_dir"}
    write(given.output_dir, "update_time", settings, results, ratio_figure(results))


if __name__ == "__main__":
    main()
