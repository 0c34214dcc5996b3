"""Predicts the time and memory that a step of a GRPO recipe takes for several m."""
