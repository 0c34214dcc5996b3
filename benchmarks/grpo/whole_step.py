"""Measures the speed-up of a complete step, with real generation, and its ceiling 1 / (f + (1 - f) m/G).

    python -m benchmarks.grpo.whole_step

f is the share of a step of TRL's trainer that does not shrink with m: generation and rewards. All rollouts have the
same length and all rows have a gradient, so bucketing and skipping do not help, and only m/G saves time.
"""

from typing import Any

from tqdm import tqdm

from benchmarks.harness import Device, Workload, describe, measure_pairs, parse, run, spread, write
from benchmarks.plots import ceiling_figure
from raml_trl.grpo.ledger import ceiling

SELECTIONS = (1, 2, 4)


def measure(workload: Workload, device: Device, *, pairs: int, steps: int) -> dict[str, Any]:
    """Return the measured speed-up, the ceiling, and the ratio of the two for every m, each computed within a pair."""
    generation: dict[str, Any] = {"min_new_tokens": workload.max_length}
    settings = {"real_generation": True, "generation_kwargs": generation}
    run(workload, device, steps=0, selected=None, **settings)
    measured = list(
        tqdm(
            measure_pairs(workload, device, SELECTIONS, pairs=pairs, steps=steps, **settings),
            total=pairs,
            desc="pairs",
        )
    )
    results: dict[str, Any] = {"workload": describe(workload), "pairs": measured, "by_m": {}}
    for selected in SELECTIONS:
        speedups, ceilings = [], []
        for pair in measured:
            stock, ours = pair["stock"], pair[str(selected)]
            whole = stock["generating"] + stock["updating"]
            # Both trainers do the same work in generation, so its two measured times differ by noise only.
            speedups.append(whole / (ours["generating"] + ours["updating"]))
            ceilings.append(ceiling(stock["generating"] / whole, selected / workload.num_generations))
        results["by_m"][str(selected)] = {
            "speedup": spread(speedups),
            "ceiling": spread(ceilings),
            "of_ceiling": spread([a / b for a, b in zip(speedups, ceilings, strict=True)]),
        }
    return results


def main() -> None:
    """Measure, and write the results and the figure."""
    given = parse(str(__doc__), pairs=7, steps=2, completion_length=128)
    workload = Workload(completion_length=given.completion_length, max_length=given.completion_length)
    results = measure(workload, Device(given.device, given.model), pairs=given.pairs, steps=given.steps)
    settings = {key: value for key, value in vars(given).items() if key != "output_dir"}
    write(given.output_dir, "whole_step", settings, results, ceiling_figure(results["by_m"]))


if __name__ == "__main__":
    main()
