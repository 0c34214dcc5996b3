"""The trainer's configuration: TRL's, and the choice of the m of G rollouts that carry gradient.

A choice that cannot work is refused here, before a model or a data set is loaded, with every number that takes part
and the nearest values that would do.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd
from typing import Literal

from trl import GRPOConfig

from raml_trl.grpo.selection import REWARD_BLIND, Strategy
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_types, nearest

logger = logging.getLogger(__name__)

# What is a mean over one micro-batch rather than over the optimizer step, and so depends on which rows share it.
_PER_MICRO_BATCH: dict[str, Callable[[GRPOConfig], bool]] = {
    "loss_type: bnpo": lambda config: config.loss_type == "bnpo",
    "entropy_coef": lambda config: config.entropy_coef != 0.0,
    "use_adaptive_entropy": lambda config: config.use_adaptive_entropy,
    "top_entropy_quantile": lambda config: config.top_entropy_quantile < 1.0,
    "router_aux_loss_coef": lambda config: bool(config.router_aux_loss_coef),
}
BATCH_STRATEGIES = ("abs_advantage", "importance")
"""Strategies that can choose over the whole generation batch."""
ROW_MEAN_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""Loss types of TRL that are a mean over the rows of a micro-batch, whatever their mask."""
_TOKEN_LOSSES = ("dapo", "cispo", "vespo", "bnpo")


