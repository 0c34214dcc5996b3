r"""Answers that are forced: the box is opened for the model, and it writes greedily until the box is closed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from raml_trl.grading.boxes import box_end, extract_box


@dataclass(frozen=True)
class OpenBox:
    r"""A text that ends in an open box: `ids` `(N,)` are all of it, `stub` its end, from `\boxed{` or before."""

    ids: Tensor
    stub: str


def force_answers(
    model: Any, tokenizer: Any, boxes: Sequence[OpenBox], *, max_tokens: int, batch_size: int, tokens_per_pass: int
) -> list[str | None]:
    """What the model writes into each box, in order, decoded greedily; None where it has not closed it in time.

    Texts that are alike are continued once.

    Args:
        max_tokens: of an answer, the brace that closes it included.
        batch_size: texts that are continued at once, at most.
        tokens_per_pass: of all of these together, padding included; one text may have more.
    """
    keys = [(tuple(box.ids.tolist()), box.stub) for box in boxes]
    unique = sorted(dict.fromkeys(keys), key=lambda key: len(key[0]), reverse=True)
    written: dict[Any, str | None] = {}
    for batch in _batches(unique, batch_size, tokens_per_pass):
        texts = _continue(model, tokenizer, batch, max_tokens)
        for (ids, stub), text in zip(batch, texts, strict=True):
            end = box_end(stub, text)
            written[ids, stub] = None if end is None else extract_box(stub + text[:end])
    return [written[key] for key in keys]


_Key = tuple[tuple[int, ...], str]


def _batches(keys: Sequence[_Key], batch_size: int, tokens_per_pass: int) -> Iterator[list[_Key]]:
    """From the longest text down: of a batch, the first is the longest."""
    start = 0
    while start < len(keys):
        size = max(1, min(batch_size, tokens_per_pass // len(keys[start][0])))
        yield list(keys[start : start + size])
        start += size


def _continue(model: Any, tokenizer: Any, batch: Sequence[_Key], max_tokens: int) -> list[str]:
    inputs = tokenizer.pad({"input_ids": [list(ids) for ids, _ in batch]}, padding_side="left", return_tensors="pt")
    start, stubs = inputs["input_ids"].shape[1], [stub for _, stub in batch]
    closed = StoppingCriteriaList([_BoxClosed(tokenizer, stubs, start)])
    with torch.no_grad():
        output = model.generate(
            **inputs.to(model.device),
            max_new_tokens=max_tokens,
            stopping_criteria=closed,
            **{"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        )
    return _decode(tokenizer, output[:, start:])


def _decode(tokenizer: Any, ids: Tensor) -> list[str]:
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _BoxClosed(StoppingCriteria):
    """Ends each text of a batch with its box."""

    def __init__(self, tokenizer: Any, stubs: Sequence[str], start: int) -> None:
        self._tokenizer, self._stubs, self._start = tokenizer, stubs, start

    def __call__(self, input_ids: Any, scores: Any, **_named: Any) -> Any:
        texts = _decode(self._tokenizer, input_ids[:, self._start :])
        closed = [box_end(stub, text) is not None for stub, text in zip(self._stubs, texts, strict=True)]
        return torch.tensor(closed, device=input_ids.device)
