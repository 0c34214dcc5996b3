"""Pseudo gradient descent: how the likelihood of the answer changes along a trajectory."""
