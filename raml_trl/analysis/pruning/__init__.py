"""Trajectory pruning: the part of a trajectory that the answer needs."""
