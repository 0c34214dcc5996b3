"""Trims the padding of batches, and joins batches that are padded to different widths.

TRL pads all prompts of a batch on the left, to P tokens, and all completions on the right, to C tokens. A column of a
batch is padded like the prompts `(R, P, ...)`, like the completions `(R, C, ...)` or like both together
`(R, P + C, ...)`, or it is not padded. For TRL's columns, the name decides. A column that a subclass adds has an
unknown name, and its width may equal C by chance; such a column is never cut. Instead, prompts or completions keep
their width if the column may be padded like them, so that it stays aligned with the masks.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from raml_trl.grpo.images import PIXEL_COLUMNS, TOKEN_TYPES, fill_images
from raml_trl.grpo.rows import Batch
from raml_trl.runtime.errors import InputError


class _Widths(NamedTuple):
    """A number for the prompts and one for the completions: widths in tokens, or the factors of P and C in a width."""

    prompt: int
    completion: int


# Each width that a padded column can have, as factors of P and C, with the columns of TRL that have this width.
_PARTS: dict[_Widths, set[str]] = {
    _Widths(1, 0): {"prompt_ids", "prompt_mask"},
    _Widths(0, 1): {
        *("completion_ids", "completion_mask", "tool_mask", "advantages", "importance_sampling_ratio"),
        *("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps"),
    },
    _Widths(1, 1): {*TOKEN_TYPES},
}
_KNOWN = set(chain.from_iterable(_PARTS.values()))


def trim_padding(batch: Batch, *, multiple: int | None = None) -> Batch:
    """Return the batch with prompts and completions trimmed to the longest of this batch.

    Prompts are padded on the left, and completions on the right.

    Args:
        batch: a batch of R rows, with `prompt_mask` `(R, P)` and `completion_mask` `(R, C)`: P and C are the widths of
            prompts and completions in tokens.
        multiple: round widths up to a multiple of this (TRL's `pad_to_multiple_of`).
    """
    widths = _widths(batch)
    prompt = widths.prompt - _kept_width(batch["prompt_mask"].flip(1), multiple)
    completion = widths.completion - _kept_width(batch["completion_mask"], multiple)
    for name, value in batch.items():
        for part in _parts(name, value, widths) if name not in _KNOWN else ():
            # RaML: this column of a subclass may have an entry per token, so what it may belong to is not trimmed.
            prompt, completion = prompt * (1 - part.prompt), completion * (1 - part.completion)
    trimmed = dict(batch)
    for name, value in batch.items():
        for part in _parts(name, value, widths) if name in _KNOWN else ():
            trimmed[name] = value[:, part.prompt * prompt : value.size(1) - part.completion * completion]
    return trimmed


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Concatenate the rows of batches; take values that hold for all rows from the first batch.

    The batches are TRL's micro-batches of one generation, or come from several processes. In the second case they may
    be padded to different widths, and some may have images while others have none.

    Raises:
        InputError: if a column cannot be joined, because some batches lack it or its rows have different shapes.
    """
    batches = fill_images(batches)
    names = dict.fromkeys(chain.from_iterable(batches))
    return {name: _join(name, [batch.get(name) for batch in batches], list(map(_widths, batches))) for name in names}


def _join(name: str, values: list[Any], widths: list[_Widths]) -> Any:
    if all(value is None or (isinstance(value, Tensor) and value.ndim == 0) for value in values):
        return values[0]
    if any(value is None for value in values):
        raise InputError(f"the batch has {name!r} on some processes only: add it on every process")
    if isinstance(values[0], list):
        entries = list(chain.from_iterable(values))
        return _pad_alike(entries) if name in PIXEL_COLUMNS else entries
    if len({value.shape[1:] for value in values}) > 1:
        values = _widen(name, values, widths)
    return torch.cat(values)


def _widen(name: str, values: list[Tensor], widths: list[_Widths]) -> list[Tensor]:
    """Pad the columns of several batches to the widest prompts and completions of the batches."""
    parts = set.intersection(*map(_parts, [name] * len(values), values, widths))
    if len(parts) != 1 or len({value.shape[2:] for value in values}) > 1:
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        raise InputError(
            f"{name!r} has shapes {shapes} on different processes, and is not padded like prompts or completions: "
            "rows can move between processes only if it has the same shape on all of them"
        )
    [part] = parts
    widest = _Widths(*map(max, zip(*widths, strict=True)))
    return [
        pad(
            value,
            (
                *[0, 0] * (value.ndim - 2),
                part.prompt * (widest.prompt - width.prompt),
                part.completion * (widest.completion - width.completion),
            ),
        )
        for value, width in zip(values, widths, strict=True)
    ]


def _parts(name: str, value: Any, widths: _Widths) -> set[_Widths]:
    """Return the keys of `_PARTS` that fit the width of a column and, if the column is TRL's, its name."""
    if not isinstance(value, Tensor) or value.ndim < 2:
        return set()
    return {
        part
        for part, names in _PARTS.items()
        if (name in names or name not in _KNOWN)
        and value.size(1) == part.prompt * widths.prompt + part.completion * widths.completion
    }


def _widths(batch: Batch) -> _Widths:
    return _Widths(batch["prompt_mask"].size(1), batch["completion_mask"].size(1))


def _kept_width(mask: Tensor, multiple: int | None) -> int:
    """Return the number of columns to keep: up to the last one that any row uses, rounded up to `multiple`."""
    used = mask.any(dim=0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    if multiple is not None:
        width = -(-width // multiple) * multiple
    return min(width, mask.size(1))


def _pad_alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Pad tensors at the end of all dimensions but the first, as processors pad images of different sizes."""
    sizes = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    missing = ([size - length for size, length in zip(sizes, tensor.shape[1:], strict=True)] for tensor in tensors)
    return [
        pad(tensor, [length for size in reversed(lengths) for length in (0, size)])
        for tensor, lengths in zip(tensors, missing, strict=True)
    ]
