"""Grades a completion against a reference answer, in this process or in a pool of child processes."""

from raml_trl.grading.grader import Grade, grade
from raml_trl.grading.pool import GradingPool

__all__ = ["Grade", "GradingPool", "grade"]
