"""Predicts the rows, cells and seconds of an optimizer step on m of G rollouts.

Rows and cells come from a simulation: completion lengths are drawn at random, and the trainer's own code selects rows
and distributes them over micro-batches. Seconds are estimated with a price per cell, the seconds that one cell takes.
The module `memory` predicts the memory.

A row is a rollout in a micro-batch. A cell is one token position that a forward pass computes, padding included.

Letters in shapes: a generation batch has W processes with R rollouts each, which together are P groups of G rollouts.
Each process has K micro-batches of N rows.
"""

from collections.abc import Sequence
from math import ceil, gcd, log, sqrt
from statistics import NormalDist, fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo.ledger import ceiling
from raml_trl.grpo.micro_batches import IDLE, deal_micro_batches
from raml_trl.grpo.packing.dealing import RowTokens, deal_groups
from raml_trl.grpo.planning.geometry import Geometry
from raml_trl.grpo.selection import cost_factors, select_rollouts
from raml_trl.grpo.user_selection import load_strategy
from raml_trl.runtime.history import LogEntry, RunSummary

UNCERTAIN = (
    "The cost of a token is uncertain in that run, because its micro-batches are few, have the same size, or vary in "
    "time for other reasons. So the seconds for other m are rough: train 20 steps or more, without other work beside."
)
"""What to say about predictions from a run with `ledger.is_uncertain`."""

ROLLOUTS_DRAWN = 4096  # the least number to simulate; the mean number of cells is then accurate to about 1 %
BISECTIONS = 40  # halve the logarithm of the interval of a median; 40 leave less than a millionth of it


class Work(NamedTuple):
    """The work of an optimizer step.

    `rows` is the number of rollouts trained on, over all processes. `cells` is the number of token positions, padding
    included, that the busiest process runs. `cells_all` is the same number for TRL's trainer, which trains on
    all G rollouts and pads each to the longest rollout of its process.
    """

    rows: float
    cells: float
    cells_all: float


class Split(NamedTuple):
    """The seconds of an optimizer step: three constants, and the seconds that each token position adds.

    `generating` includes the rewards and the preparation of the batch. `selecting` is the time of choosing the
    rollouts. `updating` is the part of the update that does not depend on the number of token positions.
    `updating_per_cell` is the time of one token position.
    """

    generating: float
    selecting: float
    updating: float
    updating_per_cell: float


