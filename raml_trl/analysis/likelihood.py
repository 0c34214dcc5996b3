"""Likelihood of an answer under a model: after one text, or after every prefix of a trajectory.

L(t) is the mean of -log p over the answer tokens, in nats, after prompt + trajectory[:t] + stub. It is the loss that
RaML, arXiv 2505.19815, sees fall along a trajectory (section 2.2). One forward pass per prefix costs O(T) tokens for
each of T prefixes; `packed_passes` gets the same numbers from O(T A) tokens in all, A being the tokens of stub and
answer.
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
    """Mean negative log-probability of the answer tokens after a prefix, in nats.

    Args:
        model: a causal language model of transformers.
        prefix_ids: `(P,)`, all tokens before the answer.
        answer_ids: `(A,)`.

    Raises:
        ValueError: if either is empty.
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
    """`answer_nll` after prompt + trajectory[:t] + stub for every t, in a few passes.

    Args:
        model: a causal language model of transformers. If it cannot continue from inside a cache, as with linear
            attention, every prefix takes a pass of its own and a warning gives the reason.
        prompt_ids: `(P,)`.
        trajectory_ids: `(T,)`.
        answer_ids: `(A,)`.
        stub_ids: `(S,)`, text between trajectory and answer.
        positions: `(N,)` prefix lengths t, in any order. Default: 0 to T inclusive.

    Returns:
        `(N,)`, float32 on the CPU.

    Raises:
        ValueError: if the prompt or the answer is empty, or a position is not between 0 and T.
    """
    probe = make_probe(prompt_ids, trajectory_ids, answer_ids, stub_ids=stub_ids, positions=positions)
    [nll] = answer_nll_each(model, [probe])
    return nll.mean(dim=1)


def answer_nll_each(
    model: PreTrainedModel, probes: Sequence[Probe], *, tokens_per_pass: int = TOKENS_PER_PASS
) -> Iterator[Tensor]:
    """For each probe, in order, -log p of every answer token: `(N, A)`, float32 on the CPU.

    Consecutive probes share passes of up to `tokens_per_pass` tokens, padding included, so sort probes by length.
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
    """Compare packed with separate passes on the first tokens of `probe`; return a reason if they disagree.

    This catches models that do not behave as their config says.
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
    """Split probes into batches whose padded texts hold at most `tokens_per_pass` tokens, or a single probe."""
    batch: list[Probe] = []
    for probe in probes:
        longest = max(len(row.prompt_ids) + len(row.trajectory_ids) for row in [*batch, probe])
        if batch and longest * (len(batch) + 1) > tokens_per_pass:
            yield batch
            batch = []
        batch.append(probe)
    yield batch


def _nll_by_prefix(model: PreTrainedModel, probe: Probe) -> Tensor:
    """-log p of the answer tokens from one forward pass per prefix, `(N, A)`."""
    length, rows = len(probe.answer_ids), []
    for t in probe.positions.tolist():
        prefix = torch.cat([probe.prompt_ids, probe.trajectory_ids[:t], probe.stub_ids])
        ids = torch.cat([prefix, probe.answer_ids[:-1]])[None].to(model.device)
        rows.append(token_nll(model(input_ids=ids, logits_to_keep=length).logits[0], probe.answer_ids))
    return torch.stack(rows)
