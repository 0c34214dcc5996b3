r"""Measures how the time of `answer_nll_along` grows with the length of the trajectory, for models of several widths.

    python -m benchmarks.likelihood.growth --rounds 2

`answer_nll_along` computes the likelihood of an answer after every prefix of a trajectory. Each model has one layer
with random weights and a vocabulary of 1,024 words. Every further layer would cost as much as this layer, and a larger
vocabulary adds a cost that is linear in the tokens. Every round times all lengths. The exponent x describes the growth
as seconds = c * tokens^x and is fitted on a log-log scale. The exponent of the number of arithmetic operations is
computed in the same way.
"""

import math
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks import harness
from benchmarks.likelihood.along import ANSWER, PROMPT, STUB, timed
from benchmarks.plots import exponents_figure
from raml_trl.analysis import answer_nll_along

LENGTHS = (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)


def layer(name: str) -> Qwen2ForCausalLM:
    """Build a model with random weights and a single layer, shaped like the layers of the model `name`."""
    shape = harness.MODELS[name] | {"num_hidden_layers": 1, "vocab_size": 1024, "max_position_embeddings": 32_768}
    return Qwen2ForCausalLM(Qwen2Config(**shape)).eval()


def arithmetic(name: str, length: int) -> float:
    """Count the arithmetic operations of one layer for the trajectory, and for stub and answer after every prefix."""
    shape = harness.MODELS[name]
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = 2 * width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linear = 2 * (width * (2 * width + keys) + 3 * width * inner)  # per token
    block = STUB + ANSWER
    tokens = length * (1 + block)
    return tokens * (linear + 4 * width * (PROMPT + length / 2))


def exponent(lengths: list[int], costs: list[float]) -> float:
    """Fit cost = c * length^x by least squares of the logarithms, and return x."""
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def measure(name: str, *, rounds: int, longest: int) -> dict[str, Any]:
    """Time the model `name` on trajectories of every length, and describe how the time grows."""
    torch.manual_seed(0)
    model = layer(name)
    lengths = [length for length in LENGTHS if length <= longest]
    seconds_by_length: dict[int, list[float]] = {length: [] for length in lengths}
    generator = torch.Generator().manual_seed(0)
    prompt, stub, answer = (torch.randint(1, 1024, (size,), generator=generator) for size in (PROMPT, STUB, ANSWER))
    answer_nll_along(model, prompt, prompt, answer, stub_ids=stub)  # warm-up
    for number in range(rounds):
        for length in lengths if number % 2 == 0 else reversed(lengths):
            trajectory = torch.randint(1, 1024, (length,), generator=generator)
            seconds, _ = timed(
                lambda trajectory=trajectory: answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub)
            )
            seconds_by_length[length].append(seconds)
    medians = [float(np.median(seconds_by_length[length])) for length in lengths]
    ratio = medians[-1] / medians[0]
    return {
        "width": harness.MODELS[name]["hidden_size"],
        "seconds": {str(length): harness.spread(seconds_by_length[length]) for length in lengths},
        "exponent": round(exponent(lengths, medians), 3),
        "exponent_of_arithmetic": round(exponent(lengths, [arithmetic(name, length) for length in lengths]), 3),
        "times_as_long": round(ratio, 1),
        "tokens_times": lengths[-1] // lengths[0],
        "doublings": round(math.log2(lengths[-1] / lengths[0])),
    }


def main() -> None:
    """Measure every model, and write the results and the figure after each model."""
    given = harness.parse(__doc__, rounds=2, longest=16_384, models="tiny,0.5b,1.5b")
    results: dict[str, Any] = {}
    settings = {"rounds": given.rounds, "prompt": PROMPT, "stub": STUB, "answer": ANSWER, "layers": 1}
    for name in given.models.split(","):
        results[name] = measure(name, rounds=given.rounds, longest=given.longest)
        harness.write(given.output_dir, "likelihood_growth", settings, results, exponents_figure(results))


if __name__ == "__main__":
    main()
