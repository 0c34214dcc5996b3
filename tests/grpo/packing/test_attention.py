"""All attention backends equal a softmax over a dense mask, which is built token by token from their definition."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AttentionInterface

from raml_trl.grpo.packing.attention import Attend, attend_sdpa, attention_forward
from raml_trl.grpo.packing.gpu_attention import attend_flex, attend_varlen
from raml_trl.grpo.packing.layout import Layout

Groups = list[tuple[int, list[int]]]
"""Tokens in the prefix and in the branches of each group."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
HEADS, WIDTH, SCALE = 4, 8, 0.3

groups_of_tokens = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=3
)
windows = st.none() | st.integers(1, 12)  # shorter and longer than the prefix
key_heads = st.sampled_from([1, 2, 4])


def dense_mask(groups: Groups, window: int | None) -> Tensor:
    """Return `(T, T)`: whether each token attends to each other token."""
    tokens = []  # (group, branch or None for the prefix, position)
    for number, (prefix, branches) in enumerate(groups):
        tokens += [(number, None, position) for position in range(prefix)]
        for branch, size in enumerate(branches):
            tokens += [(number, branch, prefix + index) for index in range(size)]
    return torch.tensor(
        [
            [
                key[0] == query[0]
                and key[1] in (None, query[1])
                and key[2] <= query[2]
                and (window is None or query[2] - key[2] < window)
                for key in tokens
            ]
            for query in tokens
        ]
    )


def dense(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor) -> Tensor:
    """Attention `(1, T, H, D)` by a softmax over a boolean mask `(T, T)`."""
    key, value = (part.repeat_interleave(query.size(1) // part.size(1), dim=1) for part in (key, value))
    scores = (query @ key.mT * SCALE).masked_fill(~mask.to(query.device), -torch.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def packed(query: Tensor, key: Tensor, value: Tensor, *, attend: Attend, groups: Groups, window: int | None) -> Tensor:
    """Attention as a layer of a model computes it, without the attribute that saves decoding the layout."""
    layout = Layout.of([prefix for prefix, _ in groups], [branches for _, branches in groups])
    output, _ = attention_forward(
        nn.Identity(),
        query,
        key,
        value,
        layout.encode(query.device).clone(),
        attend=attend,
        ordinary=AttentionInterface()["sdpa"],
        scaling=SCALE,
        sliding_window=window,
    )
    return output


def flash_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
) -> Tensor:
    """`flash_attn_varlen_func` of flash attention 2 in torch, one sequence and one query at a time.

    With `causal`, the mask is aligned to the bottom right corner. Query i attends to the keys from
    i + seqlen_k - seqlen_q - window_size[0] to i + seqlen_k - seqlen_q + window_size[1], inclusive; -1 is no limit. See
    https://github.com/Dao-AILab/flash-attention/blob/005300258a22e5fc6be621063c3d5704e82b89d9/flash_attn/flash_attn_interface.py

    All tensors are `(tokens, heads, width)`.
    """
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    parts, left = [], window_size[0]
    assert max(stop - start for start, stop in pairwise(cu_seqlens_q.tolist())) == max_seqlen_q
    assert max(stop - start for start, stop in pairwise(cu_seqlens_k.tolist())) == max_seqlen_k
    for queries, keys in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True):
        shift = (keys[1] - keys[0]) - (queries[1] - queries[0])
        for index in range(queries[1] - queries[0]):
            last = index + shift
            first = 0 if left == -1 else max(0, last - left)
            seen = slice(keys[0] + first, keys[0] + last + 1)
            scores = torch.einsum("hd,khd->hk", q[queries[0] + index], k[seen]) * softmax_scale
            parts.append(torch.einsum("hk,khd->hd", scores.softmax(dim=-1), v[seen]))
    return torch.stack(parts)


def random_tensors(groups: Groups, heads: int, seed: int, width: int = WIDTH) -> list[Tensor]:
    """Return query, key, value and weights of the output: `(1, H, T, D)` three times, and `(1, T, H, D)`."""
    generator = torch.Generator().manual_seed(seed)
    size = sum(prefix + sum(branches) for prefix, branches in groups)
    shapes = [(1, HEADS, size, width), (1, heads, size, width), (1, heads, size, width), (1, size, HEADS, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def outputs(attention: Attention, query: Tensor, key: Tensor, value: Tensor, weights: Tensor) -> list[Tensor]:
    """Return the output of an attention function, and the gradients of query, key and value."""
    inputs = [part.clone().requires_grad_() for part in (query, key, value)]
    output = attention(*inputs)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


@settings(max_examples=60, deadline=None)
@given(groups_of_tokens, windows, key_heads, st.integers(0, 99), st.booleans())
def test_sdpa_and_flash_equal_a_dense_softmax(
    groups: Groups, window: int | None, heads: int, seed: int, flash: bool
) -> None:
    attend = partial(attend_varlen, flash=flash_reference) if flash else attend_sdpa
    tensors = random_tensors(groups, heads, seed)
    expected = outputs(partial(dense, mask=dense_mask(groups, window)), *tensors)
    found = outputs(partial(packed, attend=attend, groups=groups, window=window), *tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=15, deadline=None)
@given(groups_of_tokens, windows, key_heads, st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_equals_a_dense_softmax_without_gradient(
    groups: Groups, window: int | None, heads: int, seed: int
) -> None:
    """Without a GPU, flex attention has no backward pass, and it is not compiled."""
    query, key, value, _ = random_tensors(groups, heads, seed)
    expected = dense(query, key, value, mask=dense_mask(groups, window))
    found = packed(query, key, value, attend=attend_flex, groups=groups, window=window)
    torch.testing.assert_close(found, expected)


LARGE: Groups = [(300, [70, 130, 1]), (0, [40]), (129, [128, 257])]


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 64, 350])
@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("backend", ["sdpa", "flex", "flash"])
def test_backends_on_a_gpu_equal_a_dense_softmax(backend: str, heads: int, window: int | None) -> None:
    if backend == "flash":
        pytest.importorskip("flash_attn")
    attend: Attend = {"sdpa": attend_sdpa, "flex": attend_flex, "flash": attend_varlen}[backend]
    dtype, tolerance = (torch.bfloat16, 2e-2) if backend == "flash" else (torch.float32, 1e-4)
    tensors = [part.to("cuda", dtype) for part in random_tensors(LARGE, heads, 0, width=32)]
    expected = outputs(partial(dense, mask=dense_mask(LARGE, window)), *(part.double() for part in tensors))
    found = outputs(partial(packed, attend=attend, groups=LARGE, window=window), *tensors)
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()
