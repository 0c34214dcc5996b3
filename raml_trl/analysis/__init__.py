"""Experiments on the probability that a model gives to the reference answer.

It is measured after every prefix of a trajectory, as the weights of the model move, and after shortened trajectories.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raml_trl.analysis.likelihood import answer_nll as answer_nll
    from raml_trl.analysis.likelihood import answer_nll_along as answer_nll_along

__all__ = ["answer_nll", "answer_nll_along"]


def __getattr__(name: str) -> object:
    """Import a public function on first use, because it imports torch and transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("raml_trl.analysis.likelihood"), name)
