"""Checks that our trainer agrees with the installed TRL: trains a tiny model with both, on the same rollouts.

    raml-trl check_trl
    raml-trl check_trl --output_dir runs/check_trl

It runs on a CPU in half a minute. Use it after an update of TRL. For every loss type of TRL, and for some settings, it
makes three comparisons and prints the largest relative difference of each, over all gradients and logged metrics:

- `plain`: our trainer on all G rollouts, without `length_bucketing`, `skip_zero_advantage` and `shared_prompts`,
  against TRL's `GRPOTrainer`
- `default`: our trainer on all G rollouts, with the defaults of these three settings, against TRL's `GRPOTrainer`
- `drop against mask`: our trainer on half of the rollouts, with `subset_mode: drop` (the other rollouts do not run)
  against `subset_mode: mask` (they run, and their loss is masked)

The exit code is 1 if the difference of `plain` is not 0, if another difference exceeds `tolerance` (default 1e-4), or
if our trainer rejects a loss type. With `output_dir`, the numbers are written to `check_trl.json` and drawn in
`check_trl.svg`.
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from typing import ClassVar

import trl
from tqdm import tqdm

from raml_trl.grpo.agreement.cases import loss_cases
from raml_trl.grpo.agreement.comparison import Agreement, measure
from raml_trl.grpo.agreement.results import agreement_figure, agreement_table, as_json
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.limits import PATH, Limits, above, check_settings
from raml_trl.runtime.runs import Run

logger = logging.getLogger(__name__)

DISAGREEMENT = 1


@dataclass
class CheckTRLConfig:
    """Settings of `check_trl`."""

    limits: ClassVar[Limits] = {"output_dir": PATH, "tolerance": above(0, 1)}

    output_dir: str | None = field(default=None, metadata={"help": "Directory for the results; None writes no files."})
    tolerance: float = field(
        default=1e-4,
        metadata={"help": "Largest relative difference accepted, except in `plain`, which must equal TRL bit for bit."},
    )

    def __post_init__(self) -> None:
        check_settings(self)


def main(config: CheckTRLConfig, record: Run | None) -> int:
    """Train the tiny model in every case with TRL's trainer and with ours, and print the differences.

    A case is a loss type with some settings. If there is a `record`, the differences are also written to its directory.
    The result is the exit code: 0 if all differences are within tolerance, otherwise 1.
    """
    started = time.monotonic()
    cases = list(loss_cases())
    agreements = list(tqdm(measure(cases), total=len(cases), desc="cases"))
    failures = [str(failure) for result in agreements for failure in result.failures(config.tolerance)]
    seconds = time.monotonic() - started
    sys.stdout.write(f"\n{agreement_table(agreements)}\n\n")
    for failure in failures:
        sys.stdout.write(f"{failure}\n")
    verdict = (
        f"{len(failures)} differences exceed the tolerance" if failures else "all differences are within tolerance"
    )
    sys.stdout.write(f"TRL {trl.__version__}: {verdict} ({len(cases)} cases, {seconds:.0f} s)\n")
    if record is not None:
        _write(record, agreements, failures, config.tolerance)
        record.finish(seconds, {"trl": trl.__version__, "failures": failures})
        sys.stdout.write(f"{record.directory / 'check_trl.json'}\n{record.directory / 'check_trl.svg'}\n")
    return DISAGREEMENT if failures else 0


def _write(record: Run, agreements: list[Agreement], failures: list[str], tolerance: float) -> None:
    content = {"trl": trl.__version__, "tolerance": tolerance, "failures": failures, "cases": as_json(agreements)}
    write_json(record.directory / "check_trl.json", content)
    with whole_file(record.directory / "check_trl.svg") as partial:
        partial.write_text(agreement_figure(agreements, tolerance), encoding="utf-8")


if __name__ == "__main__":
    run(main, CheckTRLConfig, repeatable=True, optional_output=True)
