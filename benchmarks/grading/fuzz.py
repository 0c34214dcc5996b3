r"""Runs both fuzzers of the grader in chunks, and writes the counts of all chunks to `grading_fuzz.json`.

    python -m benchmarks.grading.fuzz --inputs 100000 --mutations 20000 --chunks 10

Each chunk has its own seed. Finished chunks are kept in a file beside the results, so an interrupted run goes on with
the chunks that are missing. Delete that file to start again, for example after a change of the grader. The command
ends with exit code 1 if an input crashed or kept the calling process busy, or if a wrong answer was accepted.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import harness
from benchmarks.grading.mutations import attack
from benchmarks.grading.robustness import peak_memory, report_on
from raml_trl.grading.grader import SECONDS

Chunk = dict[str, Any]


def run(seed: int, inputs: int, mutations: int) -> Chunk:
    """Runs one chunk of both fuzzers, with one child process for algebra, and returns its counts."""
    started, busy = time.perf_counter(), time.process_time()
    report = report_on(inputs, seed, 1, SECONDS)
    made, passed = attack(mutations, seed, 1, SECONDS)
    return {
        "seed": seed,
        "outcomes": dict(report.outcomes),
        "by_algebra": report.by_algebra,
        "crashes": report.crashes,
        "timeouts": report.timeouts,
        "slowest_cpu_seconds": report.slowest[0][0],
        "failed": report.fails,
        "mutations": dict(made),
        "accepted": [asdict(mutation) for mutation in passed],
        "peak_mib": peak_memory(),
        "seconds": time.perf_counter() - started,
        "cpu_seconds_of_the_calling_process": time.process_time() - busy,
    }


def total(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Returns the counts of all chunks together."""
    outcomes, made = Counter[str](), Counter[str]()
    for chunk in chunks:
        outcomes.update(chunk["outcomes"])
        made.update(chunk["mutations"])
    return {
        "inputs": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
        "by_algebra": sum(chunk["by_algebra"] for chunk in chunks),
        "crashes": [pair for chunk in chunks for pair in chunk["crashes"]],
        "timeouts": [pair for chunk in chunks for pair in chunk["timeouts"]],
        "slowest_cpu_seconds": max(chunk["slowest_cpu_seconds"] for chunk in chunks),
        "mutations": made.total(),
        "mutations_by_kind": dict(made.most_common()),
        "accepted": [mutation for chunk in chunks for mutation in chunk["accepted"]],
        "peak_mib": {
            name: max(chunk["peak_mib"][place] for chunk in chunks)
            for place, name in enumerate(("calling process", "child"))
        },
        "seconds": round(sum(chunk["seconds"] for chunk in chunks), 1),
    }


def main() -> None:
    """Runs the chunks that are missing, and writes the counts of all."""
    given = harness.parse(__doc__, inputs=100_000, mutations=20_000, chunks=10)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    path = given.output_dir / "grading_fuzz_chunks.jsonl"
    chunks = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    for seed in sorted(set(range(given.chunks)) - {chunk["seed"] for chunk in chunks}):
        chunks.append(run(seed, given.inputs // given.chunks, given.mutations // given.chunks))
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(chunks[-1]) + "\n")
        print(f"chunk {seed}: {chunks[-1]['outcomes']}, {len(chunks[-1]['accepted'])} accepted", flush=True)
    results = total(chunks)
    settings = {"inputs": given.inputs, "mutations": given.mutations, "chunks": given.chunks}
    harness.write(given.output_dir, "grading_fuzz", settings, results)
    sys.exit(1 if results["accepted"] or any(chunk["failed"] for chunk in chunks) else 0)


if __name__ == "__main__":
    main()
