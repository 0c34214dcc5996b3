"""The parts that SFT and GRPO share: checkpoints, evaluation during training, dashboards and publishing."""
