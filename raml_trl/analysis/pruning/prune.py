"""Pruning methods: functions that shorten the thinking of trajectories.

A trajectory has T tokens of thinking in S sentences, followed by A tokens of stub (the text that introduces the answer)
and answer. The methods, with the number of tokens that a model must process to shorten one trajectory:

- `none` keeps all of the thinking, `no_thinking` leaves it out, and `budget` keeps its first tokens: 0 tokens.
- `curve` cuts the thinking where the loss of the answer stays low from there on: O(T A) tokens, for the losses of the
  answer after all prefixes (see `likelihood`).
- `drop_sentence` drops sentences as long as the loss of the answer rises little: O(S^2 T) tokens, because every dropped
  sentence takes up to S passes over up to T tokens. `max_drops` limits the number of dropped sentences.
- `summary` replaces the thinking by a summary: the tokens that the summariser reads and writes.

`curve` and `drop_sentence` use the reference answer. They are oracles: they measure how much of a trajectory is needed,
but they cannot shorten a trajectory whose answer is unknown.
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
    """The shortened thinking of a trajectory as `text`, and the tokens that the model reads before it answers.

    The model reads `prompt_ids` `(P,)`, all tokens before the thinking; then `ids` `(N,)`, the shortened thinking; then
    `stub_ids` `(S,)`, the tokens of `stub`, the text that introduces the answer. `answer_ids` `(A,)` are the tokens of
    the reference answer.
    """

    text: str
    prompt_ids: Tensor
    ids: Tensor
    stub: str
    stub_ids: Tensor
    answer_ids: Tensor

    @property
    def asked_ids(self) -> Tensor:
        """All tokens before the answer, `(P + N + S,)`."""
        return torch.cat([self.prompt_ids, self.ids, self.stub_ids])


@dataclass(frozen=True)
class Tools:
    """Models and limits that the methods need.

    `model` is the model that answers. `summariser` writes summaries with the settings `summary_settings`.
    `tokens_per_pass` limits the tokens of a forward pass, `max_drops` the sentences that `drop_sentence` drops from a
    trajectory, and `max_summary_input` the tokens of thinking that the summariser reads.
    """

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
        method: how to shorten.
        thinkings: the thinking of each trajectory.
        tools: models and limits that the methods need.
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
    """Leave out the thinking, or replace it if `kind` is given.

    The replacement is the opening `prompts.NO_THINKING[kind]`, a text that makes a model answer without thinking.
    The stub, which introduces the answer, follows. If the opening already closes the thinking block, only the part of
    the stub after `</think>` follows.
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
    kept = 0 if closed else len(ids)  # an opening that closes the block counts as prompt, not as thinking
    prompt_ids = torch.cat([tokens.prompt_ids, ids[: len(ids) - kept]])
    return Pruned(text.strip(), prompt_ids, ids[len(ids) - kept :], stub, stub_ids, answer_ids)


def losses_along(model: PreTrainedModel, thinkings: Sequence[Thinking], *, tokens_per_pass: int) -> list[Tensor]:
    """Return one tensor `(N + 1,)` per thinking of N tokens: the loss of the answer after t = 0, ..., N tokens.

    The loss is the mean over the answer tokens, in nats.
    """
    probes = [
        make_probe(thinking.opening_ids, thinking.ids, thinking.answer_ids, stub_ids=thinking.stub_ids)
        for thinking in thinkings
    ]
    lengths = [len(probe.text) for probe in probes]
    return [nll.mean(dim=1) for nll in _nll_by_length(model, probes, lengths, tokens_per_pass)]


def settled(nll: Tensor, below: float) -> int:
    """Return the first t from which on the loss stays below `below`; N if even the last value is not below.

    `nll` `(N + 1,)` holds the loss L(t) after t tokens, for t = 0 to N.
    """
    above = (nll >= below).nonzero()[:, 0]
    return min(int(above[-1]) + 1, len(nll) - 1) if len(above) else 0


def drop_sentences(thinkings: Sequence[Thinking], tolerance: float, tools: Tools) -> list[Pruned]:
    """Drop sentences greedily, as long as the loss of the answer rises by at most `tolerance` nats.

    The rise is measured against the complete thinking. Each round looks in every trajectory for the sentence whose
    absence gives the lowest loss, the first of them in a tie, and drops it if the loss rises by no more than
    `tolerance`. Otherwise the trajectory is left as it is. There are at most `tools.max_drops` rounds.
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
    """Replace each thinking by a summary that `tools.summariser` writes. An empty thinking stays empty."""
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
            # The summariser may think before it writes. The summary follows its thinking block.
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
        InputError: if its tokenizer lacks the words of the request, as the tokenizer of the built-in arithmetic
            questions does.
    """
    ids = tokenizer(SUMMARY, add_special_tokens=False)["input_ids"]
    if "".join(str(tokenizer.decode(ids)).split()) != "".join(SUMMARY.split()):
        raise InputError(
            f"methods: the tokenizer of {tokenizer.name_or_path} lacks the words that summary asks with: "
            "leave summary out, or name a summariser"
        )


def losses(model: PreTrainedModel, pruned: Sequence[Pruned], *, tokens_per_pass: int) -> list[float]:
    """Return the loss of the reference answer after each shortened thinking, in nats per token of the answer."""
    probes = [
        make_probe(row.prompt_ids, row.ids, row.answer_ids, stub_ids=row.stub_ids, positions=[len(row.ids)])
        for row in pruned
    ]
    lengths = [len(row.asked_ids) for row in pruned]
    return [nll.mean().item() for nll in _nll_by_length(model, probes, lengths, tokens_per_pass)]


def leaks(pruned: Pruned, answer: str) -> bool:
    """Return whether the shortened thinking states (contains) the answer, so that the model can copy it."""
    return first_statement(pruned.text, answer) is not None


def _nll_by_length(
    model: PreTrainedModel, probes: Sequence[Probe], lengths: Sequence[int], tokens_per_pass: int
) -> list[Tensor]:
    """Run `answer_nll_each` on the probes sorted by `lengths`, and return the results in the order of `probes`."""
    order = sorted(range(len(probes)), key=lengths.__getitem__)
    nll = answer_nll_each(model, [probes[place] for place in order], tokens_per_pass=tokens_per_pass)
    by_place = dict(zip(order, nll, strict=True))
    return [by_place[place] for place in range(len(probes))]


def _rewritten(thinking: Thinking, sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Pruned:
    text = "".join(sentences).strip()
    return _pruned(thinking, text, encode(tokenizer, text))


def _pruned(thinking: Thinking, text: str, ids: Tensor) -> Pruned:
    return Pruned(text, thinking.opening_ids, ids, thinking.stub, thinking.stub_ids, thinking.answer_ids)
