"""Evaluations of the same questions side by side: every metric's difference to the first, with interval and p-value.

The test pairs the questions: what both runs find hard is no noise. The p-value is that of one comparison; with many,
some are small by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import bootstrap_interval, paired_difference
from raml_trl.evaluation.metrics import each_question, mg_pass_at_k, pass_at_k
from raml_trl.evaluation.samples import SampleCounts
from raml_trl.evaluation.voting import majority_each
from raml_trl.render.tables import markdown_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json

Comparison = dict[str, dict[str, Any]]
"""By metric and run: `mean`, `low`, `high`, and for all but the first its `difference` to it."""


def compare_runs(runs: Mapping[str, SampleCounts], ks: Sequence[int], seed: int) -> Comparison:
    """By metric and run: `mean`, `low`, `high`, and for all but the first its `difference` to it.

    The majority vote is there if all runs have votes.

    Raises:
        InputError: if the runs are not of the same questions, or one has fewer samples than k.
    """
    first_name, first = next(iter(runs.items()))
    for name, samples in runs.items():
        if set(samples.question_ids) != set(first.question_ids):
            raise InputError(f"{name} and {first_name} are evaluations of different questions: they cannot be paired")
        if samples.n.min() < max(ks):
            raise InputError(f"k = {max(ks)}, but {name} has a question with {samples.n.min()} samples")
    metrics = [("pass", k) for k in ks] + [("mg_pass", k) for k in ks if k % 2 == 0]
    if all(samples.votes is not None for samples in runs.values()):
        metrics += [("maj", k) for k in ks if k > 1]
    rng = np.random.default_rng(seed)
    compared: Comparison = {}
    for kind, k in metrics:
        of_runs = compared[f"{kind}@{k}"] = {}
        baseline: NDArray[np.float64] | None = None
        for name, samples in runs.items():
            places = {question: place for place, question in enumerate(samples.question_ids)}
            order = [places[question] for question in first.question_ids]
            values = _values(samples, kind, k)[order]
            low, high = bootstrap_interval(values, rng)
            one: dict[str, Any] = {"mean": float(values.mean()), "low": low, "high": high}
            if baseline is None:
                baseline = values
            else:
                one["difference"] = asdict(paired_difference(baseline, values, rng))
            of_runs[name] = one
    return compared


def _values(samples: SampleCounts, kind: str, k: int) -> NDArray[np.float64]:
    """A metric for every question `(Q,)`, in the order of the file."""
    if kind == "maj":
        assert samples.votes is not None
        return majority_each(samples.votes, k)
    return each_question({"pass": pass_at_k, "mg_pass": mg_pass_at_k}[kind], samples.n, samples.correct, k)


def write_comparison(directory: Path, compared: Comparison) -> None:
    """As data and as a table."""
    write_json(directory / "comparison.json", compared)
    with whole_file(directory / "comparison.md") as partial:
        partial.write_text(comparison_table(compared) + "\n", encoding="utf-8")


def comparison_table(compared: Comparison) -> str:
    """A row for each metric and run, as Markdown."""
    rows = [["metric", "run", "mean", "difference to the first", "p"]]
    for metric, runs in compared.items():
        for name, one in runs.items():
            row = [metric, name.replace("|", "\\|"), f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"]
            if "difference" in one:
                difference = one["difference"]
                spread = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
                row += [spread, f"{difference['p_value']:.4f}"]
            rows.append(row if len(row) == 5 else [*row, "-", "-"])
    return markdown_table(rows)
