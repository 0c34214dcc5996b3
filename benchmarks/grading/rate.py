r"""Measures the process time of `grade` beside that of math-verify, on the same real pairs, in one process.

    python -m benchmarks.grading.rate --rounds 7

Each round has its own pairs and starts with empty caches. The graders take turns to be the first. Before the first
round, both grade other pairs, because the parser of both takes seconds to load its tables, once in a process. Process
time is almost the same on a busy machine as on an idle one, and counts one core. math-verify is called as TRL calls it.
"""

import random
import time
from collections.abc import Callable

from benchmarks import harness
from benchmarks.grading.cores import Pairs, clear_caches
from benchmarks.grading.pairs import cases, real_pairs
from benchmarks.grading.throughput import math_verify
from raml_trl.grading.boxes import extract_answer
from raml_trl.grading.grader import decide_without_algebra, grade, load_algebra


def seconds(run: Callable[[Pairs], object], pairs: Pairs) -> float:
    """Returns the process time in seconds to grade `pairs` with empty caches."""
    clear_caches()
    started = time.process_time()
    run(pairs)
    return time.process_time() - started


def main() -> None:
    """Measures the rates and writes the results."""
    given = harness.parse(__doc__, rounds=7, pairs=1_500)
    pairs = real_pairs() or [(text, answer) for text, answer, _ in cases()]
    random.Random(0).shuffle(pairs)
    size = min(given.pairs, len(pairs) // (given.rounds + 1))
    runs: dict[str, Callable[[Pairs], object]] = {
        "math_verify": math_verify,
        "grade": lambda pairs: [grade(*pair) for pair in pairs],
    }
    load_algebra()
    for run in runs.values():
        run(pairs[given.rounds * size :][:size])
    taken: dict[str, list[float]] = {name: [] for name in runs}
    undecided = 0
    for number in range(given.rounds):
        chunk = pairs[number * size : (number + 1) * size]
        undecided += sum(decide_without_algebra(extract_answer(text), answer) is None for text, answer in chunk)
        for name in list(runs)[:: 1 if number % 2 else -1]:
            taken[name].append(seconds(runs[name], chunk))
        print(f"round {number}: {taken['math_verify'][-1] / taken['grade'][-1]:.1f} times as fast", flush=True)
    results = {
        "pairs": size * given.rounds,
        "share_without_algebra": round(1 - undecided / (size * given.rounds), 4),
        "per_cpu_second": {name: harness.spread([size / value for value in values]) for name, values in taken.items()},
        "over_math_verify": harness.spread([a / b for a, b in zip(taken["math_verify"], taken["grade"], strict=True)]),
        "over_math_verify_in_all_rounds": round(sum(taken["math_verify"]) / sum(taken["grade"]), 2),
    }
    harness.write(given.output_dir, "grading_rate", {"rounds": given.rounds, "pairs_per_round": size}, results)


if __name__ == "__main__":
    main()
