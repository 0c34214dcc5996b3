"""Likelihood of an answer under a model: after one text, or after every prefix of a trajectory.

L(t) is the loss of the answer after the first t tokens of a trajectory: the mean of -log p over the answer tokens, in
nats, after prompt + trajectory[:t] + stub. The stub is the text that introduces the answer. RaML, arXiv 2505.19815,
reports that this loss falls along a trajectory (section 2.2).

For a trajectory of T tokens, a stub of S and an answer of A, one forward pass per prefix would process O(T^2) tokens in
all. `packed_passes` computes the same numbers from O(T (S + A)) tokens.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from raml_trl.analysis.packed_passes import packed_nll, unpackable_reason
from raml_trl.analysis.probes import TOKENS_PER_PASS, Probe, evaluating, make_probe, token_nll

logger = logging.getLogger(__name__)


def answer_nll(model: PreTrainedModel, prefix_ids: Tensor, answer_ids: Tensor) -> float:
    """Return the mean negative log-probability of the answer tokens after a prefix, in nats.

    Args:
        model: a causal language model of transformers.
        prefix_ids: `(P,)`, ids of all tokens before the answer.
        answer_ids: `(A,)`, ids of the answer tokens.

    Raises:
        ValueError: if the prefix or the answer is empty.
    """
    empty = prefix_ids[:0]
    probe = Probe(prefix_ids, empty, answer_ids, empty, torch.tensor([0]))
    with evaluating(model):
        return _nll_by_prefix(model, probe).mean().item()


def answer_nll_along(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    trajectory_ids: Tensor,
    answer_ids: Tensor,
    *,
    stub_ids: Tensor | Sequence[int] = (),
    positions: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Return `answer_nll` after prompt + trajectory[:t] + stub for many prefix lengths t, in a few forward passes.

    Args:
        model: a causal language model of transformers. If it cannot continue from the middle of a cached text, for
            example because it uses linear attention, every prefix takes a forward pass of its own, and a warning gives
            the reason.
        prompt_ids: `(P,)`, token ids of the prompt.
        trajectory_ids: `(T,)`, token ids of the trajectory.
        answer_ids: `(A,)`, token ids of the answer.
        stub_ids: `(S,)`, token ids of the text that introduces the answer.
        positions: `(N,)`, the prefix lengths t in tokens of the trajectory, in any order. Default: 0 to T inclusive.

    Returns:
        `(N,)`, one value for each of `positions`, in nats, float32 on the CPU.

    Raises:
        ValueError: if the prompt or the answer is empty, or a position is not between 0 and T.
    """
    probe = make_probe(prompt_ids, trajectory_ids, answer_ids, stub_ids=stub_ids, positions=positions)
    [nll] = answer_nll_each(model, [probe])
    return nll.mean(dim=1)


def answer_nll_each(
    model: PreTrainedModel, probes: Sequence[Probe], *, tokens_per_pass: int = TOKENS_PER_PASS
) -> Iterator[Tensor]:
    """Yield one tensor for each probe: -log p of each of its A answer tokens after each of its N prefixes.

    A probe is an answer and the prefixes of a trajectory after which its likelihood is measured. The tensors are
    `(N, A)`, float32 on the CPU. Consecutive probes share forward passes of up to `tokens_per_pass` tokens, padding
    included. Sort the probes by length to reduce padding.
    """
    if not probes:
        return
    with evaluating(model):
        reason = unpackable_reason(model) or _disagreement(model, probes[0])
        if reason:
            logger.warning("%s: every prefix takes a forward pass of its own, because %s", _name(model), reason)
            for probe in probes:
                yield _nll_by_prefix(model, probe)
            return
        for batch in _batches(probes, tokens_per_pass):
            yield from packed_nll(model, batch)


def _disagreement(model: PreTrainedModel, probe: Probe) -> str | None:
    """Compare packed passes with a separate pass per prefix on a short part of `probe`.

    Returns:
        The reason not to use packed passes if the results disagree, otherwise None. They disagree, for example, if a
        model uses another kind of attention than its config names.
    """
    trajectory = probe.trajectory_ids[:8]
    short = make_probe(
        probe.prompt_ids[-24:], trajectory, probe.answer_ids, stub_ids=probe.stub_ids, positions=[0, len(trajectory)]
    )
    [packed], separate = packed_nll(model, [short]), _nll_by_prefix(model, short)
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    gap = (packed - separate).abs().max().item()
    if gap <= tolerance * max(1.0, separate.abs().max().item()):
        return None
    return f"packed passes differ from separate ones by {gap:.2g} nats"


def _name(model: PreTrainedModel) -> str:
    return model.config.name_or_path or type(model).__name__


def _batches(probes: Sequence[Probe], tokens_per_pass: int) -> Iterator[list[Probe]]:
    """Split probes into batches of at most `tokens_per_pass` tokens, padding included, but of at least one probe."""
    batch: list[Probe] = []
    for probe in probes:
        longest = max(len(row.prompt_ids) + len(row.trajectory_ids) for row in [*batch, probe])
        if batch and longest * (len(batch) + 1) > tokens_per_pass:
            yield batch
            batch = []
        batch.append(probe)
    yield batch


def _nll_by_prefix(model: PreTrainedModel, probe: Probe) -> Tensor:
    """Compute -log p of the answer tokens with one forward pass per prefix, `(N, A)`."""
    length, rows = len(probe.answer_ids), []
    for t in probe.positions.tolist():
        prefix = torch.cat([probe.prompt_ids, probe.trajectory_ids[:t], probe.stub_ids])
        ids = torch.cat([prefix, probe.answer_ids[:-1]])[None].to(model.device)
        rows.append(token_nll(model(input_ids=ids, logits_to_keep=length).logits[0], probe.answer_ids))
    return torch.stack(rows)
