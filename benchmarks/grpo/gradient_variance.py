r"""Measures the variance per second of an update, for several probabilities of selecting rollouts.

    python -m benchmarks.grpo.gradient_variance --start runs/tiny/rules_starts/arithmetic_mixed/seed-0
    python -m benchmarks.grpo.gradient_variance --model 0.5b --groups 2 --tokens 192

For every group of eight rollouts, the true gradient of each rollout is computed, and from it the variance of the
gradient that m selected rollouts estimate: the mean squared distance to the gradient of all eight, over many keyed
selections. It is multiplied by the mean seconds that the selected rollouts cost: forward and backward of one row with
their tokens and one prompt. The result is relative to `random`. The compared probabilities are proportional to

    |A|                 selection: importance
    |A| / sqrt(cost)    not offered: ignores that a longer rollout has a larger gradient if the loss is a sum
    |A| g / sqrt(cost)  selection: importance with selection_cost: tokens

Denominators are fixed: a token mean is treated as a sum. With `--start`, a directory with an SFT model and questions as
recipes/tiny/rules/compare_rules.sh makes them, the model samples its rollouts and the grader rewards them. With
`--model`, a model of `harness.MODELS` has random weights, samples its rollouts at log-normal lengths, and the rewards
are random bits.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness import MODELS, RESULTS, Device, spread, write
from raml_trl.data.reading import load_questions
from raml_trl.grading import grade
from raml_trl.grpo.selection import cost_factors, select_rollouts
from raml_trl.prompts import prompt_messages

NAME = "gradient_variance"
GROUP = 8
SELECTIONS = (2, 4)
DRAWS = 2_000


@dataclass(frozen=True)
class Group:
    """One prompt with its rollouts, as token ids, and their rewards `(G,)`."""

    prompt: list[int]
    completions: list[list[int]]
    rewards: NDArray[np.float64]

    @property
    def advantages(self) -> NDArray[np.float64]:
        """`(G,)`."""
        return (self.rewards - self.rewards.mean()) / (self.rewards.std(ddof=1) + 1e-4)


def sample(model: Any, prompt: list[int], tokens: int, eos: int | None) -> list[list[int]]:
    """Return G completions of at most `tokens` tokens that the model samples."""
    ids = torch.tensor([prompt] * GROUP)
    with torch.no_grad():
        sampled = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, pad_token_id=0,
            eos_token_id=eos, temperature=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip
    rows = sampled[:, len(prompt) :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def sampled_groups(start: Path, number: int, tokens: int) -> tuple[Any, Iterator[Group]]:
    """Return a trained model, and groups with different rewards."""
    model = AutoModelForCausalLM.from_pretrained(start / "sft", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start / "sft")
    questions = load_questions(str(start / "data_grpo"))
    np.random.default_rng(0).shuffle(questions)

    def groups() -> Iterator[Group]:
        found = 0
        for question in questions:
            messages = prompt_messages(question.question, "bare")
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            completions = sample(model, prompt, tokens, tokenizer.eos_token_id)
            texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
            rewards = np.array([float(grade(text, question.answer).correct) for text in texts])
            if 0 < rewards.sum() < GROUP:
                found += 1
                yield Group(prompt, completions, rewards)
            if found == number:
                return

    return model, groups()


def random_groups(name: str, number: int, tokens: int, prompt_length: int) -> tuple[Any, Iterator[Group]]:
    """Return a model with random weights, and groups of rollouts that it samples, with random rewards."""
    model = Device(model=name).build()
    rng = np.random.default_rng(0)

    def groups() -> Iterator[Group]:
        for _ in range(number):
            prompt = rng.integers(8, MODELS[name]["vocab_size"], size=prompt_length).tolist()
            lengths = np.clip(tokens / 4 * np.exp(0.8 * rng.standard_normal(GROUP)), 4, tokens).astype(int)
            whole = sample(model, prompt, int(lengths.max()), None)
            rewards = rng.permutation(np.arange(GROUP) < rng.integers(1, GROUP)).astype(float)
            yield Group(prompt, [row[:length] for row, length in zip(whole, lengths, strict=True)], rewards)

    return model, groups()


def score_products(model: Any, group: Group) -> NDArray[np.float64]:
    """Return the inner products `(G, G)` of the gradients of the log-probabilities of the completions."""
    gradients = []
    for completion in group.completions:
        model.zero_grad()
        log_probability(model, group.prompt, completion).backward()
        # bfloat16 halves the memory; its rounding errors are random and far below the differences between strategies
        parts = [p.grad.flatten().bfloat16() for p in model.parameters() if p.grad is not None]
        gradients.append(parts)
    model.zero_grad()
    products = np.zeros((GROUP, GROUP))
    for parts in zip(*gradients, strict=True):
        stacked = torch.stack(parts).float()
        products += (stacked @ stacked.T).double().numpy()
    return products


def log_probability(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + completion])
    logits = model(ids, logits_to_keep=len(completion) + 1).logits[0, :-1]
    return -torch.nn.functional.cross_entropy(logits, ids[0, -len(completion) :], reduction="sum")


def variances(group: Group, products: NDArray[np.float64], *, mean_of_row: bool) -> Iterator[dict[str, Any]]:
    """Yield variance and mean tokens of the update for each m and each probability."""
    lengths = np.array([len(completion) for completion in group.completions])
    terms = group.advantages / (lengths if mean_of_row else 1)
    products = products * np.outer(terms, terms)
    prompts = np.full((1, GROUP), len(group.prompt))
    tiled = {"rewards": np.tile(group.rewards, (DRAWS, 1)), "advantages": np.tile(group.advantages, (DRAWS, 1))}
    for selected in SELECTIONS:
        factors = cost_factors(prompts, lengths[None], selected, mean_of_row=mean_of_row, shared=True)
        costs = 1 / np.sqrt(lengths + len(group.prompt) / selected)[None]
        probabilities: dict[str, tuple[Any, Any]] = {
            "random": ("random", None),
            "|A|": ("importance", None),
            "|A| / sqrt(cost)": ("importance", np.tile(costs, (DRAWS, 1))),
            "|A| g / sqrt(cost)": ("importance", np.tile(factors, (DRAWS, 1))),
        }
        for name, (strategy, factor) in probabilities.items():
            selection = select_rollouts(
                **tiled, num_selected=selected, strategy=strategy, seed=0, step=0, factors=factor
            )
            errors = selection.row_weights(GROUP) / selected - 1 / GROUP
            yield {
                "m": selected,
                "p": name,
                "variance": float(np.einsum("ni,ij,nj->n", errors, products, errors).mean()),
                "tokens": float((selection.mask(GROUP) @ lengths).mean() + len(group.prompt)),
            }


def seconds_per_row(model: Any, lengths: list[int]) -> tuple[float, float]:
    """Return intercept and slope of the process seconds of an update on one row, by its tokens."""
    points = []
    for length in lengths:
        taken = []
        for _ in range(5):
            started = time.process_time()
            log_probability(model, [8], [9] * (length - 1)).backward()
            taken.append(time.process_time() - started)
        points.append(float(np.median(taken)))
    slope, intercept = np.polyfit(lengths, points, 1)
    return float(intercept), float(slope)


def main() -> None:
    """Measure, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--start", type=Path)
    source.add_argument("--model", choices=tuple(MODELS))
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=90, help="most tokens of a completion")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt; with --model")
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.start:
        model, groups = sampled_groups(given.start, given.groups, given.tokens)
    else:
        model, groups = random_groups(given.model, given.groups, given.tokens, given.prompt)
    intercept, slope = seconds_per_row(model, [16, 64, 256])
    rows = []
    sizes = []
    for index, group in enumerate(tqdm(groups, total=given.groups)):
        products = score_products(model, group)
        lengths = [len(completion) for completion in group.completions]
        sizes += [
            {"tokens": length, "square": square} for length, square in zip(lengths, np.diag(products), strict=True)
        ]
        for loss, mean_of_row in (("sum", False), ("row mean", True)):
            rows += [
                {"group": index, "loss": loss, **row} for row in variances(group, products, mean_of_row=mean_of_row)
            ]
    results = summarise(rows, intercept, slope)
    # The exponent of the length in the squared gradient: 1 if the gradients of tokens are uncorrelated.
    exponent = np.polyfit(np.log([size["tokens"] for size in sizes]), np.log([size["square"] for size in sizes]), 1)[0]
    name = given.model or "trained"
    for row in results:
        print(row)
    print(f"squared gradient ~ length ^ {exponent:.2f}")
    source_name = given.model or "/".join(given.start.parts[-2:])  # no path of this machine
    settings = {"source": source_name, "groups": given.groups, "tokens": given.tokens, "draws": DRAWS}
    found = {
        "exponent": round(float(exponent), 3),
        "seconds": [intercept, slope],
        "rows": results,
    }
    write(given.output_dir, f"{NAME}_{name.replace('.', '')}", settings, found)


