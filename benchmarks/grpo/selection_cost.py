"""Measures how long it takes to select rollouts and to distribute rows over processes and micro-batches.

    python -m benchmarks.grpo.selection_cost

There are up to a million rollouts and 1,024 processes; nothing is trained. Every process does this work for the
rollouts of all processes, so the work does not shrink with the number of processes, as the training step does.
Therefore its time is compared with the time of a training step divided by the number of processes. There are three such
times: the update on this machine's CPU, from `update_time.json`, and the update and the complete step on an assumed
GPU, which trains 0.5 billion parameters at 400 TFLOP/s and generates 20,000 tokens per second.
"""

import json
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.harness import RESULTS, parse, spread, write
from benchmarks.plots import cost_figure
from raml_trl.grpo.micro_batches import IDLE, deal_in_order, pack_steps
from raml_trl.grpo.selection import select_rollouts
from raml_trl.grpo.user_selection import STRATEGIES

GROUP, SELECTED, MICRO_BATCH = 16, 4, 16
SIZES = ((1_024, 1), (16_384, 8), (131_072, 64), (1_048_576, 1_024))
MEDIAN_LENGTH = 1_024
GPU_FLOPS, GPU_TOKENS_PER_SECOND, PARAMETERS = 400e12, 20_000, 0.5e9


def simulate(rollouts: int, processes: int, strategy: str, seed: int) -> dict[str, float]:
    """Return the seconds to select rollouts and to deal rows in one generation, and properties of the result.

    These are `padding`, the share of padding in all cells, and `imbalance`, by how much the tokens of the process with
    the most tokens exceed the mean over processes.
    """
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 2, size=(rollouts // GROUP, GROUP)).astype(np.float32)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    advantages = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_LENGTH), 1, size=rollouts), 2, 16_384).astype(np.int64)
    micro_batches = rollouts // processes // MICRO_BATCH

    started = time.perf_counter()
    selection = select_rollouts(rewards, advantages, SELECTED, strategy=strategy, seed=seed, step=0)  # type: ignore[arg-type]
    selecting = time.perf_counter() - started
    mask = selection.mask(GROUP).reshape(processes, -1)
    live = (advantages != 0).ravel()
    started = time.perf_counter()
    dealt = deal_in_order(mask, micro_batches)
    packed = pack_steps(dealt, lengths, live, micro_batches)
    dealing = time.perf_counter() - started

    tokens = sum(np.where(part == IDLE, 0, lengths[part]).sum(axis=1) for part in packed)
    cells = sum(int(np.where(part == IDLE, 1, lengths[part]).max(axis=1).sum()) * part.shape[1] for part in packed)
    return {
        "selecting": selecting,
        "dealing": dealing,
        "padding": 1 - float(np.sum(tokens)) / cells,
        "imbalance": float(np.max(tokens) / np.mean(tokens) - 1),
    }


def cpu_seconds_per_token() -> float:
    """Return the seconds that TRL's trainer needs to update on a token, as `update_time` measured at equal lengths."""
    record = json.loads((RESULTS / "update_time.json").read_text(encoding="utf-8"))["results"]["equal lengths"]
    load = record["workload"]
    tokens = load["questions"] * load["num_generations"] * (load["prompt_length"] + load["completion_length"])
    return float(record["stock_seconds"]["median"] / tokens)


def main() -> None:
    """Measure, and write the results and the figure."""
    given = parse(str(__doc__), repeats=3)
    per_trained_token = {"cpu update": cpu_seconds_per_token(), "gpu update": 6 * PARAMETERS / GPU_FLOPS}
    results: list[dict[str, Any]] = []
    for rollouts, processes in tqdm(SIZES):
        trained = rollouts * SELECTED / GROUP * MEDIAN_LENGTH * np.exp(0.5)  # in tokens: the mean of a log-normal
        steps = {name: seconds * trained / processes for name, seconds in per_trained_token.items()}
        generating = trained * GROUP / SELECTED / GPU_TOKENS_PER_SECOND / processes
        steps["gpu step"] = steps["gpu update"] + generating
        for strategy in STRATEGIES:
            runs = [simulate(rollouts, processes, strategy, seed) for seed in range(given.repeats)]
            totals = [seconds["selecting"] + seconds["dealing"] for seconds in runs]
            results.append(
                {"rollouts": rollouts, "processes": processes, "strategy": strategy}
                | {"seconds": spread(totals)}
                | {name: spread([values[name] for values in runs]) for name in runs[0]}
                | {"of_step": {name: spread([total / step for total in totals]) for name, step in steps.items()}}
            )
    settings = {key: value for key, value in vars(given).items() if key != "output_dir"}
    write(given.output_dir, "selection_cost", settings, results, cost_figure(results))


if __name__ == "__main__":
    main()
