"""What an optimizer step will cost on m of G rollouts, before it is run: rows, cells, seconds and bytes.

Rows and cells are drawn: completion lengths go through the trainer's own selection, dealing and packing. Seconds are a
price per cell, bytes a formula: both are estimates, and say so.

Shapes: W processes, R rollouts on each in a generation, K micro-batches of each, P groups of G rollouts, N rows of a
micro-batch. A cell is a token or padding: what a forward pass computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, gcd, log
from statistics import NormalDist, fmean
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from raml_trl.accounting import ceiling
from raml_trl.dealing import IDLE, deal_micro_batches
from raml_trl.selection import Strategy, select_rollouts

Sharding = Literal["none", "optimizer", "gradients", "full"]
"""What is spread over the processes: nothing, ZeRO-1, ZeRO-2, ZeRO-3 or FSDP; each includes the one before."""

ROLLOUTS_DRAWN = 4096  # at least: the mean of the cells is then known to about a part in a hundred
_HEAD_TILE = (4096, 32768)  # rows and words of the logits that TRL's fused head holds at a time
_TILES_ON_CPU = 8  # where no Triton kernel works in place; seen in the resident set of a backward pass


@dataclass(frozen=True)
class Geometry:
    """How the trainer cuts a generation into micro-batches: fields of `SubsetGRPOConfig`, as settled."""

    num_processes: int
    per_device_train_batch_size: int
    steps_per_generation: int
    gradient_accumulation_steps: int
    num_iterations: int
    num_generations: int
    num_generations_update: int
    selection: Strategy
    selection_scope: Literal["group", "batch"]
    subset_mode: Literal["drop", "mask"]
    length_bucketing: bool
    skip_zero_advantage: bool

    @property
    def fraction(self) -> float:
        """m/G."""
        return self.num_generations_update / self.num_generations

    @property
    def rows_per_micro_batch(self) -> int:
        """Of one process: those that run."""
        rollouts = self.per_device_train_batch_size
        return rollouts if self.subset_mode == "mask" else int(rollouts * self.fraction)

    @property
    def rollouts(self) -> int:
        """Of a generation, on all processes."""
        return self.num_processes * self.per_device_train_batch_size * self.steps_per_generation

    @property
    def rollouts_per_step(self) -> float:
        """Generated for an optimizer step, on all processes; used `num_iterations` times."""
        return self.rollouts * self.generations_per_step / self.num_iterations

    @property
    def generations_per_step(self) -> float:
        """How much of a generation is trained on in an optimizer step, every pass over it counted."""
        return self.gradient_accumulation_steps / self.steps_per_generation


class Work(NamedTuple):
    """Of an optimizer step: `rows` trained on by all processes, `cells` forwarded by the process that has most.

    `cells_all` are those of TRL, which trains on all G and pads to the longest rollout of a process.
    """

    rows: float
    cells: float
    cells_all: float


class Split(NamedTuple):
    """Seconds of an optimizer step: what does not shrink with m, and what a cell of an update costs."""

    generating: float
    selecting: float
    updating: float
    updating_per_cell: float


class Shape(NamedTuple):
    """What a model's memory depends on. Query and key/value widths are heads times head size."""

    num_parameters: int
    num_trained: int
    num_layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int
    vocabulary: int


class Precision(NamedTuple):
    """Bytes: of a parameter, its gradient and its AdamW states; of a number in a matrix product, in the residual.

    `norms` are the bytes that both norms of a layer keep per hidden unit: each its input in float32, the normed input,
    and what it hands to the products, once where these take it as it is, once for each where autocast converts it.
    """

    weights: int
    gradients: int
    states: int
    compute: int
    residual: int
    norms: int


PRECISIONS = {
    "float32": Precision(weights=4, gradients=4, states=8, compute=4, residual=4, norms=24),
    # autocast keeps a copy of the weights for the products
    "mixed": Precision(weights=4 + 2, gradients=4, states=8, compute=2, residual=4, norms=26),
    "bfloat16": Precision(weights=2, gradients=2, states=4, compute=2, residual=2, norms=16),
    # ZeRO's: the optimizer owns the weights in float32
    "sharded": Precision(weights=2, gradients=2, states=4 + 8, compute=2, residual=2, norms=16),
}


def find_precision(dtype: str, *, mixed: bool, sharding: Sharding) -> Precision:
    """Of weights loaded as `dtype`, trained with autocast or DeepSpeed's own half precision (`mixed`) or without."""
    if mixed and sharding != "none":
        return PRECISIONS["sharded"]
    if dtype != "float32":
        return PRECISIONS["bfloat16"]
    return PRECISIONS["mixed" if mixed else "float32"]


