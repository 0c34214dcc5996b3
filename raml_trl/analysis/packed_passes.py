"""Computes the likelihood of an answer after many prefixes of a trajectory in a few forward passes.

The first pass runs over prompt and trajectory and keeps their keys and values in a cache. The following passes run over
blocks. A block holds the tokens of the stub (the text that introduces the answer) and of the answer, and there is one
block for each prefix. A block attends to its prefix and to itself but not to other blocks, and its position ids
continue from the end of its prefix. For a trajectory of T tokens, a stub of S and an answer of A, all passes together
process O(T (S + A)) tokens; a separate pass for each prefix would process O(T^2).
"""

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from raml_trl.analysis.probes import Probe, token_nll

_ENTRIES_PER_PASS = 2**24
"""Limit on the number of entries in the attention mask of a pass over blocks, and also in its logits."""
_BLOCK_TOKENS = 256
"""Tokens in a pass over blocks on a CPU. Larger and smaller numbers are both slower."""
_BLOCK_TOKENS_GPU = 4096
"""Tokens in a pass over blocks on a GPU."""
_GROWING_ROPE = ("dynamic", "longrope")  # RoPE whose angles depend on the length of the text
_LAYER_TYPES = ("full_attention", "sliding_attention")


def unpackable_reason(model: PreTrainedModel) -> str | None:
    """Return the reason why `packed_nll` does not work for a model; None if the config of the model shows no reason.

    `packed_nll` needs a model that can continue a cached text after any of its tokens. The reason is worded to follow
    the word "because".
    """
    config = model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        return "its recurrent state cannot be cut at a prefix"
    if "position_ids" not in inspect.signature(model.forward).parameters or getattr(config, "alibi", False):
        return "it takes no position_ids"
    others = set(_layer_types(config)) - set(_LAYER_TYPES)
    if others:
        return f"it has {', '.join(sorted(others))} layers"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attn_implementation {config._attn_implementation} takes no custom mask; load the model with sdpa"
    rope = _rope_types(getattr(config, "rope_parameters", None) or {})
    if rope & set(_GROWING_ROPE):
        return f"the angles of its {', '.join(sorted(rope))} RoPE depend on the length of the text"
    return None


