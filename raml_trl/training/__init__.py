"""Shared by SFT and GRPO: checkpoints, evaluation during training, dashboards, publishing."""
