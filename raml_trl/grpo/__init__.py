"""GRPO on m of G rollouts per group: selection, batching and the trainer."""

from raml_trl.grpo.selection import select_rollouts
from raml_trl.grpo.user_selection import Selection

__all__ = ["Selection", "select_rollouts"]
