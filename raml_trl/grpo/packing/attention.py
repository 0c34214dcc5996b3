"""Attention over a packed row: each branch attends to the prefix of its group and to itself.

A prefix is a prompt without its last token. A branch is this token followed by one completion without its last token.

There are three backends. `sdpa` calls torch's attention once for every prefix and every branch, and works everywhere.
`flex` compiles one kernel that skips blocks in which no token attends to another; it needs a GPU. `flash` makes one
call of flash attention for sequences of different lengths, with the keys of a prefix copied before those of each of its
branches.

`register` adds an attention function to transformers. In calls without a packed row, whose mask is not an encoded
`Layout`, this function calls the one that the model used before. The model must use it until training ends: gradient
checkpointing calls it again during the backward pass.

Shapes: T tokens in the packed row; H attention heads of width D; keys and values may have fewer heads.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv

from raml_trl.grpo.packing.gpu_attention import attend_flex, attend_varlen
from raml_trl.grpo.packing.layout import Layout, is_layout

Backend = Literal["sdpa", "flex", "flash"]
_FLASH_TYPES = (torch.bfloat16, torch.float16)
# Arguments of attention functions that change the scores, or the tokens that a token attends to.
_NOT_SUPPORTED = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")


class Attend(Protocol):
    """Computes attention `(1, H, T, D)` over a packed row from query, key and value `(1, H, T, D)`.

    The row holds groups: a prompt (the prefix), and its completions (the branches). `layout` says where they are. A
    token attends to itself, and to earlier tokens of its branch and of the prefix of its group. If `window` is not
    None, it attends only to the last `window` positions, itself included. `scale` is the factor of the products of
    query and key; None is 1 / sqrt(D). T is the number of tokens, H that of heads, and D the width of a head.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scale: float | None, window: int | None
    ) -> Tensor: ...


def register(backend: Backend, ordinary: str) -> str:
    """Add an attention function for packed rows to transformers, and return the name under which it is added.

    Args:
        backend: name of the backend that computes attention over packed rows.
        ordinary: name of the attention function for all other calls.
    """
    name = f"raml_{'varlen' if backend == 'flash' else backend}+{ordinary}"  # "flash" in a name changes masks
    function = partial(attention_forward, attend=_ATTEND[backend], ordinary=AttentionInterface()[ordinary])
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, AttentionMaskInterface()[ordinary])
    return name


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the fastest backend that works on `device` for queries and keys of type `dtype`."""
    order: tuple[Backend, ...] = ("flash", "flex", "sdpa")
    return next(backend for backend in order if find_backend_obstacle(backend, device, dtype) is None)


def find_backend_obstacle(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason why a backend does not work on `device` for queries and keys of type `dtype`; None if it does.

    The reason is worded to follow the word "because".
    """
    if backend != "sdpa" and device.type != "cuda":
        return f"{backend} attention needs a GPU with CUDA"
    if backend == "flash" and find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    if backend == "flash" and dtype not in _FLASH_TYPES:
        return f"flash attention does not support {dtype}"
    return None


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    attend: Attend,
    ordinary: Callable[..., tuple[Tensor, Any]],
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Compute attention over a packed row in one layer of a transformers model; return `(1, T, H, D)` and None.

    T is the number of tokens in the packed row, H that of heads, and D the width of a head. The function `attend`
    computes the attention. If the mask is not an encoded `Layout`, there is no packed row: the function `ordinary` is
    called instead, and its result is returned.

    Raises:
        ValueError: if the layer changes attention in an unsupported way, or does not pass on its sliding window.
    """
    if not is_layout(attention_mask):
        return ordinary(module, query, key, value, attention_mask, *args, **kwargs)
    window = kwargs.get("sliding_window")
    for name in _NOT_SUPPORTED:
        if kwargs.get(name) is not None:
            raise ValueError(f"attention over packed rows does not support {name!r} of {type(module).__name__}")
    if hasattr(module, "config") and (window is not None) != _has_window(module):
        raise ValueError(
            f"{type(module).__name__} has a sliding window in its config or in its attention, but not both"
        )
    repeats = query.size(1) // key.size(1)
    output = attend(
        query,
        repeat_kv(key, repeats),
        repeat_kv(value, repeats),
        Layout.decode(attention_mask),
        scale=kwargs.get("scaling"),
        window=window,
    )
    return output.transpose(1, 2).contiguous(), None


def _has_window(module: nn.Module) -> bool:
    """Return whether the config of a model gives one of its layers a sliding window.

    Some models apply it only in their mask (Qwen2-MoE), so their layers do not pass it to the attention function.
    """
    config, index = module.config, getattr(module, "layer_idx", None)
    types = getattr(config, "layer_types", None)
    if types is not None and index is not None:
        return bool(types[index] == "sliding_attention")
    return getattr(config, "sliding_window", None) is not None


def attend_sdpa(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scale: float | None, window: int | None
) -> Tensor:
    """Compute the attention that `Attend` describes, by one call of torch's attention per prefix and per branch."""

    def attention(queries: slice, keys: list[slice], mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            query[:, :, queries],
            torch.cat([key[:, :, part] for part in keys], dim=2) if len(keys) > 1 else key[:, :, keys[0]],
            torch.cat([value[:, :, part] for part in keys], dim=2) if len(keys) > 1 else value[:, :, keys[0]],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
        )

    def parts() -> Iterator[Tensor]:
        for group in layout.groups:
            prefix = slice(group.start, group.branch_start)
            mask = _causal_mask(max(group.branches), group.prefix, window, query.device)
            if group.prefix:
                needs_mask = window is not None and window < group.prefix
                own = _causal_mask(group.prefix, 0, window, query.device) if needs_mask else None
                yield attention(prefix, [prefix], own)
            for branch in group.branch_slices:
                size = branch.stop - branch.start
                keys = [prefix, branch] if group.prefix else [branch]
                yield attention(branch, keys, mask[:size, : group.prefix + size])

    return torch.cat(list(parts()), dim=2)


def _causal_mask(queries: int, before: int, window: int | None, device: torch.device) -> Tensor:
    """Return a mask `(queries, before + queries)` for queries that follow `before` keys; true where they attend."""
    mask = torch.ones(queries, before + queries, dtype=torch.bool, device=device).tril(before)
    return mask if window is None else mask.triu(before - window + 1)


_ATTEND: dict[Backend, Attend] = {"sdpa": attend_sdpa, "flex": attend_flex, "flash": attend_varlen}
