"""GRPO on m of G rollouts per group: selection, batching and the trainer."""

from raml_trl.grpo.selection import Selection, select_rollouts

__all__ = ["Selection", "select_rollouts"]
