"""Measures time and memory of `prepare_data` and of the choice of K trajectories for 10^4, 10^5 and 10^6 questions.

    python -m benchmarks.data.growth

Each stage and size runs in its own process, on generated questions of about 100 characters with four trajectories of
about 150 characters, half of them correct. Memory is the peak of the anonymous pages of the process, minus that of a
process that only imports the same modules. Pages of mapped files do not count, since the system can reclaim them.
Results: `results/data_growth.json` and `.svg`.
"""

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.harness import parse, write
from benchmarks.plots import growth_figure

SIZES = (10_000, 100_000, 1_000_000)
NUM_TRAJECTORIES, K = 4, 2
STAGES = ("imports", "prepare_data", "choice of K")


def make_rows(size: int) -> Iterator[dict[str, Any]]:
    """Yield distinct questions in the format of the paper's rollout datasets."""
    rng = np.random.default_rng(0)
    for start in range(0, size, 1_000):
        numbers = rng.integers(2, 1_000, size=(1_000, 3)).tolist()
        for number, (a, b, c) in enumerate(numbers[: size - start], start):
            steps = [f"{a} crates hold {a * b} apples", f"the market takes {c}", f"it is crate list {number}"]
            generations = [
                f"We are told that {'; and '.join(steps[turn % 3 :] + steps[: turn % 3])}. So in the end there are "
                f"{a * b - c + turn % 2} apples, written \\boxed{{{a * b - c + turn % 2}}}."
                for turn in range(NUM_TRAJECTORIES)
            ]
            yield {
                "id": f"q{number}",
                "problem": f"List {number}: a farmer fills {a} crates with {b} apples each, and the market takes {c} "
                "of all the apples. How many apples are left?",
                "answer": str(a * b - c),
                "generations": generations,
                "labels": [1 - turn % 2 for turn in range(NUM_TRAJECTORIES)],
            }


class _Peak:
    """Samples the memory of this process every 30 ms until `stop`, and keeps the maximum."""

    def __init__(self) -> None:
        self.mebibytes, self.stopped = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            self.mebibytes = max(self.mebibytes, int(status.partition("RssAnon:")[2].split()[0]) / 1024)
            if self.stopped.wait(0.03):
                return

    def stop(self) -> float:
        self.stopped.set()
        self.thread.join()
        return self.mebibytes


def run_stage(stage: str, directory: Path) -> dict[str, float]:
    """Run one stage in this process, and return its seconds and peak memory."""
    from raml_trl import prepare_data
    from raml_trl.build_model import train_bpe
    from raml_trl.data.config import PrepareDataConfig
    from raml_trl.data.tables import open_table
    from raml_trl.runtime.runs import open_run
    from raml_trl.sft.choosing import Choice
    from raml_trl.sft.examples import build_examples

    tokenizer = train_bpe((row["problem"] for row in make_rows(500)), 400)
    logging.disable()
    peak = _Peak()
    started = time.perf_counter()
    if stage == "prepare_data":
        config = PrepareDataConfig(output_dir=str(directory / "data"), dataset_name=str(directory / "rows.jsonl"))
        prepare_data.main(config, open_run(directory / "data", "prepare_data", {}))
    elif stage == "choice of K":
        choice = Choice(K, "random", None, "correct", True, "drop", "boxed", 1024, True, 0)
        _, counts = build_examples(open_table(str(directory / "data")), tokenizer, choice)
        assert counts.examples == counts.questions * NUM_TRAJECTORIES // 2
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mebibytes": peak.stop()}


def measure(size: int, stages: tuple[str, ...] = STAGES) -> dict[str, dict[str, float]]:
    """Run each stage in its own process, and return the results of `run_stage` by stage."""
    measured = {}
    with tempfile.TemporaryDirectory() as home:
        with (Path(home) / "rows.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in make_rows(size))
        for stage in stages:
            command = [sys.executable, "-m", "benchmarks.data.growth", "--stage", stage, "--directory", home]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured[stage] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure all sizes and write the results. With `--stage`, measure only this stage, in this process."""
    given = parse(str(__doc__), stage="", directory="", repeats=1)
    if given.stage:
        sys.stdout.write("\n" + json.dumps(run_stage(given.stage, Path(given.directory))) + "\n")
        return
    results: list[dict[str, Any]] = []
    for size in tqdm(SIZES):
        for _ in range(given.repeats):
            measured = measure(size)
            base = measured.pop("imports")["mebibytes"]
            for stage, values in measured.items():
                results.append(
                    {
                        "stage": stage,
                        "questions": size,
                        "seconds": values["seconds"],
                        "microseconds_a_question": values["seconds"] / size * 1e6,
                        "mebibytes": values["mebibytes"] - base,
                    }
                )
    settings = {"num_trajectories": NUM_TRAJECTORIES, "K": K, "repeats": given.repeats, "threads": given.threads}
    write(given.output_dir, "data_growth", settings, results, growth_figure(results))


if __name__ == "__main__":
    main()
