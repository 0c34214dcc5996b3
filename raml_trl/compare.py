r"""Compares two or more evaluations of the same questions.

    raml-trl compare --evaluations SFT=runs/demo/eval_sft GRPO=runs/demo/eval_grpo \
        --output_dir runs/demo/compare

For every metric, the command computes the difference of each evaluation from the first one, with an interval and a
p-value. `output_dir` gets `comparison.json` and `comparison.md`.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from raml_trl.evaluation.comparison import compare_runs, comparison_page, write_comparison
from raml_trl.evaluation.samples import read_samples
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import PATH, SEED, Each, Limits, check_settings, whole
from raml_trl.runtime.runs import Run, complete_record


@dataclass
class CompareConfig:
    """Settings of `compare`."""

    limits: ClassVar[Limits] = {"output_dir": PATH, "evaluations": Each(PATH), "k": Each(whole(1, 10**6)), "seed": SEED}

    output_dir: str
    evaluations: list[str] = field(
        metadata={"help": "name=DIR of each evaluation. The others are compared with the first."}
    )
    k: list[int] = field(
        default_factory=lambda: [1, 8],
        metadata={"help": "Values of k for Pass@k, mG-Pass@k (even k only) and maj@k (if all evaluations have votes)."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the resampling for confidence intervals and p-values."})

    def __post_init__(self) -> None:
        check_settings(self)
        names = [value.partition("=")[0] for value in self.evaluations]
        if len(set(names)) < max(2, len(names)) or not all("=" in value for value in self.evaluations):
            raise InputError(
                f"evaluations must be two or more of the form name=DIR with different names, got {self.evaluations}"
            )
        if not self.k:
            raise InputError("k is an empty list: name at least one k")


def main(config: CompareConfig, record: Run) -> None:
    """Read the evaluations, compare them with the first one, and write and print the result."""
    started = time.monotonic()
    runs = {}
    for name, _, directory in (value.partition("=") for value in config.evaluations):
        complete_record(directory, "evaluate")
        runs[name] = read_samples(Path(directory) / "samples.parquet")
    compared = compare_runs(runs, config.k, config.seed)
    write_comparison(record.directory, compared)
    record.finish(time.monotonic() - started, compared)
    sys.stdout.write(f"\n{comparison_page(compared)}")


if __name__ == "__main__":
    run(main, CompareConfig, repeatable=True)
