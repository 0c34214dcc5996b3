"""Pseudo gradient descent: how the likelihood of the reference answer changes along a trajectory."""
