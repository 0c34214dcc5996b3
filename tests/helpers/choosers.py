"""Selections of a user, which the tests name by their path."""

import random

import numpy as np
from numpy.typing import NDArray

from raml_trl.grpo import Selection


def shortest(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    lengths: NDArray[np.int64],
    m: int,
    rng: np.random.Generator,
) -> Selection:
    """The shortest rollouts; equal lengths in random order."""
    return Selection.unweighted(np.lexsort((rng.random(lengths.shape), lengths))[:, :m])


def keyed(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    lengths: NDArray[np.int64],
    m: int,
    rng: np.random.Generator,
) -> Selection:
    """Rollouts at random, from the keyed generator; and the arrays are changed, which must have no effect."""
    rewards[:], advantages[:], lengths[:] = 0, 0, 0
    return Selection.unweighted(np.argsort(rng.random(lengths.shape), axis=1)[:, :m])


def unkeyed(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    lengths: NDArray[np.int64],
    m: int,
    rng: np.random.Generator,
) -> Selection:
    """Rollouts at random, from a generator that differs between processes."""
    return Selection.unweighted(np.array([random.SystemRandom().sample(range(row.size), m) for row in rewards]))


def doubled(
    rewards: NDArray[np.floating],
    advantages: NDArray[np.floating],
    lengths: NDArray[np.int64],
    m: int,
    rng: np.random.Generator,
) -> Selection:
    """The first rollouts, with weight 2."""
    selection = Selection.unweighted(np.tile(np.arange(m), (len(rewards), 1)))
    return Selection(selection.indices, 2 * selection.weights)


NOT_A_FUNCTION = 7


def two_arguments(rewards: NDArray[np.floating], m: int) -> Selection:
    """A function with the wrong arguments."""
    return Selection.unweighted(np.tile(np.arange(m), (len(rewards), 1)))
