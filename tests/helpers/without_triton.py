"""A torch version of the log-probability kernel of TRL 1.15, so that its trainers run on a CPU.

TRL 1.15 has this kernel only in Triton; other releases also have a torch version. With the version here, the tests
cover all of TRL 1.15 except for the kernel.
"""

from typing import Any

import torch
from trl.trainer import utils


class _LogProbs:
    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        _chunk: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: Any = (),
    ) -> tuple[Any, ...]:
        assert softcap is None
        assert scale == 1.0
        logits = torch.nn.functional.linear(hidden, weight, bias).float() / temperature
        log_probs = logits.log_softmax(dim=-1)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1) if "entropy" in outputs else None
        top = logits.argmax(-1) == targets if "is_top1" in outputs else None
        return log_probs.gather(-1, targets[:, None]).squeeze(-1), entropy, None, None, top


def patch() -> None:
    """Install the torch version if Triton is missing."""
    if vars(utils).get("_ChunkedLogProbFunction", utils) is None:
        utils._ChunkedLogProbFunction = _LogProbs
