"""Compares evaluations of the same questions: for every metric, the difference of each evaluation to the first.

An evaluation is called a run. The values of two runs are paired by question, which removes the difficulty of the
questions from the noise. The p-values are not corrected for multiple comparisons, so among many of them some are small
by chance.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from raml_trl.evaluation.intervals import mean_interval, paired_difference
from raml_trl.evaluation.metrics import each_question, mg_pass_at_k, pass_at_k
from raml_trl.evaluation.samples import SampleCounts
from raml_trl.evaluation.voting import majority_each
from raml_trl.render.tables import bounded, escape_cell, markdown_table, p_value
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file, write_json


class DifferenceToFirst(TypedDict):
    """Mean of a metric in a run minus its mean in the first run, with the 95 % interval and p-value of this difference.

    This is the form in which `comparison.json` stores it.
    """

    mean: float
    low: float
    high: float
    p_value: float


class RunMetric(TypedDict):
    """Mean of a metric over the questions of one run, with its 95 % interval.

    Every run except the first also has its `difference` to the first run.
    """

    mean: float
    low: float
    high: float
    difference: NotRequired[DifferenceToFirst]


Comparison = dict[str, dict[str, RunMetric]]
"""The results of a comparison: by name of the metric, such as `pass@8`, and then by name of the run."""


def compare_runs(runs: Mapping[str, SampleCounts], ks: Sequence[int], seed: int) -> Comparison:
    """Compare every run with the first run in Pass@k, mG-Pass@k (k even) and maj@k (k > 1). Return the results.

    The majority vote maj@k is left out for all runs if one of them has no votes (counts of equal answers).

    Args:
        runs: the counted samples of each run, by name of the run.
        ks: values of k.
        seed: seed of the bootstrap and of the sign-flip test.

    Raises:
        InputError: if the runs have different questions, or a question has fewer than max(ks) samples in a run.
    """
    first_name, first = next(iter(runs.items()))
    for name, samples in runs.items():
        if set(samples.question_ids) != set(first.question_ids):
            raise InputError(
                f"{name} and {first_name} are evaluations of different questions: they cannot be paired; evaluate both "
                "models on the same data"
            )
        if samples.n.min() < max(ks):
            raise InputError(f"k = {max(ks)}, but {name} has a question with {samples.n.min()} samples")
    metrics = [("pass", k) for k in ks] + [("mg_pass", k) for k in ks if k % 2 == 0]
    if all(samples.votes is not None for samples in runs.values()):
        metrics += [("maj", k) for k in ks if k > 1]
    rng = np.random.default_rng(seed)
    compared: Comparison = {}
    for kind, k in metrics:
        by_run = compared[f"{kind}@{k}"] = {}
        baseline: NDArray[np.float64] | None = None
        for name, samples in runs.items():
            positions = {question: position for position, question in enumerate(samples.question_ids)}
            order = [positions[question] for question in first.question_ids]
            values = _values(samples, kind, k)
            mean = mean_interval(values, np.random.default_rng(seed))  # the interval that its evaluation reports
            by_run[name] = {"mean": mean.mean, "low": mean.low, "high": mean.high}
            values = values[order]
            if baseline is None:
                baseline = values
            else:
                by_run[name]["difference"] = _difference(baseline, values, rng)
    return compared


def _difference(
    baseline: NDArray[np.float64], values: NDArray[np.float64], rng: np.random.Generator
) -> DifferenceToFirst:
    difference = paired_difference(baseline, values, rng)
    return {
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
    }


def _values(samples: SampleCounts, kind: str, k: int) -> NDArray[np.float64]:
    """Return the metric `kind` at k for every question `(Q,)`, in the order of `samples`."""
    if kind == "maj":
        assert samples.votes is not None
        return majority_each(samples.votes, k)
    return each_question({"pass": pass_at_k, "mg_pass": mg_pass_at_k}[kind], samples.n, samples.correct, k)


def write_comparison(directory: Path, compared: Comparison) -> None:
    """Write `comparison.json` and `comparison.md` into `directory`."""
    write_json(directory / "comparison.json", compared)
    with whole_file(directory / "comparison.md") as partial:
        partial.write_text(comparison_page(compared), encoding="utf-8")


def comparison_page(compared: Comparison) -> str:
    """Return the table of a comparison in Markdown, with a note on its intervals and p-values."""
    return (
        f"{comparison_table(compared)}\n\n"
        "Differences have bootstrap intervals over questions, and p-values of a sign-flip test. If the interval leaves "
        "out 0 but p is above .05, only few questions differ: trust p.\n"
    )


def comparison_table(compared: Comparison) -> str:
    """Return a Markdown table with a row for each metric and run."""
    rows = [["metric", "run", "mean", "difference to the first", "p"]]
    for metric, by_run in compared.items():
        for name, value in by_run.items():
            row = [metric, escape_cell(name), bounded(value["mean"], value["low"], value["high"])]
            if "difference" in value:
                difference = value["difference"]
                bounds = bounded(difference["mean"], difference["low"], difference["high"], signed=True)
                row += [bounds, p_value(difference["p_value"], 4)]
            rows.append(row if len(row) == 5 else [*row, "-", "-"])
    return markdown_table(rows)
