"""Metrics, confidence intervals and comparisons from counts of correct samples."""