def lognormal_lengths(median: float, sigma: float, longest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw completion lengths `(N,)` in tokens from a log-normal distribution, clipped to 1..`longest`.

    N is `ROLLOUTS_DRAWN`. `median` is the median of the distribution, and `sigma` the standard deviation of the natural
    logarithm of its lengths.
    """
    return _clipped(median * _lognormal_factors(sigma, rng), longest)


def sigma_of_extremes(least: float, most: float, number: int) -> float:
    """Return the sigma of a log-normal distribution, from the minimum `least` and the maximum `most` of its draws.

    With n for the `number` of draws: the extremes of n draws from a normal distribution lie about z(1 - 1/(n + 1))
    standard deviations below and above its mean, where z is the inverse of the cumulative distribution function.
    """
    return log(most / least) / (2 * NormalDist().inv_cdf(1 - 1 / (number + 1)))


def logged_lengths(entries: Sequence[LogEntry], rollouts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw completion lengths `(N,)` in tokens that fit the log of a run.

    N is `ROLLOUTS_DRAWN`. The lengths come from a log-normal distribution, clipped to 1 and to the maximum in the log.
    Its sigma follows from the minimum and the maximum, each averaged over the entries of the log. Its median is such
    that the clipped lengths have the mean of the log. If many completions were cut at the limit of the run, sigma is
    too low, because the maximum is not the one of the distribution.

    Args:
        entries: the log of the run.
        rollouts: number of rollouts that each entry summarizes.
        rng: generator for the draws.
    """
    means, minima, maxima = (
        [entry[f"completions/{part}_length"] for entry in entries if f"completions/{part}_length" in entry]
        for part in ("mean", "min", "max")
    )
    mean, longest = fmean(means), round(fmean(maxima))
    factors = _lognormal_factors(sigma_of_extremes(fmean(minima), fmean(maxima), rollouts), rng)
    low, high = 1 / factors.max(), longest / factors.min()  # all lengths are 1 at `low`, and the longest at `high`
    for _ in range(BISECTIONS):
        median = sqrt(low * high)
        low, high = (median, high) if _clipped(median * factors, longest).mean() < mean else (low, median)
    return _clipped(high * factors, longest)


def _lognormal_factors(sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw `ROLLOUTS_DRAWN` lengths, divided by their median."""
    return np.exp(sigma * rng.standard_normal(ROLLOUTS_DRAWN))


def _clipped(lengths: NDArray[np.float64], longest: int) -> NDArray[np.int64]:
    return np.clip(np.rint(lengths), 1, longest).astype(np.int64)


def draw_work(
    geometry: Geometry, lengths: NDArray[np.int64], *, prompt_length: int, dead_groups: float, seed: int
) -> Work:
    """Simulate several generation batches, and return the mean work of an optimizer step.

    The simulated rollouts are the same for every m (rollouts trained on per group).

    Args:
        geometry: the batch sizes and the selection of the recipe.
        lengths: `(N,)`: N completion lengths in tokens, from which each rollout's length is drawn independently.
        prompt_length: tokens of every prompt, padding included.
        dead_groups: share of groups in which all rewards are equal, so all advantages are 0. These groups
            are drawn, but their number is fixed.
        seed: seed of the draws.
    """
    number, groups = ceil(ROLLOUTS_DRAWN / geometry.rollouts), geometry.rollouts // geometry.num_generations
    dead = np.arange(number * groups) < round(dead_groups * number * groups)
    dead = np.random.default_rng([seed, number]).permuted(dead).reshape(number, groups)
    drawn = [_draw_generation(geometry, lengths, prompt_length, dead[step], seed, step) for step in range(number)]
    return Work(*(np.mean(drawn, axis=0) * geometry.generations_per_step).tolist())


def _draw_generation(
    geometry: Geometry, pool: NDArray[np.int64], prompt_length: int, dead: NDArray[np.bool_], seed: int, step: int
) -> tuple[int, int, int]:
    rng = np.random.default_rng([seed, step])
    num_processes, group = geometry.num_processes, geometry.num_generations
    lengths = rng.choice(pool, size=(num_processes, geometry.rollouts // num_processes))  # (W, R)
    rewards = rng.random((lengths.size // group, group))  # (P, G)
    rewards[dead] = 0.0
    shuffled = rng.permuted(np.arange(lengths.size).reshape(lengths.shape), axis=1)
    advantages = rewards - rewards.mean(axis=1, keepdims=True)
    lengths_together = np.empty_like(lengths.ravel())
    lengths_together[shuffled] = lengths  # before TRL shuffles them, as the selection sees them
    together = lengths.size if geometry.selection_scope == "batch" else group
    factors = None
    if geometry.selection_cost == "tokens":
        of_groups = lengths_together.reshape(-1, group)
        prompts = np.full_like(of_groups, prompt_length)
        m, mean_of_row = geometry.num_generations_update, geometry.mean_of_row
        factors = cost_factors(prompts, of_groups, m, mean_of_row=mean_of_row, shared=geometry.packs)
        factors = factors.reshape(-1, together)
    selection = select_rollouts(
        rewards.reshape(-1, together),
        advantages.reshape(-1, together),
        geometry.num_generations_update * together // group,
        strategy=load_strategy(geometry.selection),
        seed=seed,
        step=step,
        lengths=lengths_together.reshape(-1, together),
        factors=factors,
    )
    selected = selection.mask(together).ravel()[shuffled]  # (W, R), as TRL buffers them
    live = advantages.ravel()[shuffled] != 0 if geometry.skip_zero_advantage else np.ones_like(selected)
    longest = lengths.max()  # untrimmed width on the process with the longest rollout, and an upper bound on others
    cells_all = lengths.shape[1] * (prompt_length + longest)
    if geometry.prefix is not None:
        minimum, keep = geometry.prefix
        lengths = cut_lengths(lengths, rng.random(lengths.shape), minimum=minimum, keep=keep)
    prefixes = np.full(lengths.size, prompt_length - 1)
    tokens = RowTokens(shuffled.ravel() // group, prefixes, lengths.ravel())
    cells = _cells(geometry, selected, live, tokens, prompt_length=prompt_length, longest=longest)
    return int((selected & live).sum()), int(cells.max()), int(cells_all)


def _cells(
    geometry: Geometry,
    selected: NDArray[np.bool_],
    live: NDArray[np.bool_],
    tokens: RowTokens,
    *,
    prompt_length: int,
    longest: int,
) -> NDArray[np.int64]:
    """Return the cells `(W,)` that each process runs in the update of one generation."""
    num_micro_batches = geometry.steps_per_generation
    window = gcd(num_micro_batches, geometry.gradient_accumulation_steps)
    masks = geometry.subset_mode == "mask"
    cells = np.zeros(len(selected), dtype=np.int64)
    if geometry.packs:
        limit = geometry.max_tokens_per_micro_batch
        for rows in deal_groups(
            selected,
            tokens,
            num_micro_batches,
            live=live if geometry.skip_zero_advantage else None,
            window=window,
            limit=limit or geometry.per_device_train_batch_size * (prompt_length + longest),
            keep_unselected=masks,
        ):
            cells += [tokens.count(own[own != IDLE]) for own in rows]
        return cells
    lengths = tokens.branches.reshape(selected.shape)
    for rows in deal_micro_batches(
        selected,
        num_micro_batches,
        window=window,
        lengths=lengths if geometry.length_bucketing else None,
        live=live if geometry.skip_zero_advantage else None,
        keep_unselected=masks,
    ):
        trimmed = np.max(np.where(rows == IDLE, 1, lengths.ravel()[rows]), axis=1)
        cells += rows.shape[1] * (prompt_length + (trimmed if geometry.length_bucketing else longest))
    return cells


def cut_lengths(
    lengths: NDArray[np.int64], draws: NDArray[np.float64], *, minimum: int, keep: float
) -> NDArray[np.int64]:
    """Return the lengths of completions after a cut by `token_selection: prefix`, in an array of the same shape.

    Args:
        lengths: tokens of each completion.
        draws: u in [0, 1) for each completion: the tokens that survive with a probability above u remain.
        minimum: the setting `prefix_minimum`.
        keep: the setting `prefix_keep`.
    """
    beyond = np.maximum(lengths - minimum, 0)
    whole = (draws < keep) | (beyond == 0)
    kept = np.ceil(beyond * (1 - draws) / max(1 - keep, 1e-9)) - 1  # the largest number of further tokens
    return np.where(whole, lengths, minimum + kept.astype(np.int64))


def given_split(generating: float, updating: float, work: Work) -> Split:
    """Split given seconds of a step into a constant, and seconds per token position.

    The step is one of TRL's trainer on all G rollouts. The seconds of its update are divided by its number of token
    positions, because no constant part of the update is known. This makes a small m look faster than it is.

    Args:
        generating: seconds of the step that do not shrink with m.
        updating: seconds of the update.
        work: the work of the step.
    """
    return Split(generating, 0.0, 0.0, updating / work.cells_all)


def measured_split(summary: RunSummary, geometry: Geometry) -> Split:
    """Split the seconds of a step, as measured in a run with any m, into constants and seconds per token position.

    The seconds of the updates are taken to be a constant plus a price times the number of token positions, so that they
    add up to the seconds of the run. The run has fitted the price to its micro-batches. Scoring is a forward pass over
    about the same positions, so its seconds per position are added to the price. The first micro-batch is taken to last
    as long as the others, because it includes checks that run once.

    Older runs did not store the price. For them it follows from the seconds that the updates of TRL's trainer would
    have taken on all G rollouts, which follow from the estimated speed-up.

    Args:
        summary: summary of a run with at least one update.
        geometry: the batch sizes of the recipe, which give the number of rollouts per step.
    """
    seconds, counts = summary["seconds"], summary["counts"]
    cells, cells_all = counts["cells_updating"], counts["cells_updating_all"]
    generating = seconds["generating"] + seconds["rewarding"] + seconds["preparing"]
    scoring_all = seconds["scoring"] * counts.get("cells_scoring_all", 0) / max(counts.get("cells_scoring", 0), 1)
    whole = summary["speedup"]["estimated"] * sum(seconds.values())
    updating = summary.get("later_updating", seconds["updating"])
    price = most = updating / cells
    if "cell_seconds" in summary:
        price = summary["cell_seconds"]["fitted"]
    elif cells_all != cells:
        price = (whole - generating - scoring_all - seconds["updating"]) / (cells_all - cells)
    price = min(max(price, 0.0), most)  # so that neither the constant nor the price is negative
    constant = updating - price * cells if price < most else 0.0  # without an error of rounding
    scale = geometry.rollouts_per_step / kept_rollouts(summary)
    return Split(
        generating * scale,
        seconds["selecting"] * scale,
        constant * scale,
        price + seconds["scoring"] / cells,
    )


def kept_rollouts(summary: RunSummary) -> float:
    """Return the number of rollouts that a run generated, without those that the setting `refill` replaced."""
    return summary["counts"]["selected"] * summary["num_generations"] / summary["num_generations_update"]


def predict_seconds(split: Split, work: Work, fraction: float) -> dict[str, float]:
    """Return the seconds of an optimizer step, and its speed-up over TRL's trainer on all G rollouts.

    The result also has the `ceiling`: the largest speed-up that training on m of G rollouts can give by itself.

    Args:
        split: the seconds of a step, from `measured_split` or `given_split`.
        work: the work of a step with this m.
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
