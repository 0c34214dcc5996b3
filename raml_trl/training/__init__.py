"""What SFT and GRPO share: checkpoints, evaluation during training, publishing."""
