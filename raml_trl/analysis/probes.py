"""A reference answer to be scored after prefixes of a trajectory, and the score: -log p of each answer token."""

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
    """An answer to score after prefixes of a trajectory. All fields are 1-D tensors of token ids, except `positions`.

    `positions` `(N,)` holds the lengths t of the prefixes, in any order.
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
        """Prompt and trajectory, `(P + T,)`."""
        return torch.cat([self.prompt_ids, self.trajectory_ids])


def make_probe(
    prompt_ids: Tensor,
    trajectory_ids: Tensor,
    answer_ids: Tensor,
    *,
    stub_ids: Tensor | Sequence[int] = (),
    positions: Tensor | Sequence[int] | None = None,
) -> Probe:
    """Build a `Probe`. By default it has no stub and asks after every prefix, from length 0 to T."""
    lengths = torch.arange(len(trajectory_ids) + 1) if positions is None else torch.as_tensor(positions)
    return Probe(prompt_ids, trajectory_ids, answer_ids, torch.as_tensor(stub_ids, dtype=torch.long), lengths)


def token_nll(logits: Tensor, token_ids: Tensor) -> Tensor:
    """-log p of the tokens `(A,)` under `logits` `(..., A, V)`: `(..., A)`, float32 on the CPU."""
    targets = token_ids.to(logits.device).expand(logits.shape[:-1])[..., None]
    logits = logits.float()
    return (logits.logsumexp(dim=-1) - logits.gather(-1, targets)[..., 0]).cpu()


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch off gradients and dropout inside the block, then restore the mode of the model."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