def summarise(rows: list[dict[str, Any]], intercept: float, slope: float) -> list[dict[str, Any]]:
    """Return variance x seconds relative to `random`: of all groups together, and spread over groups."""
    results = []
    for loss in ("sum", "row mean"):
        for selected in SELECTIONS:
            here = [row for row in rows if row["loss"] == loss and row["m"] == selected]
            names = list(dict.fromkeys(row["p"] for row in here))
            of = {name: [row for row in here if row["p"] == name] for name in names}
            variance = {name: np.array([row["variance"] for row in of[name]]) for name in names}
            seconds = {name: intercept + slope * np.array([row["tokens"] for row in of[name]]) for name in names}
            for name in names:
                ratios = variance[name] * seconds[name] / (variance["random"] * seconds["random"])
                total = variance[name].sum() * seconds[name].sum()
                results.append(
                    {
                        **{"loss": loss, "m": selected, "p": name},
                        "variance": round(float(variance[name].sum() / variance["random"].sum()), 3),
                        "seconds": round(float(seconds[name].sum() / seconds["random"].sum()), 3),
                        "together": round(float(total / (variance["random"].sum() * seconds["random"].sum())), 3),
                        "groups": spread(ratios.tolist()),
                    }
                )
    return results


if __name__ == "__main__":
    main()
