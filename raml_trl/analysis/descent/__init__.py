"""Pseudo gradient descent: how the likelihood of the answer moves along a trajectory."""
