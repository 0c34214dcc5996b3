"""Hold claims against the sweeps that were run for them: does each hold, does it not, or can it not be told?

    python -m raml_trl.weigh_claims --config recipes/tiny/claims/claims.yaml

`output_dir` gets `claims.md` and `claims.json`, every claim with its comparisons, and every setting with what it
reached; `claims.svg`, the comparisons; a figure of curves for every sweep; and `trials.json`, the curves themselves,
from which all the rest can be made again.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raml_trl.render.tables import markdown_table
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json
from raml_trl.runtime.runs import Run
from raml_trl.runtime.validation import check_types
from raml_trl.sweeps.break_even import BreakEven, break_even_table, break_evens
from raml_trl.sweeps.claims import Claim, Weighed, as_data, read_claims, verdict, weigh
from raml_trl.sweeps.claims_page import comparisons_figure, curves_figure
from raml_trl.sweeps.learning_curves import Trial, read_trial
from raml_trl.sweeps.measured_settings import measure_settings, settings_table

logger = logging.getLogger(__name__)

TRIALS = "trials.json"


@dataclass
class WeighClaimsConfig:
    """`weigh_claims`: claims, and the sweeps that they are held against."""

    claims: str = field(metadata={"help": "YAML file of claims; see raml_trl.sweeps.claims."})
    sweeps: str = field(metadata={"help": "Directory whose directories raml_trl.sweep made, or a trials.json."})
    output_dir: str
    metric: str = field(default="pass@1", metadata={"help": "What curves show, and what the levels are levels of."})
    levels: list[float] = field(
        default_factory=lambda: [0.6, 0.7, 0.8], metadata={"help": "When does the metric reach each of these?"}
    )

    def __post_init__(self) -> None:
        check_types(self, WeighClaimsConfig)
        if not self.levels:
            raise InputError("levels is empty: name at least one value of the metric")


def main(config: WeighClaimsConfig, record: Run) -> None:
    """Read, weigh, write, print."""
    claims = read_claims(Path(config.claims))
    sweeps = read_sweeps(Path(config.sweeps))
    weighed = {claim.name: [weigh(one, sweeps) for one in claim.comparisons] for claim in claims}
    settings = {
        name: measure_settings(trials, metric=config.metric, levels=config.levels) for name, trials in sweeps.items()
    }
    turns = break_evens((one for claim in claims for one in claim.comparisons), sweeps)
    content = {
        "claims": [
            {
                "name": claim.name,
                "claim": claim.claim,
                "verdict": verdict(weighed[claim.name]),
                "comparisons": [as_data(one) for one in weighed[claim.name]],
            }
            for claim in claims
        ],
        "break_even": [asdict(one) for one in turns],
        "settings": settings,
    }
    page = claims_page(claims, weighed, turns, settings, config.metric)
    texts = {"claims.md": page, "claims.svg": comparisons_figure(weighed)}
    texts |= {f"{name}.svg": curves_figure(trials, config.metric) for name, trials in sweeps.items()}
    for name, text in texts.items():
        with whole_file(record.directory / name) as partial:
            partial.write_text(text, encoding="utf-8")
    write_json(record.directory / "claims.json", content)
    write_json(record.directory / TRIALS, {name: [asdict(one) for one in trials] for name, trials in sweeps.items()})
    record.finish(0.0, {claim.name: verdict(weighed[claim.name]) for claim in claims})
    sys.stdout.write(f"\n{verdicts_table(claims, weighed)}\n\n{record.directory / 'claims.md'}\n")


def read_sweeps(path: Path) -> dict[str, list[Trial]]:
    """The complete trials of every sweep below `path`, or in the `trials.json` that it is.

    Raises:
        InputError: if there is none.
    """
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: [_trial(one) for one in trials] for name, trials in content.items()}
    sweeps: dict[str, list[Trial]] = {}
    for results in sorted(path.glob("*/sweep.json")):
        content = json.loads(results.read_text(encoding="utf-8"))
        complete = [one for one in content["trials"] if one["status"] == "complete"]
        left_out = len(content["trials"]) - len(complete)
        if left_out:
            logger.warning("%s: %d trials of %d are not complete", results.parent, left_out, len(content["trials"]))
        sweeps[results.parent.name] = [
            read_trial(results.parent / "trials" / one["name"], one["parameters"]) for one in complete
        ]
    if not sweeps:
        raise InputError(f"sweeps {path} has no directory with a sweep.json: run `python -m raml_trl.sweep` first")
    return sweeps


def _trial(content: Mapping[str, Any]) -> Trial:
    curves = {name: tuple(values) for name, values in content["curves"].items()}
    return Trial(**{**content, "steps": tuple(content["steps"]), "curves": curves})


def verdicts_table(claims: Sequence[Claim], weighed: Mapping[str, Sequence[Weighed]]) -> str:
    """A line for each claim, with the difference and its interval of each comparison."""
    rows = [
        [claim.name, claim.claim, verdict(weighed[claim.name]), "; ".join(map(_told, weighed[claim.name]))]
        for claim in claims
    ]
    return markdown_table([["", "claim", "verdict", "differences"], *rows])


def _told(weighed: Weighed) -> str:
    difference = weighed.difference
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def claims_page(
    claims: Sequence[Claim],
    weighed: Mapping[str, Sequence[Weighed]],
    turns: Sequence[BreakEven],
    settings: Mapping[str, list[dict[str, Any]]],
    metric: str,
) -> str:
    """All of it, as Markdown."""
    parts = [
        "# Claims",
        verdicts_table(claims, weighed),
        "A claim holds if in each of its comparisons the 95 % interval of the difference (Student's, over seeds, "
        "paired) is above zero; it does not hold if one is below.",
    ]
    for claim in claims:
        rows = [["measure", "said to be higher", "than", "means", "difference", "p", "seeds", "verdict"]]
        for one in weighed[claim.name]:
            comparison = one.comparison
            rows.append(
                [
                    f"{comparison.metric}, {comparison.measure.replace('_', ' ')}",
                    str(comparison.higher),
                    str(comparison.lower),
                    f"{one.higher:.3f}, {one.lower:.3f}",
                    _told(one),
                    f"{one.difference.p_value:.3f}",
                    str(len(one.seeds)),
                    one.verdict,
                ]
            )
        parts += [f"## {claim.name}: {claim.claim}", markdown_table(rows)]
    if turns:
        parts += ["## Where time turns", break_even_table(turns)]
    for name, rows_of in settings.items():
        parts += [f"## Sweep {name}", settings_table(rows_of, metric)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    run(main, WeighClaimsConfig, repeatable=True)
