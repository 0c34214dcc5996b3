"""Supervised fine-tuning on K trajectories per question."""
