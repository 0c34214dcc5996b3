"""Computes the loss of a model on the answers of many questions: the height of a loss landscape at one point."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from raml_trl.analysis.probes import TOKENS_PER_PASS, evaluating, token_nll

Floats = NDArray[np.float64]

_LOGITS_PER_PASS = 2**27
"""Limit on the number of logits that a forward pass returns."""


class AnswerLosses:
    """Callable that returns the loss of each of Q questions under the current weights of the model, `(Q,)`.

    The loss of a question is the mean of -log p over the tokens of its answer, in nats.

    Args:
        model: a causal language model of transformers.
        prefixes: for each question `(P,)`, all tokens before its answer.
        answers: for each question `(A,)`, the tokens of its answer.
        tokens_per_pass: limit on the tokens of a forward pass, padding included; a single text may have more.

    Raises:
        ValueError: if there is no question, or a prefix or an answer is empty.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: Sequence[Tensor],
        answers: Sequence[Tensor],
        *,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> None:
        if not prefixes or not all(map(len, prefixes)) or not all(map(len, answers)):
            raise ValueError("pass at least one question, each with a prefix and an answer of one token or more")
        self._model, self._count = model, len(prefixes)
        texts = [torch.cat([prefix, answer[:-1]]) for prefix, answer in zip(prefixes, answers, strict=True)]
        self.tokens = sum(map(len, texts))
        vocabulary = model.config.get_text_config().vocab_size
        order = sorted(range(len(texts)), key=lambda question: (len(texts[question]), len(prefixes[question])))
        batch: list[int] = []
        places: set[int] = set()
        self._batches = []
        for question in order:  # sorted by length, so each text is the longest so far
            own = range(len(prefixes[question]) - 1, len(texts[question]))
            rows = len(batch) + 1
            too_many = rows * len(texts[question]) > tokens_per_pass
            if batch and (too_many or rows * len(places.union(own)) * vocabulary > _LOGITS_PER_PASS):
                self._batches.append(_Batch(batch, texts, answers, model.device))
                batch, places = [], set()
            batch.append(question)
            places.update(own)
        self._batches.append(_Batch(batch, texts, answers, model.device))

    def __call__(self) -> Floats:
        """Return the mean of -log p over the answer tokens of each of Q questions, in nats, `(Q,)`."""
        losses = np.empty(self._count)
        with evaluating(self._model):
            for batch in self._batches:
                losses[batch.questions] = batch.losses(self._model)
        return losses


class _Batch:
    """Texts of one forward pass. Padding follows a text, so under causal attention no token of a text attends to it."""

    def __init__(
        self, questions: Sequence[int], texts: Sequence[Tensor], answers: Sequence[Tensor], device: torch.device
    ) -> None:
        self.questions = list(questions)
        own_texts = [texts[question] for question in questions]
        own_answers = [answers[question] for question in questions]
        self._ids = pad_sequence(own_texts, batch_first=True).to(device)
        self._lengths = [len(answer) for answer in own_answers]
        # The logits at place len(text) - 1 predict the last answer token; the logits before predict the other ones.
        places = [
            torch.arange(len(text) - length, len(text)) for text, length in zip(own_texts, self._lengths, strict=True)
        ]
        kept, columns = torch.cat(places).unique(return_inverse=True)
        self._kept, self._columns = kept.to(device), columns.to(device)
        rows = [row for row, length in enumerate(self._lengths) for _ in range(length)]
        self._rows = torch.tensor(rows, device=device)
        self._targets = torch.cat(own_answers)

    def losses(self, model: PreTrainedModel) -> Floats:
        logits = model(input_ids=self._ids, logits_to_keep=self._kept, use_cache=False).logits
        nll = token_nll(logits[self._rows, self._columns], self._targets)  # one row per answer token of the batch
        return np.array([answer.double().mean().item() for answer in nll.split(self._lengths)])
