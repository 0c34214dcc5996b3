r"""How likely a model finds an answer: after a text, and after every prefix of a trajectory at once.

L(t) is the mean of -log p over the answer's tokens, in nats, after prompt + trajectory[:t] + stub: the loss that RaML,
arXiv 2505.19815, sees fall along a trajectory (section 2.2). Taken prefix by prefix it costs a forward pass over
O(T) tokens for each of T prefixes. Here one pass over the trajectory leaves its keys and values behind, and the stub
and the answer follow as one short block for each prefix, many blocks to a pass: a block sees the prefix it belongs to
and itself, and its positions go on from there. That is O(T A) tokens, A being those of a block, and the same numbers.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from raml_trl.analysis.packed_passes import PrefixCache

logger = logging.getLogger(__name__)

TOKENS_PER_PASS = 16_384
"""Of trajectories that are passed over together: what one forward pass may take in memory."""
_ENTRIES_PER_PASS = 2**24
"""Of a block pass: entries of its attention mask, and of its logits."""
_BLOCK_TOKENS = 256
"""In one pass on a CPU, where more and fewer are slower; a GPU wants more."""
_BLOCK_TOKENS_GPU = 4096
_GROWING_ROPE = ("dynamic", "longrope")  # the angles depend on how long the whole text is
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Probe:
    """An answer to be asked for along a trajectory: 1-D tensors of token ids.

    `positions` are the lengths t of the prefixes to ask after, `(N,)`, by default 0 to T inclusive.
    """

    prompt_ids: Tensor
    trajectory_ids: Tensor
    answer_ids: Tensor
    stub_ids: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        if not len(self.answer_ids):
            raise ValueError("answer_ids are empty: there is nothing to be likely")
        if not len(self.prompt_ids):
            raise ValueError("prompt_ids are empty: the first token of a text has no likelihood")
        t, most = self.positions, len(self.trajectory_ids)
        if not len(t) or t.min() < 0 or t.max() > most:
            raise ValueError(f"positions are prefix lengths from 0 to {most}, got {t.tolist() or 'none'}")

    @property
    def text(self) -> Tensor:
        """Prompt and trajectory, `(P + T,)`."""
        return torch.cat([self.prompt_ids, self.trajectory_ids])


def answer_nll(model: Any, prefix_ids: Tensor, answer_ids: Tensor) -> float:
    """Mean negative log-probability, in nats, of the answer's tokens after a prefix.

    Args:
        model: a causal language model of transformers.
        prefix_ids: `(P,)`, all that comes before the answer.
        answer_ids: `(A,)`.

    Raises:
        ValueError: if either is empty.
    """
    nothing = prefix_ids[:0]
    probe = Probe(prefix_ids, nothing, answer_ids, nothing, torch.tensor([0]))
    with _evaluating(model):
        return _by_prefix(model, probe).mean().item()


def answer_nll_along(
    model: Any,
    prompt_ids: Tensor,
    trajectory_ids: Tensor,
    answer_ids: Tensor,
    *,
    stub_ids: Tensor | Sequence[int] = (),
    positions: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """`answer_nll` after prompt + trajectory[:t] + stub for every t, at the cost of a few passes.

    Args:
        model: a causal language model of transformers. One that cannot go on from inside a cache, as with linear
            attention, is asked prefix by prefix, and it is said why.
        prompt_ids: `(P,)`.
        trajectory_ids: `(T,)`.
        answer_ids: `(A,)`.
        stub_ids: `(S,)`, what leads to the answer.
        positions: `(N,)` prefix lengths t, in any order, by default 0 to T inclusive.

    Returns:
        `(N,)`, float32 on the CPU.

    Raises:
        ValueError: if prompt or answer are empty, or a position is not one.
    """
    probe = make_probe(prompt_ids, trajectory_ids, answer_ids, stub_ids=stub_ids, positions=positions)
    [nll] = answer_nll_each(model, [probe])
    return nll.mean(dim=1)


def make_probe(
    prompt_ids: Tensor,
    trajectory_ids: Tensor,
    answer_ids: Tensor,
    *,
    stub_ids: Tensor | Sequence[int] = (),
    positions: Tensor | Sequence[int] | None = None,
) -> Probe:
    """A `Probe` with what is left out filled in."""
    places = torch.arange(len(trajectory_ids) + 1) if positions is None else torch.as_tensor(positions)
    return Probe(prompt_ids, trajectory_ids, answer_ids, torch.as_tensor(stub_ids, dtype=torch.long), places)


def answer_nll_each(model: Any, probes: Sequence[Probe], *, tokens_per_pass: int = TOKENS_PER_PASS) -> Iterator[Tensor]:
    """For each probe, in order, -log p of every token of its answer: `(N, A)`, float32 on the CPU.

    Probes that follow each other share passes, as far as `tokens_per_pass` goes: put like lengths together.
    """
    if not probes:
        return
    with _evaluating(model):
        reason = unpackable(model) or _disagreement(model, probes[0])
        if reason:
            logger.warning("%s is asked prefix by prefix, which takes T passes a trajectory: %s", _name(model), reason)
            for probe in probes:
                yield _by_prefix(model, probe)
            return
        for batch in _batches(probes, tokens_per_pass):
            yield from _packed(model, batch)


def unpackable(model: Any) -> str | None:
    """Why a model cannot go on from inside a cache with many blocks at once; None if nothing speaks against it."""
    config = model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        return "its state holds the whole of what it has read"
    if "position_ids" not in inspect.signature(model.forward).parameters or getattr(config, "alibi", False):
        return "it is not told the positions of tokens"
    others = set(_layer_types(config)) - set(_LAYER_TYPES)
    if others:
        return f"it has layers of {', '.join(sorted(others))}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attn_implementation is {config._attn_implementation}: load it with sdpa, whose masks are free"
    rope = _rope_types(getattr(config, "rope_parameters", None) or {})
    if rope & set(_GROWING_ROPE):
        return f"the angles of its {', '.join(sorted(rope))} rope depend on the length of the text"
    return None


def _rope_types(parameters: dict[str, Any]) -> set[str]:
    """The kinds of rope of a config, which may have one for each kind of layer."""
    nested = [one for one in parameters.values() if isinstance(one, dict)]
    return {str(one.get("rope_type", "default")) for one in nested or [parameters]}


def _layer_types(config: Any) -> list[str]:
    """The kind of attention of every layer, or of all."""
    window = getattr(config, "sliding_window", None)
    return getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]


def _disagreement(model: Any, probe: Probe) -> str | None:
    """Whether blocks give other numbers than whole texts on the first tokens of `probe`, whatever the config says."""
    trajectory = probe.trajectory_ids[:8]
    short = make_probe(
        probe.prompt_ids[-24:], trajectory, probe.answer_ids, stub_ids=probe.stub_ids, positions=[0, len(trajectory)]
    )
    [packed], whole = _packed(model, [short]), _by_prefix(model, short)
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    apart = (packed - whole).abs().max().item()
    if apart <= tolerance * max(1.0, whole.abs().max().item()):
        return None
    return f"blocks are {apart:.2g} nats off"


def _name(model: Any) -> str:
    return model.config.name_or_path or type(model).__name__


def _batches(probes: Sequence[Probe], tokens_per_pass: int) -> Iterator[list[Probe]]:
    """Probes whose texts, padded to the longest, stay within `tokens_per_pass`; one at least."""
    batch: list[Probe] = []
    for probe in probes:
        longest = max(len(one.prompt_ids) + len(one.trajectory_ids) for one in [*batch, probe])
        if batch and longest * (len(batch) + 1) > tokens_per_pass:
            yield batch
            batch = []
        batch.append(probe)
    yield batch


def _by_prefix(model: Any, probe: Probe) -> Tensor:
    """A forward pass for each prefix: `(N, A)`."""
    length, rows = len(probe.answer_ids), []
    for t in probe.positions.tolist():
        prefix = torch.cat([probe.prompt_ids, probe.trajectory_ids[:t], probe.stub_ids])
        ids = torch.cat([prefix, probe.answer_ids[:-1]])[None].to(model.device)
        rows.append(_nll(model(input_ids=ids, logits_to_keep=length).logits[0], probe.answer_ids))
    return torch.stack(rows)


def _packed(model: Any, probes: Sequence[Probe]) -> list[Tensor]:
    """One pass over all texts, then blocks from the longest prefixes down: `(N, A)` for each probe."""
    blocks = [_Blocks(probe) for probe in probes]
    width, start = max(one.width for one in blocks), min(one.start for one in blocks)
    count, texts = max(len(one.ends) for one in blocks), pad_sequence([one.text for one in blocks], batch_first=True)
    passed = DynamicCache()
    # What pads a text comes after it and is seen by none of its tokens.
    model(input_ids=texts.to(model.device), past_key_values=passed, logits_to_keep=1)
    entries = len(blocks) * max(width * texts.shape[1], (width - start) * model.config.get_text_config().vocab_size)
    tokens = _BLOCK_TOKENS if model.device.type == "cpu" else _BLOCK_TOKENS_GPU
    size = max(1, min(tokens // (width * len(blocks)), _ENTRIES_PER_PASS // entries, count))
    cache = PrefixCache(passed, room=size * width)
    rows: list[list[Tensor]] = [[] for _ in blocks]
    for first in range(0, count, size):
        places = range(first, min(first + size, count))
        ends = torch.stack([one.take(places) for one in blocks])
        ids = torch.stack([one.ids(of_one, width) for one, of_one in zip(blocks, ends, strict=True)])
        within = torch.arange(width).repeat(len(places))
        cache.keep(int(ends.max()))
        logits = model(
            input_ids=ids.to(model.device),
            past_key_values=cache,
            position_ids=(ends.repeat_interleave(width, dim=1) + within).to(model.device),
            attention_mask=_masks(model, ends.to(model.device), width),
            logits_to_keep=(within >= start).nonzero()[:, 0].to(model.device),
        ).logits.unflatten(1, (len(places), width - start))
        for one, of_one, parts in zip(blocks, logits, rows, strict=True):
            parts.append(_nll(of_one[:, one.start - start : one.width - start], one.probe.answer_ids))
    return [one.in_order(torch.cat(parts)) for one, parts in zip(blocks, rows, strict=True)]


class _Blocks:
    """The stub and the answer after every prefix of one trajectory, the longest first.

    A block is what is read before the last token of the answer: stub and answer[:-1]. Without a stub it begins with
    the last token of the prefix, which finds the answer's first one.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe, self.text = probe, probe.text
        self.start = max(len(probe.stub_ids), 1) - 1  # in a block, the token that finds the answer's first one
        self.width = self.start + len(probe.answer_ids)
        self.order = probe.positions.argsort(descending=True)
        self.ends = len(probe.prompt_ids) + probe.positions[self.order] - int(not len(probe.stub_ids))

    def take(self, places: range) -> Tensor:
        """How many tokens of the text each of some blocks sees, `(C,)`; beyond the last block, the last again."""
        return self.ends[torch.tensor(places).clamp(max=len(self.ends) - 1)]

    def ids(self, ends: Tensor, width: int) -> Tensor:
        """The tokens of blocks, `(C * width,)`, each padded at its end, where none of its tokens sees it."""
        stub, answer = self.probe.stub_ids, self.probe.answer_ids[:-1]
        head = stub.expand(len(ends), -1) if len(stub) else self.text[ends][:, None]
        blocks = torch.cat([head, answer.expand(len(ends), -1)], dim=1)
        return functional.pad(blocks, (0, width - self.width)).flatten()

    def in_order(self, rows: Tensor) -> Tensor:
        """Rows of the blocks as the rows of `probe.positions`."""
        return rows[: len(self.ends)][self.order.argsort()]


