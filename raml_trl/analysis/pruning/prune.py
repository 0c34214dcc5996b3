"""Pruning methods: functions that shorten the thinking of trajectories.

Cost for a trajectory with T tokens of thinking in S sentences:

- `none`, `no_thinking`, `budget`: nothing.
- `curve`: the losses of the answer after T prefixes, about one pass over O(T A) tokens (see `likelihood`).
- `drop_sentence`: at most S passes over T tokens for every dropped sentence, O(S^2 T) in all; `max_drops` limits it.
- `summary`: the tokens that a second model reads and writes.

`curve` and `drop_sentence` use the reference answer. They are oracles: they measure how much of a trajectory is needed,
and cannot shorten a trajectory whose answer is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.analysis.likelihood import answer_nll_each
from raml_trl.analysis.probes import Probe, make_probe
from raml_trl.analysis.pruning.config import WHOLE, Method
from raml_trl.analysis.pruning.thinking import Thinking
from raml_trl.analysis.text import first_statement, split_sentences
from raml_trl.analysis.trajectories import ANSWERING, THINKING, encode, encode_answer, opens_thinking
from raml_trl.prompts import NO_THINKING, SUMMARY, summary_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Engine, SamplingSettings


@dataclass(frozen=True)
class Pruned:
    """The shortened thinking `text` of a trajectory, and the tokens that the model reads before it answers.

    They are `prompt_ids` `(P,)`, everything before the thinking, then `ids` `(N,)`, the thinking, then `stub_ids`
    `(S,)`.
    """

    text: str
    prompt_ids: Tensor
    ids: Tensor
    stub: str
    stub_ids: Tensor
    answer_ids: Tensor

    @property
    def asked_ids(self) -> Tensor:
        """Everything before the answer, `(P + N + S,)`."""
        return torch.cat([self.prompt_ids, self.ids, self.stub_ids])


@dataclass(frozen=True)
class Tools:
    """Models and limits that the methods need."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens_per_pass: int
    max_drops: int | None = None
    summariser: Engine | None = None
    summary_settings: SamplingSettings | None = None
    max_summary_input: int = 24_576


def prune(method: Method, thinkings: Sequence[Thinking], tools: Tools, *, seed: int = 0) -> list[Pruned]:
    """Shorten each thinking with `method`. The result is in the order of `thinkings`.

    Args:
        method: the method.
        thinkings: the thinking of each trajectory.
        tools: models and limits.
        seed: seed for sampling summaries.
    """
    if method.kind == WHOLE:
        return [keep_first(thinking, len(thinking.ids)) for thinking in thinkings]
    if method.kind == "no_thinking":
        return [leave_out(thinking, tools.tokenizer, method.setting) for thinking in thinkings]
    if method.kind == "budget":
        return [keep_first(thinking, method.budget(len(thinking.ids))) for thinking in thinkings]
    if method.kind == "curve":
        curves = losses_along(tools.model, thinkings, tokens_per_pass=tools.tokens_per_pass)
        return [
            keep_first(thinking, settled(nll, method.number)) for thinking, nll in zip(thinkings, curves, strict=True)
        ]
    if method.kind == "drop_sentence":
        return drop_sentences(thinkings, method.number, tools)
    assert method.kind == "summary", method
    return summarise(thinkings, tools, seed=seed)


def keep_first(thinking: Thinking, count: int) -> Pruned:
    """Keep the first `count` tokens of the thinking."""
    return _pruned(thinking, thinking.first(count), thinking.ids[:count])


def leave_out(thinking: Thinking, tokenizer: PreTrainedTokenizerBase, kind: str | None = None) -> Pruned:
    """Leave out the thinking: its block is empty, or holds the text of `prompts.NO_THINKING` under `kind`.

    If that text already closes the block, only the part of the stub after the end of a block follows.
    """
    if kind is None:
        return keep_first(thinking, 0)
    tokens, opening = thinking.tokens, NO_THINKING[kind]
    text, closed, _ = opening.removeprefix(THINKING).partition(ANSWERING)
    stub = thinking.stub
    if closed:
        stub = stub.rpartition(ANSWERING)[2]
        stub = stub.lstrip() if opening.endswith("\n") else stub
    if opens_thinking(tokenizer, tokens.prompt_ids):
        opening = opening.removeprefix(THINKING).removeprefix("\n")
    stub_ids, answer_ids = encode_answer(tokenizer, stub, tokens.question.answer)
    ids = encode(tokenizer, opening)
    kept = 0 if closed else len(ids)  # text after a closed block is not thinking
    prompt_ids = torch.cat([tokens.prompt_ids, ids[: len(ids) - kept]])
    return Pruned(text.strip(), prompt_ids, ids[len(ids) - kept :], stub, stub_ids, answer_ids)


def losses_along(model: PreTrainedModel, thinkings: Sequence[Thinking], *, tokens_per_pass: int) -> list[Tensor]:
    """L(t) of each answer, in nats, after t tokens of its thinking and the stub, for t from 0 to N: `(N + 1,)`."""
    probes = [
        make_probe(thinking.opening_ids, thinking.ids, thinking.answer_ids, stub_ids=thinking.stub_ids)
        for thinking in thinkings
    ]
    lengths = [len(probe.text) for probe in probes]
    return [nll.mean(dim=1) for nll in _nll_by_length(model, probes, lengths, tokens_per_pass)]


