"""Runs each prompt once for all rollouts of its group, by packing them into one row, on which the model runs."""
