"""Trajectory pruning: how much of a trajectory the answer needs."""