def settled(nll: Tensor, below: float) -> int:
    """Return the first t from which on L(t) `(N + 1,)` stays below `below`; N if even the last value does not."""
    above = (nll >= below).nonzero()[:, 0]
    return min(int(above[-1]) + 1, len(nll) - 1) if len(above) else 0


def drop_sentences(thinkings: Sequence[Thinking], tolerance: float, tools: Tools) -> list[Pruned]:
    """Drop sentences greedily while the loss of the answer stays within `tolerance` nats of the complete thinking's.

    Each round drops the sentence without which the loss is lowest, the first of them in a tie. All trajectories run
    their rounds together.
    """
    left = [split_sentences(thinking.text) for thinking in thinkings]
    pruned = [keep_first(thinking, len(thinking.ids)) for thinking in thinkings]
    limits = [nll + tolerance for nll in losses(tools.model, pruned, tokens_per_pass=tools.tokens_per_pass)]
    active, rounds = [place for place, sentences in enumerate(left) if sentences], 0
    while active and rounds != tools.max_drops:
        shorter = {
            (place, gone): _rewritten(thinkings[place], left[place][:gone] + left[place][gone + 1 :], tools.tokenizer)
            for place in active
            for gone in range(len(left[place]))
        }
        values = losses(tools.model, list(shorter.values()), tokens_per_pass=tools.tokens_per_pass)
        nll = dict(zip(shorter, values, strict=True))
        still_active = []
        for place in active:
            gone = min(range(len(left[place])), key=lambda sentence: nll[place, sentence])
            if nll[place, gone] <= limits[place]:
                pruned[place] = shorter[place, gone]
                del left[place][gone]
                if left[place]:
                    still_active.append(place)
        active, rounds = still_active, rounds + 1
    return pruned


def summarise(thinkings: Sequence[Thinking], tools: Tools, *, seed: int) -> list[Pruned]:
    """Replace each thinking by a summary sampled from `tools.summariser`; an empty thinking stays empty."""
    assert tools.summariser is not None
    assert tools.summary_settings is not None
    written = [thinking for thinking in thinkings if thinking.text.strip()]
    prompts = [
        summary_messages(thinking.tokens.question.question, thinking.first(tools.max_summary_input))
        for thinking in written
    ]
    texts = [""] * len(written)
    if written:
        for completion in tools.summariser.sample(prompts, tools.summary_settings, seed=seed):
            # A summariser that thinks has a block of its own; the summary follows it.
            text = completion.text.rpartition(ANSWERING)[2].partition(THINKING)[0]
            texts[completion.prompt] = text.strip()
    summaries = iter(texts)
    return [
        _rewritten(thinking, [next(summaries)] if thinking.text.strip() else [], tools.tokenizer)
        for thinking in thinkings
    ]


def check_summaries(tokenizer: PreTrainedTokenizerBase) -> None:
    """Reject a model that cannot read the request for a summary.

    Raises:
        InputError: if the vocabulary of its tokenizer lacks the words, as in the embedded world.
    """
    ids = tokenizer(SUMMARY, add_special_tokens=False)["input_ids"]
    if "".join(str(tokenizer.decode(ids)).split()) != "".join(SUMMARY.split()):
        raise InputError(
            f"methods: the tokenizer of {tokenizer.name_or_path} lacks the words that summary asks with: "
            "leave summary out, or name a summariser"
        )


def losses(model: PreTrainedModel, pruned: Sequence[Pruned], *, tokens_per_pass: int) -> list[float]:
    """Loss of each answer after the shortened thinking, in nats."""
    probes = [
        make_probe(row.prompt_ids, row.ids, row.answer_ids, stub_ids=row.stub_ids, positions=[len(row.ids)])
        for row in pruned
    ]
    lengths = [len(row.asked_ids) for row in pruned]
    return [nll.mean().item() for nll in _nll_by_length(model, probes, lengths, tokens_per_pass)]


def leaks(pruned: Pruned, answer: str) -> bool:
    """Whether the shortened thinking states the answer, so that the model can copy it."""
    return first_statement(pruned.text, answer) is not None


def _nll_by_length(
    model: PreTrainedModel, probes: Sequence[Probe], lengths: Sequence[int], tokens_per_pass: int
) -> list[Tensor]:
    """`answer_nll_each` for probes sorted by `lengths`, with the results in the order of `probes`."""
    order = sorted(range(len(probes)), key=lengths.__getitem__)
    nll = answer_nll_each(model, [probes[place] for place in order], tokens_per_pass=tokens_per_pass)
    by_place = dict(zip(order, nll, strict=True))
    return [by_place[place] for place in range(len(probes))]


def _rewritten(thinking: Thinking, sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Pruned:
    text = "".join(sentences).strip()
    return _pruned(thinking, text, encode(tokenizer, text))


def _pruned(thinking: Thinking, text: str, ids: Tensor) -> Pruned:
    return Pruned(text, thinking.opening_ids, ids, thinking.stub, thinking.stub_ids, thinking.answer_ids)
