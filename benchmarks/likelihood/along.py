r"""Times two ways to compute the likelihood of an answer after every prefix of a trajectory.

    python -m benchmarks.likelihood.along --rounds 3

The first way, prefix by prefix, is a loop with one forward pass for each prefix, which computes only the logits of the
answer. The second way, all at once, is `answer_nll_along`, which packs many prefixes into a pass. The model has 4
layers of width 128; the stub (the text that introduces the answer) has 6 tokens and the answer 3.

For trajectories of up to `--whole` tokens, the loop covers every prefix. For longer ones it covers `--sampled`
prefixes, and the time of the other prefixes is interpolated. In each round, `answer_nll_along` is timed before and
after the loop, in the same process. The greatest difference between the results of the two ways is recorded as well.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import harness
from benchmarks.plots import likelihood_figure
from raml_trl.analysis import answer_nll, answer_nll_along

PROMPT, STUB, ANSWER = 20, 6, 3
MODEL = {
    **{"vocab_size": 1024, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 32_768},
}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `run` takes, and its result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def measure(model: Any, length: int, *, rounds: int, whole: int, sampled: int) -> dict[str, Any]:
    """Time both ways on a random trajectory of `length` tokens."""
    generator = torch.Generator().manual_seed(length)
    prompt, trajectory, stub, answer = (
        torch.randint(1, MODEL["vocab_size"], (size,), generator=generator) for size in (PROMPT, length, STUB, ANSWER)
    )
    places = np.arange(length + 1) if length <= whole else np.linspace(0, length, sampled).round().astype(int)
    at_once, loops, gap = [], [], 0.0
    for _ in range(rounds):
        first, along = timed(lambda: answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub))
        loop_seconds = []
        for t in places.tolist():
            prefix = torch.cat([prompt, trajectory[:t], stub])
            seconds, nll = timed(lambda prefix=prefix: answer_nll(model, prefix, answer))
            loop_seconds.append(seconds)
            gap = max(gap, abs(nll - along[t].item()))
        second, _ = timed(lambda: answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub))
        at_once.append((first + second) / 2)
        loops.append(sum(loop_seconds) if length <= whole else float(np.trapezoid(loop_seconds, places)))
    return {
        "tokens": length,
        "prefixes_of_the_loop": len(places),
        "at_once": harness.spread(at_once),
        "loop": harness.spread(loops),
        "faster": harness.spread([loop / ours for loop, ours in zip(loops, at_once, strict=True)]),
        "greatest_difference": gap,
    }


def main() -> None:
    """Measure trajectories of every length, and write the results and the figure after each length."""
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
