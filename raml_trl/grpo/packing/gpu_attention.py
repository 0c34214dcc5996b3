"""Attention over a packed row on GPUs: by torch's flex attention, or by flash attention.

The functions compute the attention that `attention.Attend` describes. Their masks and offsets are cached, because all
layers of a model see the same layout of the row.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad
from transformers.integrations.flex_attention import compile_friendly_flex_attention

from raml_trl.grpo.packing.layout import Layout

_KEPT = 8  # layouts, times the windows that a model uses


def attend_flex(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scale: float | None, window: int | None
) -> Tensor:
    """Compute the attention that `attention.Attend` describes, by torch's flex attention.

    On a CPU it is not compiled and has no backward pass, which is enough to test its mask.
    """
    mask = block_mask(layout, window, query.device)
    if query.device.type == "cpu":
        output: Any = flex_attention(query, key, value, block_mask=mask, scale=scale)
    else:
        output = compile_friendly_flex_attention(
            query, key, value, block_mask=mask, scale=scale, training=query.requires_grad
        )
    assert isinstance(output, Tensor)  # the log-sum-exp is not asked for
    return output


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    scale: float | None,
    window: int | None,
    flash: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Compute the attention that `attention.Attend` describes, by one call of flash attention.

    Args:
        query: for this and the next five arguments, see `attention.Attend`.
        flash: the function `flash_attn_varlen_func` of flash attention 2; None to import it.
    """
    if flash is None:
        flash = import_module("flash_attn").flash_attn_varlen_func
    sequences, width = sequences_of(layout, query.device), value.size(-1)
    value = pad(value, (0, query.size(-1) - width))  # flash attention needs values as wide as queries
    heads_last = (part[0].transpose(0, 1) for part in (query, key, value))  # each (T, H, D)
    queries, keys, values = heads_last
    output = flash(
        queries,
        keys[sequences.key_tokens],
        values[sequences.key_tokens],
        cu_seqlens_q=sequences.query_offsets,
        cu_seqlens_k=sequences.key_offsets,
        max_seqlen_q=sequences.longest_query,
        max_seqlen_k=sequences.longest_key,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    return output.transpose(0, 1)[None, ..., :width]


class Sequences(NamedTuple):
    """The prefixes and branches of a packed row as sequences with their own queries and keys, for flash attention.

    The keys of a branch are those of its prefix followed by its own.

    Attributes:
        query_offsets: `(n + 1,)`, int32: where the queries of each of the n sequences start, and where the last stop.
        key_offsets: `(n + 1,)`, int32: the same for keys.
        key_tokens: positions in the packed row of the keys of all sequences.
        longest_query: largest number of queries of a sequence.
        longest_key: largest number of keys of a sequence.
    """

    query_offsets: Tensor
    key_offsets: Tensor
    key_tokens: Tensor
    longest_query: int
    longest_key: int


@lru_cache(_KEPT)
def sequences_of(layout: Layout, device: torch.device) -> Sequences:
    """Return the sequences of a packed row, with all tensors on `device`."""
    queries: list[int] = []
    keys: list[NDArray[np.int64]] = []
    for group in layout.groups:
        prefix = np.arange(group.start, group.branch_start)
        if group.prefix:
            queries.append(group.prefix)
            keys.append(prefix)
        for branch in group.branch_slices:
            queries.append(branch.stop - branch.start)
            keys.append(np.concatenate([prefix, np.arange(branch.start, branch.stop)]))
    sizes = [len(tokens) for tokens in keys]
    return Sequences(
        _offsets(queries, device),
        _offsets(sizes, device),
        torch.from_numpy(np.concatenate(keys)).to(device),
        max(queries),
        max(sizes),
    )


def _offsets(sizes: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32, device=device)


@lru_cache(_KEPT)
def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """Return the mask of a packed row for flex attention; see `attention.Attend` for `window`."""
    group, branch = layout.encode(device)[0, 0]
    position = torch.from_numpy(layout.positions).to(device)

    def attends(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        related = (group[query] == group[key]) & ((branch[key] == 0) | (branch[key] == branch[query]))
        near = related & (key <= query)
        return near if window is None else near & (position[query] - position[key] < window)

    return create_block_mask(attends, None, None, layout.size, layout.size, device=device)