def packed_nll(model: PreTrainedModel, probes: Sequence[Probe]) -> list[Tensor]:
    """Return for each probe one tensor `(N, A)`: -log p of its A answer tokens after each of its N prefixes.

    The first pass runs over prompt and trajectory of all probes, and the following passes run over their blocks. A
    block holds the tokens of stub and answer that follow one prefix. Blocks of longer prefixes come first, because each
    pass overwrites the cache beyond the prefixes that it needs. In the comments, B is the number of probes, and C is
    the number of blocks of each probe in a pass.
    """
    blocks = [_Blocks(probe) for probe in probes]
    width, start = max(block.width for block in blocks), min(block.start for block in blocks)
    count = max(len(block.ends) for block in blocks)
    texts = pad_sequence([block.text for block in blocks], batch_first=True)
    passed = DynamicCache()
    # Padding follows the text, so under causal attention no token of the text attends to it.
    model(input_ids=texts.to(model.device), past_key_values=passed, logits_to_keep=1)
    entries = len(blocks) * max(width * texts.shape[1], (width - start) * model.config.get_text_config().vocab_size)
    tokens = _BLOCK_TOKENS if model.device.type == "cpu" else _BLOCK_TOKENS_GPU
    size = max(1, min(tokens // (width * len(blocks)), _ENTRIES_PER_PASS // entries, count))
    cache = PrefixCache(passed, room=size * width)
    rows: list[list[Tensor]] = [[] for _ in blocks]
    for first in range(0, count, size):
        places = range(first, min(first + size, count))
        ends = torch.stack([block.take(places) for block in blocks])  # (B, C)
        ids = torch.stack([block.ids(own, width) for block, own in zip(blocks, ends, strict=True)])  # (B, C * width)
        within = torch.arange(width).repeat(len(places))  # (C * width,)
        cache.keep(int(ends.max()))
        logits = model(
            input_ids=ids.to(model.device),
            past_key_values=cache,
            position_ids=(ends.repeat_interleave(width, dim=1) + within).to(model.device),
            attention_mask=_masks(model, ends.to(model.device), width),
            logits_to_keep=(within >= start).nonzero()[:, 0].to(model.device),
        ).logits.unflatten(1, (len(places), width - start))
        for block, own, parts in zip(blocks, logits, rows, strict=True):
            parts.append(token_nll(own[:, block.start - start : block.width - start], block.probe.answer_ids))
    return [block.in_order(torch.cat(parts)) for block, parts in zip(blocks, rows, strict=True)]


class PrefixCache(Cache):
    """Cache of the keys and values of texts, from which a later pass can continue after any of their tokens.

    `keep` sets how many tokens of the texts the next pass sees. The pass then writes its own keys and values over the
    cached ones that follow these tokens. This saves a copy of the cache, but the overwritten values are lost. To
    continue from several prefixes of a text, therefore start with the longest.
    """

    def __init__(self, passed: DynamicCache, room: int) -> None:
        """Take over the keys and values of `passed`, and add space for `room` more tokens at their end."""
        self._own = [_PrefixLayer(layer, room) for layer in passed.layers]
        super().__init__(layers=list(self._own))

    def keep(self, length: int) -> None:
        """Let the next pass see the first `length` tokens of the cached texts."""
        for layer in self._own:
            layer.length = length


class _PrefixLayer(DynamicLayer):
    length = 0

    def __init__(self, passed: object, room: int) -> None:
        super().__init__()
        assert isinstance(passed, CacheLayerMixin)
        assert passed.keys is not None
        assert passed.values is not None
        self.keys = functional.pad(passed.keys, (0, 0, 0, room))
        self.values = functional.pad(passed.values, (0, 0, 0, room))
        passed.keys = passed.values = None  # free the original: only the padded copy is used
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_named: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class _Blocks:
    """The blocks of one probe: one for each prefix of its trajectory, longest prefix first.

    A block holds the tokens that the model reads between the prefix and the last answer token: stub and answer[:-1].
    Without a stub, the block starts with the last token of the prefix, whose logits predict the first answer token.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe, self.text = probe, probe.text
        self.start = max(len(probe.stub_ids), 1) - 1  # place in the block that predicts the first answer token
        self.width = self.start + len(probe.answer_ids)
        self.order = probe.positions.argsort(descending=True)
        self.ends = len(probe.prompt_ids) + probe.positions[self.order] - int(not len(probe.stub_ids))

    def take(self, places: range) -> Tensor:
        """Return how many tokens of the text precede each of the blocks with the indices `places`, `(C,)`.

        The text is prompt and trajectory, and C is the length of `places`. An index beyond the last block stands for
        the last block.
        """
        return self.ends[torch.tensor(places).clamp(max=len(self.ends) - 1)]

    def ids(self, ends: Tensor, width: int) -> Tensor:
        """Return the tokens of C blocks, `(C * width,)`.

        `ends` `(C,)` says how many tokens of prompt and trajectory precede each block. Each block is padded to
        `width` tokens at its end. No token of the block attends to the padding.
        """
        stub, answer = self.probe.stub_ids, self.probe.answer_ids[:-1]
        head = stub.expand(len(ends), -1) if len(stub) else self.text[ends][:, None]
        blocks = torch.cat([head, answer.expand(len(ends), -1)], dim=1)
        return functional.pad(blocks, (0, width - self.width)).flatten()

    def in_order(self, rows: Tensor) -> Tensor:
        """Sort results, one row per block, into the order of `probe.positions`.

        Args:
            rows: the results of the blocks, that of the longest prefix first. Rows after those of the blocks are left
                out: they belong to copies of the last block, which filled the last pass.
        """
        return rows[: len(self.ends)][self.order.argsort()]


def _masks(model: PreTrainedModel, ends: Tensor, width: int) -> Tensor | dict[str, Tensor]:
    """Build the attention masks of a pass over blocks.

    A token attends to the prefix of its block, whose length is in `ends` `(B, C)`, and to the tokens of its block up to
    itself. In a layer with a sliding window, it attends to these tokens only as far as the window reaches.

    Returns:
        The mask `(B, 1, C * width, longest prefix + C * width)`, boolean for sdpa and additive for eager. If the
        layers have different types, a dict with the mask of each type.
    """
    config, length = model.config.get_text_config(), int(ends.max())
    within = torch.arange(width, device=ends.device).repeat(ends.shape[1])
    block = torch.arange(ends.shape[1], device=ends.device).repeat_interleave(width)
    ahead = within[:, None] - within  # distance from key to query inside a block
    inside = (block[:, None] == block) & (ahead >= 0)
    seen, key = ends.repeat_interleave(width, dim=1)[:, :, None], torch.arange(length, device=ends.device)
    masks = {}
    for kind in set(_layer_types(config)):
        outside, near = key < seen, inside
        if kind == "sliding_attention":
            outside = outside & (seen + within[:, None] - key < config.sliding_window)
            near = inside & (ahead < config.sliding_window)
        mask = torch.cat([outside, near.expand(len(ends), -1, -1)], dim=2)[:, None]
        if config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(model.dtype).min
            )
        masks[kind] = mask
    return masks if len(masks) > 1 else mask


def _layer_types(config: PreTrainedConfig) -> list[str]:
    """Return the attention type of every layer, or a single type if it is the same for all layers."""
    window = getattr(config, "sliding_window", None)
    return getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]


def _rope_types(parameters: Mapping[str, object]) -> set[str]:
    """Return the RoPE types in the RoPE parameters of a config, which may differ between layer types."""
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    return {str(rope.get("rope_type", "default")) for rope in nested or [parameters]}