def lognormal_lengths(median: float, sigma: float, longest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`(N,)` completion tokens: log-normal, from 1 to `longest`; `sigma` is of the natural logarithm."""
    return np.clip(median * np.exp(sigma * rng.standard_normal(ROLLOUTS_DRAWN)), 1, longest).astype(np.int64)


def lognormal_of_extremes(mean: float, least: float, most: float, number: int) -> tuple[float, float]:
    """The median and sigma of a log-normal of which `number` draws have about this mean and these extremes.

    The extremes of n normal numbers lie about z(1 - 1/(n + 1)) deviations from the mean, on either side.
    """
    sigma = log(most / least) / (2 * NormalDist().inv_cdf(1 - 1 / (number + 1)))
    return mean / exp(sigma**2 / 2), sigma


def logged_lengths(entries: Sequence[Mapping[str, Any]], rollouts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`(N,)` completion tokens, drawn from the log-normal of what a run logged of its `rollouts`: the mean, least and
    greatest length.
    """
    mean, least, most = (
        fmean(entry[f"completions/{part}_length"] for entry in entries if f"completions/{part}_length" in entry)
        for part in ("mean", "min", "max")
    )
    return lognormal_lengths(*lognormal_of_extremes(mean, least, most, rollouts), int(most), rng)


def draw_work(
    geometry: Geometry, lengths: NDArray[np.int64], *, prompt_length: int, dead_groups: float, seed: int
) -> Work:
    """The mean over some generations, of lengths drawn independently; the same for every m.

    Args:
        geometry: of the recipe.
        lengths: `(N,)` completion tokens to draw from.
        prompt_length: tokens of every prompt, padded.
        dead_groups: the share of groups of one reward, whose advantages are 0.
        seed: of the draws.
    """
    generations = range(ceil(ROLLOUTS_DRAWN / geometry.rollouts))
    drawn = [_draw_generation(geometry, lengths, prompt_length, dead_groups, seed, step) for step in generations]
    return Work(*(np.mean(drawn, axis=0) * geometry.generations_per_step).tolist())


def _draw_generation(
    geometry: Geometry, pool: NDArray[np.int64], prompt_length: int, dead_groups: float, seed: int, step: int
) -> tuple[int, int, int]:
    rng = np.random.default_rng([seed, step])
    num_processes, group = geometry.num_processes, geometry.num_generations
    lengths = rng.choice(pool, size=(num_processes, geometry.rollouts // num_processes))  # (W, R)
    rewards = rng.random((lengths.size // group, group))  # (P, G)
    rewards[rng.random(len(rewards)) < dead_groups] = 0.0
    shuffled = rng.permuted(np.arange(lengths.size).reshape(lengths.shape), axis=1)
    advantages = rewards - rewards.mean(axis=1, keepdims=True)
    together = lengths.size if geometry.selection_scope == "batch" else group
    selection = select_rollouts(
        rewards.reshape(-1, together),
        advantages.reshape(-1, together),
        geometry.num_generations_update * together // group,
        strategy=geometry.selection,
        seed=seed,
        step=step,
    )
    selected = selection.mask(together).ravel()[shuffled]  # (W, R), as TRL buffers them
    live = advantages.ravel()[shuffled] != 0 if geometry.skip_zero_advantage else np.ones_like(selected)
    cells = np.zeros(num_processes, dtype=np.int64)
    longest = lengths.max()  # untrimmed, rows are as wide as this on the process that has it, and no wider elsewhere
    for rows in _micro_batches(geometry, selected, live, lengths):  # (W, N)
        trimmed = np.max(np.where(rows == IDLE, 1, lengths.ravel()[rows]), axis=1)
        cells += rows.shape[1] * (prompt_length + (trimmed if geometry.length_bucketing else longest))
    cells_all = lengths.shape[1] * (prompt_length + longest)
    return int((selected & live).sum()), int(cells.max()), int(cells_all)


def _micro_batches(
    geometry: Geometry, selected: NDArray[np.bool_], live: NDArray[np.bool_], lengths: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """K of `(W, N)` rows: what the trainer makes of a generation."""
    return deal_micro_batches(
        selected,
        geometry.steps_per_generation,
        window=gcd(geometry.steps_per_generation, geometry.gradient_accumulation_steps),
        lengths=lengths if geometry.length_bucketing else None,
        live=live if geometry.skip_zero_advantage else None,
        others=geometry.subset_mode == "mask",
    )


def given_split(generating: float, updating: float, work: Work) -> Split:
    """From the seconds of TRL's own step on all G; all of an update is laid to its cells, which flatters small m."""
    return Split(generating, 0.0, 0.0, updating / work.cells_all)


def measured_split(summary: Mapping[str, Any], geometry: Geometry) -> Split:
    """From a run, of any m: `summary` is that of `accounting.summary`.

    It holds what the updates took and, by its estimated speed-up, what they would have taken with all cells: the line
    through these two is the constant and the price. Where they are the same cells, all is laid to the cells. Scoring is
    a forward pass over about the same cells and has a price only.

    Args:
        summary: of a run that updated.
        geometry: of the recipe, for the rollouts of a step.
    """
    seconds, counts = summary["seconds"], summary["counts"]
    cells, cells_all = counts["cells_updating"], counts["cells_updating_all"]
    generating = seconds["generating"] + seconds["rewarding"] + seconds["preparing"]
    scoring_all = seconds["scoring"] * counts.get("cells_scoring_all", 0) / max(counts.get("cells_scoring", 0), 1)
    whole = summary["speedup"]["estimated"] * sum(seconds.values())
    price = most = seconds["updating"] / cells
    if cells_all != cells:
        price = (whole - generating - scoring_all - seconds["updating"]) / (cells_all - cells)
    price = min(max(price, 0.0), most)  # the summary is rounded
    scale = geometry.rollouts_per_step / counts["rollouts"]
    return Split(
        generating * scale,
        seconds["selecting"] * scale,
        (seconds["updating"] - price * cells) * scale,
        price + seconds["scoring"] / cells,
    )


def predict_seconds(split: Split, work: Work, fraction: float) -> dict[str, float]:
    """Seconds of an optimizer step, and how many times faster it is than TRL's on all G.

    Args:
        split: measured or given.
        work: of m.
        fraction: m/G.
    """
    updating = split.selecting + split.updating + split.updating_per_cell * work.cells
    whole = split.generating + split.updating + split.updating_per_cell * work.cells_all
    return {
        "generating": split.generating,
        "updating": updating,
        "step": split.generating + updating,
        "speedup": whole / (split.generating + updating),
        "ceiling": ceiling(split.generating / whole, fraction),
    }


def state_bytes(
    shape: Shape, precision: Precision, *, sharding: Sharding, num_processes: int, reference: bool
) -> dict[str, int]:
    """Of one device, whatever m is: weights (with those of a reference model), gradients, AdamW states.

    Source: ZeRO, arXiv 1910.02054, section 3.1: 2 + 2 + 12 bytes a parameter in half precision, each part divided by
    the processes once it is sharded.
    """
    parts = {
        "optimizer": precision.states * shape.num_trained,
        "gradients": precision.gradients * shape.num_trained,
        "weights": precision.weights * shape.num_parameters * (2 if reference else 1),
    }
    level = get_args(Sharding).index(sharding)
    return {name: size // (num_processes if place < level else 1) for place, (name, size) in enumerate(parts.items())}


def kept_bytes(shape: Shape, precision: Precision, *, width: int, attention: str) -> int:
    """Of a cell in a layer: what autograd keeps for the backward pass.

    The residual at both norms, normed, and as the products take it (`norms`); queries, keys, values and the output of
    attention; four intermediates of a gated feed-forward layer. Attention keeps no scores if `flash_attention_2`; with
    `sdpa` a mask of `width`, and keys and values repeated for every head; if `eager` the softmax too.

    Source: the count of Korthikanti et al., arXiv 2205.05198, section 4.1, redone for what transformers 5 keeps in a
    layer of the Llama family (RMSNorm, gated, no dropout). tests/test_planning.py holds it against autograd.
    """
    compute = precision.compute
    scores = {
        "sdpa": compute * width,
        "eager": shape.heads * width * (4 if compute == 4 else 4 + compute),  # taken in float32, then converted
    }.get(attention, 4 * shape.heads)  # flash attention: the logarithm of each softmax's sum
    keys = shape.keys if attention.startswith("flash") else shape.queries
    numbers = 2 * shape.queries + 2 * keys + 4 * shape.intermediate
    return precision.norms * shape.hidden + compute * numbers + scores


def activation_bytes(
    shape: Shape, precision: Precision, *, rows: int, width: int, checkpointing: bool, attention: str, on_cpu: bool
) -> int:
    """Of a micro-batch of `rows` x `width` cells at its highest: what is kept, and what the backward pass works with.

    With gradient checkpointing only the residual is kept, and one layer at a time is run again. The backward pass works
    on one layer, or before that on the head: there TRL holds a tile of the logits (trl/kernels/chunked_logprob.py), and
    the gradients of the hidden states and of the head in float32.

    Held against the resident set on a CPU (12 layers, hidden 256, rows of 512): that grew by 1.1 to 1.2 times this
    without checkpointing, by 1.1 to 2.6 times with it. Not yet held against a GPU.
    """
    compute, cells = precision.compute, rows * width
    layer = kept_bytes(shape, precision, width=width, attention=attention)
    kept = shape.num_layers * (precision.residual * shape.hidden if checkpointing else layer)
    working = (layer if checkpointing else 0) + compute * (3 * shape.intermediate + 2 * shape.hidden)
    tile_rows, tile_words = _HEAD_TILE
    tile_row = _TILES_ON_CPU * 4 * min(shape.vocabulary, tile_words) if on_cpu else compute * tile_words
    head = tile_row * min(cells, tile_rows) + 4 * shape.hidden * (shape.vocabulary + cells)
    return kept * cells + max(working * cells, head)
