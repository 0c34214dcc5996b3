"""Predicts how much time and memory an optimizer step of a GRPO recipe takes, for several values of m."""
