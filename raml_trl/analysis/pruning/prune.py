"""Ways to shorten a trajectory: from its thinking to the thinking that is left, each a function of what it needs.

What a method costs, for a trajectory with T tokens of thinking in S sentences: nothing for `none`, `no_thinking` and
`budget`; for `curve` the losses of one answer after T prefixes (see `likelihood`: about a pass over O(T A) tokens); for
`drop_sentence` a round of at most S passes over T tokens for every sentence dropped, so O(S^2 T) in all, which
`max_drops` bounds; for `summary` what a second model reads and writes. `curve` and `drop_sentence` look at the
reference answer: they are oracles, which say how much of a trajectory is needed, and no way to shorten one whose answer
is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raml_trl.analysis.likelihood import answer_nll_each, make_probe
from raml_trl.analysis.pruning.config import WHOLE, Method
from raml_trl.analysis.pruning.thinking import Thinking
from raml_trl.analysis.sentences import split_sentences
from raml_trl.analysis.text import first_statement
from raml_trl.analysis.trajectories import ANSWERING, THINKING, encode_answer
from raml_trl.prompts import NO_THINKING, SUMMARY, summary_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Engine, SamplingSettings


@dataclass(frozen=True)
class Pruned:
    """What is left of the thinking of a trajectory, `text`, and all that the model reads before it answers.

    That is `prompt_ids` `(P,)`, everything up to what is left, then `ids` `(N,)`, this itself, then `stub_ids` `(S,)`.
    """

    text: str
    prompt_ids: Tensor
    ids: Tensor
    stub: str
    stub_ids: Tensor
    answer_ids: Tensor

    @property
    def asked_ids(self) -> Tensor:
        """Everything up to the answer, `(P + N + S,)`."""
        return torch.cat([self.prompt_ids, self.ids, self.stub_ids])


@dataclass(frozen=True)
class Tools:
    """What methods need beside the trajectories."""

    model: Any
    tokenizer: Any
    tokens_per_pass: int
    max_drops: int | None = None
    summariser: Engine | None = None
    summary_settings: SamplingSettings | None = None
    max_summary_input: int = 24_576


def prune(method: Method, thinkings: Sequence[Thinking], tools: Tools, *, seed: int = 0) -> list[Pruned]:
    """What `method` leaves of each, in order.

    Args:
        seed: of the summaries, which are drawn.
    """
    if method.kind == WHOLE:
        return [keep_first(one, len(one.ids)) for one in thinkings]
    if method.kind == "no_thinking":
        return [leave_out(one, tools.tokenizer, method.setting) for one in thinkings]
    if method.kind == "budget":
        return [keep_first(one, method.budget(len(one.ids))) for one in thinkings]
    if method.kind == "curve":
        nll = losses_along(tools.model, thinkings, tokens_per_pass=tools.tokens_per_pass)
        return [keep_first(one, settled(of_one, method.number)) for one, of_one in zip(thinkings, nll, strict=True)]
    if method.kind == "drop_sentence":
        return drop_sentences(thinkings, method.number, tools)
    assert method.kind == "summary", method
    return summarise(thinkings, tools, seed=seed)


def keep_first(thinking: Thinking, count: int) -> Pruned:
    """The first `count` tokens of the thinking."""
    return _pruned(thinking, thinking.first(count), thinking.ids[:count])


def leave_out(thinking: Thinking, tokenizer: Any, kind: str | None = None) -> Pruned:
    """Nothing of the thinking: its block stands there empty, or with what `prompts.NO_THINKING` has under `kind`.

    An opening that ends its block is followed by what the stub has after the end of one.
    """
    if kind is None:
        return keep_first(thinking, 0)
    tokens, opening = thinking.tokens, NO_THINKING[kind]
    text, closed, _ = opening.removeprefix(THINKING).partition(ANSWERING)
    stub = thinking.stub
    if closed:
        stub = stub.rpartition(ANSWERING)[2]
        stub = stub.lstrip() if opening.endswith("\n") else stub
    if str(tokenizer.decode(tokens.prompt_ids[-16:])).rstrip().endswith(THINKING):
        opening = opening.removeprefix(THINKING).removeprefix("\n")
    stub_ids, answer_ids = encode_answer(tokenizer, stub, tokens.question.answer)
    ids = _encode(tokenizer, opening)
    kept = 0 if closed else len(ids)  # what stands in no block is no thinking
    prompt_ids = torch.cat([tokens.prompt_ids, ids[: len(ids) - kept]])
    return Pruned(text.strip(), prompt_ids, ids[len(ids) - kept :], stub, stub_ids, answer_ids)


def losses_along(model: Any, thinkings: Sequence[Thinking], *, tokens_per_pass: int) -> list[Tensor]:
    """L(t), in nats, of each answer after t tokens of its thinking and the stub, for t from 0 to N: `(N + 1,)`."""
    probes = [make_probe(one.opening_ids, one.ids, one.answer_ids, stub_ids=one.stub_ids) for one in thinkings]
    order = sorted(range(len(probes)), key=lambda place: len(probes[place].text))
    found = answer_nll_each(model, [probes[place] for place in order], tokens_per_pass=tokens_per_pass)
    return _back_in_order(order, [nll.mean(dim=1) for nll in found])


def settled(nll: Tensor, below: float) -> int:
    """The first t from which on L(t) `(N + 1,)` stays below `below`; N where it does not even end there."""
    above = (nll >= below).nonzero()[:, 0]
    return min(int(above[-1]) + 1, len(nll) - 1) if len(above) else 0


def drop_sentences(thinkings: Sequence[Thinking], tolerance: float, tools: Tools) -> list[Pruned]:
    """Drop, round by round, the sentence without which the answer is likeliest, as long as that is likely enough.

    Likely enough is a loss of at most `tolerance` nats more than after the whole thinking. Of sentences without which
    the answer is equally likely, the first one goes. All trajectories have their rounds together.
    """
    left = [split_sentences(one.text) for one in thinkings]
    pruned = [keep_first(one, len(one.ids)) for one in thinkings]
    limits = [nll + tolerance for nll in losses(tools.model, pruned, tokens_per_pass=tools.tokens_per_pass)]
    active, rounds = [place for place, sentences in enumerate(left) if sentences], 0
    while active and rounds != tools.max_drops:
        shorter = {
            (place, gone): _rewritten(thinkings[place], left[place][:gone] + left[place][gone + 1 :], tools.tokenizer)
            for place in active
            for gone in range(len(left[place]))
        }
        found = losses(tools.model, list(shorter.values()), tokens_per_pass=tools.tokens_per_pass)
        nll = dict(zip(shorter, found, strict=True))
        went_on = []
        for place in active:
            gone = min(range(len(left[place])), key=lambda one: nll[place, one])
            if nll[place, gone] <= limits[place]:
                pruned[place] = shorter[place, gone]
                del left[place][gone]
                if left[place]:
                    went_on.append(place)
        active, rounds = went_on, rounds + 1
    return pruned


def summarise(thinkings: Sequence[Thinking], tools: Tools, *, seed: int) -> list[Pruned]:
    """A summary of each in its place, drawn from `tools.summariser`; of a thinking that is empty, nothing."""
    assert tools.summariser is not None
    assert tools.summary_settings is not None
    there = [one for one in thinkings if one.text.strip()]
    prompts = [summary_messages(one.tokens.question.question, one.first(tools.max_summary_input)) for one in there]
    texts = [""] * len(there)
    if there:
        for completion in tools.summariser.sample(prompts, tools.summary_settings, seed=seed):
            # A summariser that thinks has its own block, and only what follows is the summary.
            text = completion.text.rpartition(ANSWERING)[2].partition(THINKING)[0]
            texts[completion.prompt] = text.strip()
    written = iter(texts)
    return [_rewritten(one, [next(written)] if one.text.strip() else [], tools.tokenizer) for one in thinkings]


def check_summaries(tokenizer: Any) -> None:
    """Refuse a model that cannot read how a summary is asked for.

    Raises:
        InputError: if its tokenizer has no words for it, as that of the embedded world.
    """
    ids = tokenizer(SUMMARY, add_special_tokens=False)["input_ids"]
    if "".join(tokenizer.decode(ids).split()) != "".join(SUMMARY.split()):
        raise InputError(
            f"methods: summary is asked for in words that the tokenizer of {tokenizer.name_or_path} does not have: "
            "leave it out, or name a summariser"
        )


def losses(model: Any, pruned: Sequence[Pruned], *, tokens_per_pass: int) -> list[float]:
    """The loss of each answer, in nats, after what is left."""
    order = sorted(range(len(pruned)), key=lambda place: len(pruned[place].asked_ids))
    probes = [
        make_probe(one.prompt_ids, one.ids, one.answer_ids, stub_ids=one.stub_ids, positions=[len(one.ids)])
        for one in (pruned[place] for place in order)
    ]
    found = answer_nll_each(model, probes, tokens_per_pass=tokens_per_pass)
    return _back_in_order(order, [nll.mean().item() for nll in found])


def leaks(pruned: Pruned, answer: str) -> bool:
    """Whether the answer stands in what is left, so that it need only be copied."""
    return first_statement(pruned.text, answer) is not None


def _rewritten(thinking: Thinking, sentences: Sequence[str], tokenizer: Any) -> Pruned:
    text = "".join(sentences).strip()
    return _pruned(thinking, text, _encode(tokenizer, text))


def _pruned(thinking: Thinking, text: str, ids: Tensor) -> Pruned:
    return Pruned(text, thinking.opening_ids, ids, thinking.stub, thinking.stub_ids, thinking.answer_ids)


def _encode(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def _back_in_order(order: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """`values`, of which number i belongs at place `order[i]`."""
    return [value for _, value in sorted(zip(order, values, strict=True), key=lambda pair: pair[0])]
