"""Measures how closely our trainer agrees with TRL's, by training both on the same rollouts."""
