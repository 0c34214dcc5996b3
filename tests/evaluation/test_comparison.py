"""Tests that a comparison of evaluations has the intervals that each evaluation reports."""

import numpy as np

from raml_trl.evaluation.comparison import compare_runs
from raml_trl.evaluation.metrics import summarise
from raml_trl.evaluation.samples import SampleCounts


def counts(correct: list[int]) -> SampleCounts:
    return SampleCounts(
        question_ids=tuple(str(number) for number in range(len(correct))),
        n=np.full(len(correct), 8),
        correct=np.array(correct),
        formatted=1.0,
        mean_tokens=10.0,
        outcomes={},
    )


def test_every_run_has_the_intervals_of_its_evaluation() -> None:
    runs = {"a": counts([0, 3, 8, 5, 1]), "b": counts([2, 2, 7, 8, 0]), "c": counts([4, 0, 8, 6, 6])}
    compared = compare_runs(runs, ks=[2, 4], seed=3)
    for name, samples in runs.items():
        alone = summarise(samples.correct, samples.n, [1, 2, 4], np.random.default_rng(3))
        assert compared.keys() == alone.keys() - {"pass@1"}
        for metric, by_run in compared.items():
            assert {key: by_run[name][key] for key in ("mean", "low", "high")} == alone[metric]
