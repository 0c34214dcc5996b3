"""Decides from the settings and the model whether rows may move between micro-batches, and which rows are skipped.

In most losses, the gradient of an optimizer step is a sum over its rows, so moving rows and leaving out rows without a
gradient leaves it unchanged. Losses with a mean over one micro-batch, and models whose results depend on padding or on
random numbers, are the exceptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Settings that add a mean over one micro-batch to the loss, each with the values that switch it off; TRL's default
# comes first.
_MICRO_BATCH_MEANS: dict[str, tuple[object, ...]] = {
    "entropy_coef": (0.0,),
    "use_adaptive_entropy": (False,),
    "top_entropy_quantile": (1.0,),
    "router_aux_loss_coef": (None, 0.0),
}


class RowRules(NamedTuple):
    """How rows are assigned to micro-batches.

    Attributes:
        length_bucketing: rows move between micro-batches to reduce padding.
        skip_zero_advantage: rows with advantage 0 are skipped.
        whole_groups: rows move so that rows with the same prompt share a micro-batch, in which the prompt runs once.
    """

    length_bucketing: bool
    skip_zero_advantage: bool
    whole_groups: bool = False


@dataclass(frozen=True)
class ModelTraits:
    """The properties of a model that decide whether rows may move and padding may be trimmed.

    `router_loss`: the model adds a router loss, which is a mean over a micro-batch.
    `noise`: it draws random numbers in training, as dropout and NEFTune do.
    `padding`: padding changes its log-probabilities, as in GPT-2, whose positions are absolute.
    `width_limit`: padding changes its log-probabilities only in batches wider than this; None for no limit.
    """

    router_loss: bool = False
    noise: bool = False
    padding: bool = False
    width_limit: int | None = None


PLAIN_MODEL = ModelTraits()
"""A model whose gradient stays the same if rows move and padding is trimmed."""


def per_micro_batch_terms(settings: Mapping[str, object]) -> list[str]:
    """Return the names of the settings that make the loss depend on which rows share a micro-batch.

    Args:
        settings: fields of `SubsetGRPOConfig` by name; a missing field counts as its default.
    """
    terms = ["loss_type: bnpo"] if settings.get("loss_type") == "bnpo" else []
    return terms + [name for name, off in _MICRO_BATCH_MEANS.items() if settings.get(name, off[0]) not in off]


def settle_row_rules(settings: Mapping[str, object], traits: ModelTraits = PLAIN_MODEL) -> RowRules:
    """Return whether `length_bucketing` and `skip_zero_advantage` are on.

    A setting that is true or false stays so. A setting that is None is on if it leaves the gradient of an optimizer
    step unchanged, and otherwise off.

    Args:
        settings: fields of `SubsetGRPOConfig` by name; a missing field counts as its default.
        traits: the properties of the model that may change the gradient, such as dropout.
    """
    movable = not per_micro_batch_terms(settings) and traits == PLAIN_MODEL
    skippable = movable and settings.get("beta", 0.0) == 0.0 and settings.get("subset_mode", "drop") == "drop"
    bucketing, skipping = settings.get("length_bucketing"), settings.get("skip_zero_advantage")
    return RowRules(
        length_bucketing=movable if bucketing is None else bool(bucketing),
        skip_zero_advantage=skippable if skipping is None else bool(skipping),
    )
