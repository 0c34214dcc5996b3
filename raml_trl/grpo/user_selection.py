"""Defines the result of a selection, and finds, names and checks selection functions of the user.

Shapes: P groups (one per prompt), G rollouts in each group, M of them selected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.functions import check_arguments, import_function

Strategy = Literal["random", "first", "max_variance", "abs_advantage", "balanced", "importance"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

_ARGUMENTS = ("rewards", "advantages", "lengths", "m", "rng")  # of a function of the user


@dataclass(frozen=True)
class Selection:
    """The M selected rollouts of each of P groups, and their weights.

    `indices` `(P, M)`: positions within the group, ascending.
    `weights` `(P, M)`: the weight w_i of each selected rollout. The weighted mean over the selected rollouts S,
    `(1/m) sum_S w_i x_i`, estimates the mean over the group, `(1/G) sum x_i`, where x_i is a gradient.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def unweighted(cls, indices: NDArray[np.int64]) -> "Selection":
        """Return a selection in which all rollouts have weight 1. `indices` is `(P, M)`, in any order."""
        return cls(np.sort(indices, axis=1), np.ones(indices.shape))

    def mask(self, num_rollouts: int) -> NDArray[np.bool_]:
        """Return the selection as `(P, G)`: true for selected rollouts. `num_rollouts` is G, the size of each group."""
        mask = np.zeros((len(self.indices), num_rollouts), dtype=bool)
        np.put_along_axis(mask, self.indices, True, axis=1)
        return mask

    def row_weights(self, num_rollouts: int) -> NDArray[np.float64]:
        """Return the weights as `(P, G)`: 0 for rollouts that are not selected.

        `num_rollouts` is G, the size of each group.
        """
        weights = np.zeros((len(self.indices), num_rollouts))
        np.put_along_axis(weights, self.indices, self.weights, axis=1)
        return weights


Selector = Callable[[NDArray[Any], NDArray[Any], NDArray[np.int64], int, np.random.Generator], Selection]
"""A strategy of the user: a function `(rewards, advantages, lengths, m, rng) -> Selection`.

The three arrays are `(P, G)`; they are copies, so the function may change them. `lengths` has the number of completion
tokens of each rollout. `rng` depends only on the seed and the step. With `selection_scope: batch`, the arrays hold one
group of all P * G rollouts, and `m` is P * m.
"""


def load_strategy(name: str) -> Strategy | Selector:
    """Return the strategy with this name: one of `STRATEGIES`, or the function at a path.

    Args:
        name: a strategy, or `package.module:function` or `package.module.function`.

    Raises:
        InputError: if there is no such strategy or function.
    """
    if name in STRATEGIES:
        return cast(Strategy, name)
    found = import_function(name, "selection", STRATEGIES)
    check_arguments(found, f"selection {name!r}", f"five arguments, ({', '.join(_ARGUMENTS)})", *_ARGUMENTS)
    return cast(Selector, found)


def selector_name(selector: Selector) -> str:
    """Return the path `package.module:function` by which `load_strategy` can import a function.

    Raises:
        InputError: if it cannot import the function, which may be a lambda or lie inside another function. A checkpoint
            and a resumed run could not refer to such a function.
    """
    path = path_of(selector)
    try:
        importable = load_strategy(path) is selector
    except InputError:
        importable = False
    if not importable:
        raise InputError(
            f"selection {path} cannot be imported, so a resumed run could not find it: define it with def, outside of "
            "other functions and classes"
        )
    return path


def path_of(selector: Selector) -> str:
    """Return the path of a function, whether or not it can be imported from there."""
    return f"{selector.__module__}:{getattr(selector, '__qualname__', type(selector).__name__)}"


def check_selection(selection: object, name: str, shape: tuple[int, int], num_rollouts: int) -> Selection:
    """Check that a function has selected m valid rollouts of each group.

    Return the selection with indices of type int64 and weights of type float64.

    Args:
        selection: the value that the function returned.
        name: name of the function, for errors.
        shape: (P, m): the number of groups, and the number of rollouts to select in each.
        num_rollouts: G, the number of rollouts in each group.

    Raises:
        InputError: if the selection is invalid. The message names the function and the invalid value.
    """
    if not isinstance(selection, Selection):
        raise InputError(
            f"selection {name} must return a raml_trl.grpo.Selection, got {selection!r} ({type(selection).__name__})"
        )
    indices, weights = np.asarray(selection.indices), np.asarray(selection.weights)
    for field, values in (("indices", indices), ("weights", weights)):
        if values.shape != shape:
            raise InputError(
                f"selection {name} must return {field} of shape (groups, m) = {shape}, got shape {values.shape}"
            )
    if indices.dtype.kind not in "iu":
        raise InputError(f"selection {name} must return indices that are integers, got {indices.dtype}")
    previous = np.concatenate([np.full((shape[0], 1), -1), indices[:, :-1]], axis=1)
    wrong = ((indices <= previous) | (indices >= num_rollouts)).any(axis=1)
    if wrong.any():
        group = int(wrong.argmax())
        raise InputError(
            f"selection {name} must return distinct indices from 0 to {num_rollouts - 1} in ascending order, got "
            f"{indices[group].tolist()} for group {group}: Selection.unweighted sorts them"
        )
    wrong = ~(np.isfinite(weights) & (weights > 0)).all(axis=1)
    if wrong.any():
        group = int(wrong.argmax())
        raise InputError(
            f"selection {name} must return weights that are positive and finite, got {weights[group].tolist()} for "
            f"group {group}"
        )
    return Selection(indices.astype(np.int64), weights.astype(np.float64))
