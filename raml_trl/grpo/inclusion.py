"""Draws a fixed number of items with known probabilities, which may differ between items.

With the probability p of an item known, a sum over the drawn items, each divided by its p, estimates the sum over all
items without bias. Source: Horvitz and Thompson, JASA 1952.

Shapes: P groups with G items each, of which M are drawn.
"""

import numpy as np
from numpy.typing import NDArray


def inclusion_probabilities(sizes: NDArray[np.floating], num_selected: int) -> NDArray[np.float64]:
    """Return probabilities `(P, G)` that are proportional to `sizes`, capped at 1, and sum to m in each group.

    The k largest sizes get probability 1. Every other size gets c * size with c = (m - k) / (sum of the other sizes).
    k is the smallest number for which no probability exceeds 1. Equal sizes give exactly m/G, and m = G gives exactly
    1.

    Args:
        sizes: `(P, G)`, for P groups of G items; positive.
        num_selected: m, the number of items to draw from each group, from 1 to G.
    """
    assert (sizes > 0).all(), "a rollout of size 0 is never drawn, so no weight can make the estimate unbiased"
    num_rollouts = sizes.shape[1]
    if num_selected == num_rollouts:  # c would be infinite
        return np.ones(sizes.shape)
    sizes = sizes / sizes.max(axis=1, keepdims=True)  # makes the sum of equal sizes exact
    descending = -np.sort(-sizes, axis=1)
    others = np.cumsum(descending[:, ::-1], axis=1)[:, ::-1]  # (P, G): sum of all but the k largest, for k = 0, 1, ...
    remaining = num_selected - np.arange(num_selected)  # (M,): m - k
    exceeds = remaining * descending[:, :num_selected] > others[:, :num_selected]
    num_certain = np.argmin(exceeds, axis=1)[:, None]  # (P, 1): k, at most m - 1: no size exceeds a sum with it
    return np.minimum(1, remaining[num_certain] * sizes / np.take_along_axis(others, num_certain, axis=1))


def systematic_draw(
    probabilities: NDArray[np.float64], start: NDArray[np.float64], num_selected: int
) -> NDArray[np.bool_]:
    """Draw m rollouts per group, each with exactly its probability. Return a mask `(P, G)`, true for drawn rollouts.

    Source: Madow, Annals of Mathematical Statistics 1949. The probabilities are intervals laid end to end over [0, m).
    The m points start, start + 1, ... fall into m different intervals, because no interval is longer than 1.

    Args:
        probabilities: `(P, G)`, for P groups of G rollouts; those of a group sum to m.
        start: `(P, 1)`, the first point of each group, in [0, 1).
        num_selected: m.
    """
    points_before = np.ceil(np.cumsum(probabilities, axis=1) - start)  # (P, G): points before the end of interval i
    # Rounding may put two points into one interval, or the last point behind the last interval. Therefore the count is
    # made to grow by at most 1 per interval, and to end at m.
    intervals = np.arange(1, probabilities.shape[1] + 1)
    points_before = np.minimum.accumulate(points_before - intervals, axis=1) + intervals
    points_before = np.clip(points_before, num_selected - intervals[::-1] + 1, num_selected)
    return np.diff(points_before, axis=1, prepend=0) > 0