@dataclass
class SubsetGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig`, and the choice of the m of G rollouts that carry gradient.

    `per_device_train_batch_size` and `steps_per_generation` count rollouts before selection, as in TRL; a micro-batch
    of B rollouts then trains on B * m / G rows.
    """

    num_generations_update: int | None = field(
        default=None, metadata={"help": "m: rollouts of each group of num_generations that carry gradient; None = all."}
    )
    subset_mode: Literal["drop", "mask"] = field(
        default="drop",
        metadata={
            "help": "`drop` removes the other rollouts before the forward pass; `mask` runs them and masks their loss "
            "(the paper's mechanism). The gradient is the same."
        },
    )
    selection: Strategy = field(
        default="random",
        metadata={"help": "How the m are chosen; see raml_trl.grpo.selection for paper, formula and bias."},
    )
    selection_scope: Literal["group", "batch"] = field(
        default="group",
        metadata={
            "help": "Choose m of each group, or (`importance`, `abs_advantage`) spend the same number of rows over the "
            "whole generation batch, where groups without signal get fewer."
        },
    )
    advantage_scope: Literal["group", "subset"] = field(
        default="group",
        metadata={"help": "Advantages over all G rollouts (the paper's), or centred and scaled on the m selected."},
    )
    length_bucketing: bool | None = field(
        default=None,
        metadata={
            "help": "Sort the rows of an optimizer step by length and trim each micro-batch. None: wherever that "
            "leaves the step as it is, which is unless a term of the loss is a mean over a micro-batch."
        },
    )
    skip_zero_advantage: bool | None = field(
        default=None,
        metadata={
            "help": "Leave selected rows out whose advantage is exactly 0, with every denominator as it was. None: "
            "wherever they add nothing to the gradient: subset_mode: drop, beta: 0, no term that is a mean over a "
            "micro-batch."
        },
    )

    def __post_init__(self) -> None:
        check_types(self, SubsetGRPOConfig)
        self._check_geometry()
        super().__post_init__()
        if self.num_generations_update is None:
            self.num_generations_update = self.num_generations
        self._check_subset()
        self._check_exactness()

    @property
    def fraction(self) -> float:
        """m/G."""
        return self.num_generations_update / self.num_generations

    @property
    def choice(self) -> dict[str, object]:
        """How rollouts are chosen, by name, as cards show it."""
        names = ("num_generations", "num_generations_update", "selection", "selection_scope", "subset_mode")
        return {name: getattr(self, name) for name in (*names, "advantage_scope", "loss_type", "seed")}

    @property
    def weighs(self) -> bool:
        """Whether selected rows count differently."""
        return self.selection == "importance" and self.num_generations_update < self.num_generations

    @property
    def per_micro_batch_terms(self) -> list[str]:
        """Settings that make the loss depend on which rows share a micro-batch."""
        return [name for name, holds in _PER_MICRO_BATCH.items() if holds(self)]

    @property
    def rows_per_micro_batch(self) -> int:
        """B * m / G."""
        return self.per_device_train_batch_size * self.num_generations_update // self.num_generations

    @property
    def bucketing_window(self) -> int:
        """Micro-batches of one generation that are sure to fall into one optimizer step, wherever it starts."""
        return gcd(self.steps_per_generation, self.gradient_accumulation_steps)

    def _check_geometry(self) -> None:
        # The launcher sets it; TRL's own property would start the process group before the numbers are checked.
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        if self.generation_batch_size is not None and self.steps_per_generation is None:
            unit = self.per_device_train_batch_size * num_processes
            if self.generation_batch_size % unit:
                near = nearest(self.generation_batch_size, lambda value: value % unit == 0)
                raise InputError(
                    f"generation_batch_size ({self.generation_batch_size}) must be a multiple of "
                    f"per_device_train_batch_size x processes ({self.per_device_train_batch_size} x {num_processes} = "
                    f"{unit}): the nearest are {near}"
                )
            steps = self.generation_batch_size // unit
        group, selected = self.num_generations, self.num_generations_update
        selected = group if selected is None else selected
        check_geometry(self.per_device_train_batch_size, steps, num_processes, group, selected)

    def _check_exactness(self) -> None:
        known = (*ROW_MEAN_LOSSES, *_TOKEN_LOSSES)
        if self.loss_type not in known:
            raise InputError(
                f"loss_type {self.loss_type!r} is not one of which raml_trl knows what it is a mean over: "
                f"{', '.join(known)}"
            )
        terms = ", ".join(self.per_micro_batch_terms)
        for name in ("length_bucketing", "skip_zero_advantage"):
            if getattr(self, name) and terms:
                raise InputError(
                    f"{name} is on, but {terms} depends on which rows share a micro-batch, and that would change: "
                    f"leave {name} out or set it to false"
                )
        if self.skip_zero_advantage and self.beta != 0.0:
            raise InputError(
                f"skip_zero_advantage is on, but with beta = {self.beta} a row has a gradient whatever its advantage: "
                "leave skip_zero_advantage out or set beta to 0"
            )
        if self.skip_zero_advantage and self.subset_mode == "mask":
            raise InputError(
                "skip_zero_advantage is on, but subset_mode 'mask' runs every row: leave it out or use drop"
            )
        if self.weighs and terms:
            raise InputError(
                f"selection 'importance' weighs rows so that their sum estimates that over all G, but {terms} is not "
                "a sum over rows: choose another selection or leave it out"
            )

    def _check_subset(self) -> None:
        if self.selection_scope == "batch":
            if self.selection not in BATCH_STRATEGIES:
                raise InputError(
                    f"selection_scope 'batch' needs a selection that looks at advantages, not {self.selection!r}: use "
                    f"{' or '.join(BATCH_STRATEGIES)}, or selection_scope: group"
                )
            if self.advantage_scope == "subset":
                raise InputError(
                    "selection_scope 'batch' may take one rollout of a group or none, over which there is no "
                    "advantage: use advantage_scope: group"
                )
        if self.advantage_scope == "subset":
            if self.num_generations_update == 1:
                raise InputError(
                    "num_generations_update is 1 and advantage_scope is 'subset': the advantage of a single rollout "
                    "over itself is 0, so nothing would be learned; use advantage_scope: group or m of 2 or more"
                )
            if self.multi_objective_aggregation != "sum_then_normalize":
                raise InputError(
                    f"advantage_scope 'subset' needs one reward per rollout, but multi_objective_aggregation is "
                    f"{self.multi_objective_aggregation!r}: use 'sum_then_normalize', or advantage_scope: group"
                )
            if self.weighs:
                raise InputError(
                    "selection 'importance' weighs rows by their advantage over the group, and advantage_scope "
                    "'subset' replaces that: use advantage_scope: group"
                )
            if self.selection in REWARD_BLIND and self.num_generations_update < self.num_generations:
                logger.warning(
                    "selection %r with advantage_scope 'subset' is plain GRPO with num_generations = %d at the "
                    "price of %d rollouts: the other rollouts are never looked at",
                    self.selection,
                    self.num_generations_update,
                    self.num_generations,
                )
        if self.subset_mode == "mask":
            for name in ("entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef"):
                if _PER_MICRO_BATCH[name](self):
                    raise InputError(
                        f"{name} is set and subset_mode is 'mask', in which that term would be taken over rollouts "
                        "that are not selected or be scaled with the policy loss: use subset_mode: drop"
                    )


def check_geometry(batch: int, steps: int, num_processes: int, group: int, selected: int) -> None:
    """Refuse numbers of rollouts that cannot be cut into whole groups and whole micro-batches.

    Args:
        batch: per_device_train_batch_size, in rollouts before selection.
        steps: steps_per_generation.
        num_processes: of the launch.
        group: num_generations (G).
        selected: num_generations_update (m).

    Raises:
        InputError: with every number and the nearest that would do.
    """
    if not 1 <= selected <= group:
        raise InputError(
            f"num_generations_update (m = {selected}) must lie between 1 and num_generations (G = {group})"
        )

    def whole(value: int) -> bool:
        return value * steps * num_processes % group == 0 == value * selected % group

    rollouts = batch * steps * num_processes
    if rollouts % group:
        raise InputError(
            f"per_device_train_batch_size x steps_per_generation x processes ({batch} x {steps} x {num_processes}) "
            f"gives {rollouts} rollouts, which is not a multiple of num_generations (G = {group}): "
            f"per_device_train_batch_size {nearest(batch, whole)} would do"
        )
    if batch * selected % group:
        others = nearest(selected, lambda value: value <= group and batch * value % group == 0)
        raise InputError(
            f"a micro-batch of per_device_train_batch_size x m / G = {batch} x {selected} / {group} rows is not whole: "
            f"per_device_train_batch_size {nearest(batch, whole)} or num_generations_update {others} would do"
        )
