"""Runs each prompt once for all rollouts of its group: prompt and rollouts become one row of the model."""
