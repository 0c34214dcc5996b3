"""GRPO on m of G rollouts per group: selection, batching and the trainer."""
