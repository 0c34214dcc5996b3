"""Computes metrics, confidence intervals and comparisons of runs from counts of correct samples."""

from raml_trl.evaluation.intervals import (
    Difference,
    MeanInterval,
    SeedMean,
    bootstrap_interval,
    mean_interval,
    mean_over_seeds,
    paired_difference,
    student_difference,
    student_interval,
)
from raml_trl.evaluation.metrics import g_pass_at_k, mg_pass_at_k, pass_at_k
from raml_trl.evaluation.voting import majority_at_k

__all__ = [
    "Difference",
    "MeanInterval",
    "SeedMean",
    "bootstrap_interval",
    "g_pass_at_k",
    "majority_at_k",
    "mean_interval",
    "mean_over_seeds",
    "mg_pass_at_k",
    "paired_difference",
    "pass_at_k",
    "student_difference",
    "student_interval",
]
