"""Which m of the G rollouts of a group carry gradient.

Shapes: P groups (prompts), G rollouts in each, M selected of each.

Randomness is keyed, never global: what is drawn for a group depends on the seed, the step and the index of the group
in the global batch, and on nothing else. So the subset of a group is the same for any number of processes, any layout
of micro-batches, and after a resume; and drawing it leaves every global generator as it was.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["random"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

_DRAWS_PER_COUNT = 4  # Philox4x64 turns one value of its counter into four numbers


@dataclass(frozen=True)
class Selection:
    """The selected rollouts of P groups.

    `indices` `(P, M)`: positions within the group, ascending.
    `weights` `(P, M)`: what each selected row counts, so that `(1/m) sum_S w_i x_i` estimates `(1/G) sum x_i`.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float64]

    def mask(self, num_rollouts: int) -> NDArray[np.bool_]:
        """`(P, G)`: true where a rollout is selected."""
        mask = np.zeros((len(self.indices), num_rollouts), dtype=bool)
        np.put_along_axis(mask, self.indices, True, axis=1)
        return mask


def select_rollouts(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    num_selected: int,
    *,
    strategy: Strategy,
    seed: int,
    step: int,
    first_group: int = 0,
) -> Selection:
    """Choose `num_selected` rollouts of every group.

    Args:
        rewards: `(P, G)`.
        advantages: `(P, G)`, over the whole group.
        num_selected: m, from 1 to G.
        strategy: the only one so far is `random`, which looks at neither rewards nor advantages.
        seed: of the run.
        step: of the generation, counted from the start of the run.
        first_group: index of the first of these groups in the global batch.
    """
    num_groups, num_rollouts = rewards.shape
    assert advantages.shape == rewards.shape, (advantages.shape, rewards.shape)
    assert 1 <= num_selected <= num_rollouts, (num_selected, num_rollouts)
    match strategy:
        case "random":
            draws = group_draws(num_groups, num_rollouts, seed=seed, step=step, first_group=first_group)
            return _random(draws, num_selected)


def group_draws(
    num_groups: int, num_rollouts: int, *, seed: int, step: int, first_group: int = 0
) -> NDArray[np.float64]:
    """`(P, G)` numbers in [0, 1), each a function of (seed, step, group, rollout) alone.

    One counter-based generator per (seed, step), its counter set to the group: a million groups cost no more than a
    million draws. Source: Philox4x64-10, Salmon et al., SC 2011.
    """
    counts = -(-num_rollouts // _DRAWS_PER_COUNT)
    philox = np.random.Philox(np.random.SeedSequence([seed, step]))
    philox.advance(first_group * counts)
    draws = np.random.Generator(philox).random((num_groups, counts * _DRAWS_PER_COUNT))
    return draws[:, :num_rollouts]


def _random(draws: NDArray[np.float64], num_selected: int) -> Selection:
    """Uniform without replacement, blind to reward.

    Source: RaML, arXiv 2505.19815, section 4.4 (n of 16 random trajectories carry the gradient).
    Every rollout is in the subset with probability m/G, so with weights 1 the mean over S is unbiased for the mean
    over the group. Subsets are nested: for one key, the m chosen contain the m - 1 chosen. With m = 1 many groups give
    only a positive or only a negative signal; equal or missing rewards change nothing, since rewards are not read.
    """
    indices = np.sort(np.argsort(draws, axis=1, kind="stable")[:, :num_selected], axis=1)
    return Selection(indices, np.ones(indices.shape))
