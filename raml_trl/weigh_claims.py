"""Tests claims, such as "GRPO improves with m", on the results of sweeps.

    raml-trl weigh_claims recipes/tiny/claims/weigh_claims.yaml

The verdict on a claim is that it holds, that it does not hold, or that it is inconclusive. A setting is one combination
of the swept parameters, with one trial for each seed. `output_dir` gets:

- `claims.md` and `claims.json`: every claim with its comparisons, and the results of every setting;
- `claims.svg`: a figure of the comparisons;
- `SWEEP.svg`, for each sweep: a figure of the learning curves;
- `trials.json`: the learning curves, from which all other files can be generated again.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.limits import PATH, Each, Limits, Number, check_settings
from raml_trl.runtime.recipes import find_recipe
from raml_trl.runtime.runs import Run
from raml_trl.sweeps.break_even import break_evens
from raml_trl.sweeps.claims import read_claims, weigh
from raml_trl.sweeps.claims_page import claims_page, comparisons_figure, curves_figure, verdicts_table
from raml_trl.sweeps.learning_curves import read_trials, summarise_settings


@dataclass
class WeighClaimsConfig:
    """Settings of the command `weigh_claims`, which tests claims on the results of sweeps."""

    limits: ClassVar[Limits] = {
        "claims": PATH,
        "sweeps": PATH,
        "output_dir": PATH,
        "levels": Each(Number(-(10**9), 10**9)),
    }

    claims: str = field(metadata={"help": "YAML file of claims; raml_trl.sweeps.claims describes the format."})
    sweeps: str = field(metadata={"help": "Directory that holds the output directories of sweep, or a trials.json."})
    output_dir: str
    metric: str = field(default="pass@1", metadata={"help": "Metric of the curves and of levels."})
    levels: list[float] = field(
        default_factory=lambda: [0.6, 0.7, 0.8],
        metadata={"help": "Report the steps and seconds until the metric reaches each of these values."},
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.levels:
            raise InputError("levels is empty: give at least one value of the metric")


def main(config: WeighClaimsConfig, record: Run) -> None:
    """Test the claims, write the results, and print the verdicts. `record` is the run in `output_dir`."""
    sweeps = read_trials(Path(config.sweeps))
    claims = weigh(read_claims(find_recipe(config.claims)), sweeps)
    settings = {
        name: summarise_settings(trials, metric=config.metric, levels=config.levels) for name, trials in sweeps.items()
    }
    pairs = break_evens((comparison for weighed in claims for comparison in weighed.claim.comparisons), sweeps)
    texts = {"claims.md": claims_page(claims, pairs, settings, config.metric), "claims.svg": comparisons_figure(claims)}
    texts |= {f"{name}.svg": curves_figure(trials, config.metric) for name, trials in sweeps.items()}
    for name, text in texts.items():
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8")
    content = {
        "claims": [weighed.as_json() for weighed in claims],
        "break_even": [asdict(pair) for pair in pairs],
        "settings": {name: [summary.as_json() for summary in summaries] for name, summaries in settings.items()},
    }
    write_json(record.directory / "claims.json", content)
    trials = {name: [asdict(trial) for trial in trials] for name, trials in sweeps.items()}
    write_json(record.directory / "trials.json", trials)
    record.finish(0.0, {weighed.claim.name: weighed.verdict for weighed in claims})
    sys.stdout.write(f"\n{verdicts_table(claims)}\n")


if __name__ == "__main__":
    run(main, WeighClaimsConfig, repeatable=True)
