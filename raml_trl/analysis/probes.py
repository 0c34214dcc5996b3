r"""Probes ask how likely an answer is after prefixes of a trajectory, measured as -log p of each answer token.

The model reads prompt + trajectory[:t] + stub for some prefix lengths t, counted in tokens of the trajectory. The stub
is the text that introduces the answer, such as `</think>\boxed{`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

TOKENS_PER_PASS = 16_384
"""Default limit on the tokens of one forward pass, padding included. A lower limit takes less memory."""


@dataclass(frozen=True)
class Probe:
    """An answer whose likelihood is measured after prefixes of a trajectory.

    `positions` `(N,)` holds the prefix lengths t, in any order. All other fields are 1-D tensors of token ids.
    `stub_ids` stand between a prefix of the trajectory and the answer, and may be empty.
    """

    prompt_ids: Tensor
    trajectory_ids: Tensor
    answer_ids: Tensor
    stub_ids: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        if not len(self.answer_ids):
            raise ValueError("answer_ids are empty: pass an answer of at least one token")
        if not len(self.prompt_ids):
            raise ValueError("prompt_ids are empty: pass a prompt, since the first token of a text has no likelihood")
        t, longest = self.positions, len(self.trajectory_ids)
        if not len(t) or t.min() < 0 or t.max() > longest:
            raise ValueError(f"positions must be prefix lengths from 0 to {longest}, got {t.tolist() or 'none'}")

    @property
    def text(self) -> Tensor:
        """Tokens of prompt and trajectory, `(P + T,)`."""
        return torch.cat([self.prompt_ids, self.trajectory_ids])


def make_probe(
    prompt_ids: Tensor,
    trajectory_ids: Tensor,
    answer_ids: Tensor,
    *,
    stub_ids: Tensor | Sequence[int] = (),
    positions: Tensor | Sequence[int] | None = None,
) -> Probe:
    """Build a `Probe`, with `positions` from 0 to the length of the trajectory, inclusive, unless others are given.

    `stub_ids` are the tokens of the text that introduces the answer; by default there are none.
    """
    lengths = torch.arange(len(trajectory_ids) + 1) if positions is None else torch.as_tensor(positions)
    return Probe(prompt_ids, trajectory_ids, answer_ids, torch.as_tensor(stub_ids, dtype=torch.long), lengths)


def token_nll(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return -log p of `token_ids` `(A,)` under `logits` `(..., A, vocabulary)`, as `(..., A)`, float32 on the CPU."""
    targets = token_ids.to(logits.device).expand(logits.shape[:-1])[..., None]
    logits = logits.float()
    return (logits.logsumexp(dim=-1) - logits.gather(-1, targets)[..., 0]).cpu()


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Run the `with` block without gradients and with `model` in evaluation mode, then restore its earlier mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