def _masks(model: Any, ends: Tensor, width: int) -> Any:
    """What tokens of blocks see: of the text the first `ends` `(B, C)`, less what a window has passed, and their block.

    Returns:
        `(B, 1, C * width, text + C * width)`, as the attention of the model takes it; where its layers differ, by kind.
    """
    config, length = model.config.get_text_config(), int(ends.max())
    within = torch.arange(width, device=ends.device).repeat(ends.shape[1])
    block = torch.arange(ends.shape[1], device=ends.device).repeat_interleave(width)
    ahead = within[:, None] - within  # tokens from key to query, where both are in a block
    inside = (block[:, None] == block) & (ahead >= 0)
    seen, key = ends.repeat_interleave(width, dim=1)[:, :, None], torch.arange(length, device=ends.device)
    masks = {}
    for kind in set(_layer_types(config)):
        outside, near = key < seen, inside
        if kind == "sliding_attention":
            outside = outside & (seen + within[:, None] - key < config.sliding_window)
            near = inside & (ahead < config.sliding_window)
        mask = torch.cat([outside, near.expand(len(ends), -1, -1)], dim=2)[:, None]
        if config._attn_implementation == "eager":  # it adds its mask
            mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(model.dtype).min
            )
        masks[kind] = mask
    return masks if len(masks) > 1 else mask


def _nll(logits: Tensor, answer_ids: Tensor) -> Tensor:
    """-log p of the answer's tokens `(A,)` under `logits` `(..., A, V)`: `(..., A)`, float32 on the CPU."""
    wanted = answer_ids.to(logits.device).expand(logits.shape[:-1])[..., None]
    logits = logits.float()
    return (logits.logsumexp(dim=-1) - logits.gather(-1, wanted)[..., 0]).cpu()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without gradients and dropout; the mode is left as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
