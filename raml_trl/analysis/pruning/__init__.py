"""Trajectory pruning: how much of a trajectory the model needs to give the answer."""
