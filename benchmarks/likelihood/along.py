r"""The likelihood of an answer after every prefix of a trajectory: prefix by prefix, and all at once.

    python -m benchmarks.likelihood.along --rounds 3

A model of 4 layers and width 128, a stub of 6 tokens and an answer of 3. The loop, one forward pass for each prefix
that gives logits for the answer alone, is run whole up to `--whole` tokens; beyond, over every so-manieth prefix, and
what lies between is interpolated. Both are timed in one process, ours before and after the loop; greatest difference
of what they return is written as well.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import harness
from benchmarks.plots import likelihood_figure
from raml_trl.analysis.likelihood import answer_nll, answer_nll_along

PROMPT, STUB, ANSWER = 20, 6, 3
MODEL = {
    **{"vocab_size": 1024, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 32_768},
}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def measure(model: Any, length: int, *, rounds: int, whole: int, sampled: int) -> dict[str, Any]:
    """Seconds of both for a trajectory of `length` tokens."""
    drawn = torch.Generator().manual_seed(length)
    prompt, trajectory, stub, answer = (
        torch.randint(1, MODEL["vocab_size"], (size,), generator=drawn) for size in (PROMPT, length, STUB, ANSWER)
    )
    places = np.arange(length + 1) if length <= whole else np.linspace(0, length, sampled).round().astype(int)
    at_once, loops, apart = [], [], 0.0
    for _ in range(rounds):
        first, along = timed(lambda: answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub))
        taken = []
        for t in places.tolist():
            prefix = torch.cat([prompt, trajectory[:t], stub])
            seconds, nll = timed(lambda prefix=prefix: answer_nll(model, prefix, answer))
            taken.append(seconds)
            apart = max(apart, abs(nll - along[t].item()))
        second, _ = timed(lambda: answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub))
        at_once.append((first + second) / 2)
        loops.append(sum(taken) if length <= whole else float(np.trapezoid(taken, places)))
    return {
        "tokens": length,
        "prefixes_of_the_loop": len(places),
        "at_once": harness.spread(at_once),
        "loop": harness.spread(loops),
        "faster": harness.spread([loop / ours for loop, ours in zip(loops, at_once, strict=True)]),
        "greatest_difference": apart,
    }


def main() -> None:
    """Measure, write, draw."""
    given = harness.parse(__doc__, rounds=3, whole=1_024, sampled=65, longest=16_384)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**MODEL)).eval()
    lengths = [length for length in (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384) if length <= given.longest]
    settings = {"rounds": given.rounds, "whole": given.whole, "sampled": given.sampled, "model": MODEL}
    settings |= {"prompt": PROMPT, "stub": STUB, "answer": ANSWER}
    results = []
    for length in lengths:
        results.append(measure(model, length, rounds=given.rounds, whole=given.whole, sampled=given.sampled))
        harness.write(given.output_dir, "likelihood_along", settings, results, likelihood_figure(results))


if __name__ == "__main__":
    main()
