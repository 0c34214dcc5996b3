r"""Evaluations of the same questions side by side: every metric's difference to the first, with interval and p-value.

    python -m raml_trl.compare --evaluations SFT=runs/demo/eval_sft GRPO=runs/demo/eval_grpo \
        --output_dir runs/demo/compare

`output_dir` gets `comparison.json` and `comparison.md`.
"""

import sys
import time
from pathlib import Path

from raml_trl.evaluation.comparison import compare_runs, comparison_table, write_comparison
from raml_trl.evaluation.samples import read_samples
from raml_trl.result_arguments import CompareConfig
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import Run, complete_record


def main(config: CompareConfig, record: Run) -> None:
    """Read, compare, write."""
    started = time.monotonic()
    runs = {}
    for name, _, directory in (value.partition("=") for value in config.evaluations):
        complete_record(directory, "evaluate")
        runs[name] = read_samples(Path(directory) / "samples.parquet")
    compared = compare_runs(runs, config.k, config.seed)
    write_comparison(record.directory, compared)
    record.finish(time.monotonic() - started, compared)
    sys.stdout.write(f"\n{comparison_table(compared)}\n")


if __name__ == "__main__":
    run(main, CompareConfig, repeatable=True)
