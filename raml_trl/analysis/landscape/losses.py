"""How likely a model finds the answers of many questions as it stands: the loss that a landscape is made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Floats = NDArray[np.float64]

TOKENS_PER_PASS = 16_384
_LOGITS_PER_PASS = 2**27


class AnswerLosses:
    """The loss of every question under the weights that the model has when this is called.

    Args:
        model: a causal language model of transformers.
        prefixes: `(P,)` for each question, all that comes before its answer.
        answers: `(A,)` for each question.
        tokens_per_pass: of a forward pass, padding included.

    Raises:
        ValueError: if there is no question, or a prefix or an answer is empty.
    """

    def __init__(
        self,
        model: Any,
        prefixes: Sequence[Tensor],
        answers: Sequence[Tensor],
        *,
        tokens_per_pass: int = TOKENS_PER_PASS,
    ) -> None:
        if not prefixes or not all(map(len, prefixes)) or not all(map(len, answers)):
            raise ValueError("there must be a question, and each needs a prefix and an answer of one token at least")
        self._model, self._count = model, len(prefixes)
        texts = [torch.cat([prefix, answer[:-1]]) for prefix, answer in zip(prefixes, answers, strict=True)]
        self.tokens = sum(map(len, texts))
        vocabulary = model.config.get_text_config().vocab_size
        order = sorted(range(len(texts)), key=lambda question: (len(texts[question]), len(prefixes[question])))
        batch: list[int] = []
        places: set[int] = set()
        self._batches = []
        for question in order:  # by length: the next is the longest so far
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
        """Nats, `(Q,)`; the mode of the model is left as it was."""
        losses = np.empty(self._count)
        training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                for batch in self._batches:
                    losses[batch.questions] = batch.losses(self._model)
        finally:
            self._model.train(training)
        return losses


class _Batch:
    """Texts that go through the model together, padded where none of their tokens looks."""

    def __init__(self, questions: Sequence[int], texts: Sequence[Tensor], answers: Sequence[Tensor], device: Any):
        self.questions = list(questions)
        own_texts, own_answers = [texts[one] for one in questions], [answers[one] for one in questions]
        self._ids = pad_sequence(own_texts, batch_first=True).to(device)
        self._lengths = [len(answer) for answer in own_answers]
        # The token at len(text) - 1 finds the last of the answer, and so on backwards.
        places = [
            torch.arange(len(text) - length, len(text)) for text, length in zip(own_texts, self._lengths, strict=True)
        ]
        kept, columns = torch.cat(places).unique(return_inverse=True)
        self._kept, self._columns = kept.to(device), columns.to(device)
        rows = [row for row, length in enumerate(self._lengths) for _ in range(length)]
        self._rows = torch.tensor(rows, device=device)
        self._wanted = torch.cat(own_answers).to(device)

    def losses(self, model: Any) -> Floats:
        logits = model(input_ids=self._ids, logits_to_keep=self._kept, use_cache=False).logits
        logits = logits[self._rows, self._columns].float()  # (tokens of all answers, V)
        nll = logits.logsumexp(dim=-1) - logits.gather(-1, self._wanted[:, None])[:, 0]
        return np.array([one.double().mean().item() for one in nll.cpu().split(self._lengths)])
