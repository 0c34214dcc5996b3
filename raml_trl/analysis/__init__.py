"""The likelihood of the answer along a trajectory, and what it shows."""
