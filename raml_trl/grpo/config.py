"""`SubsetGRPOConfig`: TRL's `GRPOConfig` with settings that choose which m of G rollouts per group carry gradient.

Settings that cannot work are rejected when the config is created, before a model or a dataset is loaded. The error
names all numbers involved and the nearest valid values.
"""

import logging
import os
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Literal

from trl import GRPOConfig

from raml_trl.grpo.micro_batches import PLAIN_MODEL, ModelTraits, RowRules, per_micro_batch_terms, settle_row_rules
from raml_trl.grpo.packing.support import SharedPrompts
from raml_trl.grpo.selection import REWARD_BLIND, STRATEGIES, Selector, Strategy, load_strategy, selector_name
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import COUNT, Limits, above, check_settings, whole
from raml_trl.runtime.validation import nearest
from raml_trl.training.limits import GRPO

logger = logging.getLogger(__name__)

BATCH_STRATEGIES = ("abs_advantage", "importance")
"""Strategies that support `selection_scope: batch`."""
ROW_MEAN_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""Loss types of TRL that average over the rows of a micro-batch, masked rows included."""
_TOKEN_LOSSES = ("dapo", "cispo", "vespo", "bnpo")

if TYPE_CHECKING:
    SelectionSetting = str | Selector
else:
    SelectionSetting = str  # the command line has only names, and a function is replaced by its name


@dataclass
class SubsetGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with settings that choose which m of the G rollouts of a group carry gradient.

    `per_device_train_batch_size` (B) and `steps_per_generation` count rollouts before selection, as in TRL. A
    micro-batch is made from B rollouts and trains on B * m / G rows.
    """

    limits: ClassVar[Limits] = {
        **GRPO,
        "num_generations_update": whole(1, 2**20),
        "question_floor": above(0, 10**6),
        "prefix_minimum": whole(1, 10**7),
        "prefix_keep": above(0, 1),
        "max_tokens_per_micro_batch": COUNT,
    }

    num_generations_update: int | None = field(
        default=None, metadata={"help": "m: rollouts of each group of num_generations that carry gradient; None = all."}
    )
    subset_mode: Literal["drop", "mask"] = field(
        default="drop",
        metadata={
            "help": "`drop` removes the other rollouts before the forward pass; `mask` runs them and masks their loss, "
            "as the paper does. Both give the same gradient."
        },
    )
    selection: SelectionSetting = field(
        default="random",
        metadata={
            "help": f"Strategy that selects the m: {', '.join(STRATEGIES)}, or the path of a function, such as "
            "package.module:function; see raml_trl.grpo.selection."
        },
    )
    selection_scope: Literal["group", "batch"] = field(
        default="group",
        metadata={
            "help": "`group` selects m of each group. `batch` selects as many rows over the whole generation "
            "batch, so groups without signal get fewer (`importance` and `abs_advantage` only)."
        },
    )
    advantage_scope: Literal["group", "subset"] = field(
        default="group",
        metadata={"help": "Compute advantages over all G rollouts, as the paper does, or over the m selected."},
    )
    length_bucketing: bool | None = field(
        default=None,
        metadata={
            "help": "Sort the rows of an optimizer step by length and trim each micro-batch. None: on, unless a term "
            "of the loss is a mean over a micro-batch, or the model has dropout or absolute positions: then its "
            "gradient would change."
        },
    )
    skip_zero_advantage: bool | None = field(
        default=None,
        metadata={
            "help": "Do not run selected rows whose advantage is exactly 0; denominators stay the same. None: on if "
            "these rows add nothing to the gradient (subset_mode: drop, beta: 0, no term that is a mean over a "
            "micro-batch, no dropout and no absolute positions in the model)."
        },
    )

    question_selection: Literal["all", "mixed"] = field(
        default="all",
        metadata={
            "help": "`all` takes the questions in the order of TRL's sampler. `mixed`, after the first pass over the "
            "data, draws those more often whose groups had different rewards, and therefore a gradient."
        },
    )
    question_floor: float = field(
        default=0.1,
        metadata={"help": "Added to every chance by question_selection: mixed, so that no question is given up."},
    )
    token_selection: Literal["all", "prefix"] = field(
        default="all",
        metadata={
            "help": "`all` trains on every token of the selected rollouts. `prefix` cuts each selected rollout at a "
            "random length and weights its tokens, so that the expected gradient stays the same."
        },
    )
    prefix_minimum: int = field(
        default=16, metadata={"help": "Tokens of a completion that token_selection: prefix always keeps."}
    )
    prefix_keep: float = field(
        default=0.5,
        metadata={"help": "Probability that token_selection: prefix keeps a whole completion; no weight exceeds 1/it."},
    )
    shared_prompts: SharedPrompts = field(
        default="auto",
        metadata={
            "help": "Run each prompt once per micro-batch, and no padding, in the update and in scoring. `auto`: if "
            "that is exact for the model, with the fastest attention backend of the device. `sdpa`, `flex` and `flash` "
            "name a backend. `off`: run padded rows, as TRL does."
        },
    )
    max_tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that a micro-batch of one process may have; a shared prompt counts once. An optimizer step "
            "uses as few micro-batches as this allows. None: the tokens of a micro-batch of TRL, padding included."
        },
    )

    def __post_init__(self) -> None:
        if callable(self.selection):
            self.selection = selector_name(self.selection)  # so that the config can be saved
        check_settings(self)
        load_strategy(self.selection)
        self._check_geometry(rows_move=self.length_bucketing is not False and not self.per_micro_batch_terms)
        super().__post_init__()
        if self.num_generations_update is None:
            self.num_generations_update = self.num_generations
        self._check_subset()
        self._check_exactness()

    @property
    def fraction(self) -> float:
        """The share of rollouts that carry gradient, m/G."""
        return self.num_generations_update / self.num_generations

    @property
    def choice(self) -> dict[str, object]:
        """The settings that determine the selection and the loss, by name, for model cards."""
        names = ("num_generations", "num_generations_update", "selection", "selection_scope", "subset_mode")
        return {name: getattr(self, name) for name in (*names, "advantage_scope", "loss_type", "seed")}

    @property
    def strategy(self) -> Strategy | Selector:
        """The strategy that selects the m rollouts, or the user's function."""
        return load_strategy(str(self.selection))

    @property
    def weighs(self) -> bool:
        """Whether the strategy weights the selected rows; False for a user's function, although it may give weights."""
        return self.selection == "importance" and self.num_generations_update < self.num_generations

    @property
    def per_micro_batch_terms(self) -> list[str]:
        """Settings that make the loss depend on which rows share a micro-batch."""
        return per_micro_batch_terms(vars(self))

    @property
    def scores_rollouts(self) -> bool:
        """Whether TRL computes log-probs of the rollouts before training, under the old or the reference model."""
        aligned = self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return not aligned or corrected or self.beta != 0.0

    @property
    def needs_model_traits(self) -> bool:
        """Whether rows can move or be dropped, so that the traits of the model matter."""
        switches = (self.length_bucketing, self.skip_zero_advantage)
        return self.fraction < 1 or any(value is not False for value in switches) or self.shared_prompts != "off"

    def row_rules(self, traits: ModelTraits = PLAIN_MODEL, *, num_processes: int = 1) -> RowRules:
        """Return whether `length_bucketing` and `skip_zero_advantage` are on.

        A setting that is None is on if it leaves the gradient of a step unchanged.

        Args:
            traits: the traits of the model.
            num_processes: number of processes that train.

        Raises:
            InputError: if a setting would change the gradient of this model.
        """
        set_on = [f"{name}: true" for name in ("length_bucketing", "skip_zero_advantage") if getattr(self, name)]
        if traits.router_loss and (self.subset_mode == "mask" or set_on):
            raise InputError(
                "this mixture-of-experts model has a router loss, which is a mean over a micro-batch: leave out "
                "subset_mode: mask, length_bucketing: true and skip_zero_advantage: true, or set "
                "router_aux_loss_coef: 0"
            )
        if traits.padding and set_on:
            raise InputError(
                f"padding changes the log-probs of this model, for example because its positions are absolute, so "
                f"{set_on[0]} would change its gradient: leave it out or set it to false"
            )
        if traits.padding and num_processes > 1 and self.fraction < 1 and not self._selects_alike_on_processes:
            raise InputError(
                "padding changes the log-probs of this model, for example because its positions are absolute, so rows "
                f"cannot move between the {num_processes} processes: use selection_scope: group and let "
                f"per_device_train_batch_size x steps_per_generation ({self.per_device_train_batch_size} x "
                f"{self.steps_per_generation}) be a multiple of num_generations (G = {self.num_generations})"
            )
        rules = settle_row_rules(vars(self), traits)
        self._check_geometry(rows_move=rules.length_bucketing)
        return rules

    def row_remarks(self, traits: ModelTraits) -> list[str]:
        """Return warnings about the effect of `length_bucketing` and `skip_zero_advantage` with this model.

        Args:
            traits: the traits of the model, which `row_rules` has accepted.
        """
        without_model = {name: value for name, value in self.row_rules()._asdict().items() if hasattr(self, name)}
        on = " and ".join(name for name in without_model if getattr(self, name))
        off = " and ".join(name for name, value in without_model.items() if value and getattr(self, name) is None)
        remarks = []
        if traits.noise and on:
            remarks.append(f"{on}: dropout or other noise of the model falls on other rows than in TRL's trainer")
        if traits.width_limit is not None and on:
            remarks.append(f"{on}: the gradient is TRL's only in batches of at most {traits.width_limit} tokens a row")
        reasons = {
            "the model has noise (dropout, NEFTune or the like), which would fall on other rows": traits.noise,
            "padding changes the log-probs of this model": traits.padding,
            f"padding changes the log-probs of rows of more than {traits.width_limit} tokens": traits.width_limit,
        }
        reason = "; ".join(text for text, holds in reasons.items() if holds)
        if reason and off:
            remarks.append(f"{off}: off by default, to keep TRL's gradient: {reason}")
        return remarks

    @property
    def _selects_alike_on_processes(self) -> bool:
        """Whether every process has equally many selected rows, because it has whole groups with m selected in each."""
        rollouts = self.per_device_train_batch_size * self.steps_per_generation
        return self.selection_scope == "group" and rollouts % self.num_generations == 0

    @property
    def rows_per_micro_batch(self) -> int:
        """Rows of a micro-batch that carry gradient: B * m / G, where B is `per_device_train_batch_size`."""
        return self.per_device_train_batch_size * self.num_generations_update // self.num_generations

    @property
    def bucketing_window(self) -> int:
        """Number of consecutive micro-batches of a generation that always fall into the same optimizer step."""
        return gcd(self.steps_per_generation, self.gradient_accumulation_steps)

    def _check_geometry(self, *, rows_move: bool) -> None:
        # The launcher sets WORLD_SIZE. TRL's `world_size` would start the process group before the numbers are checked.
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
        batch = self.per_device_train_batch_size
        check_geometry(batch, steps, num_processes, group, selected, rows_move=rows_move)

    def _check_exactness(self) -> None:
        known = (*ROW_MEAN_LOSSES, *_TOKEN_LOSSES)
        if self.loss_type not in known:
            raise InputError(
                f"loss_type {self.loss_type!r} is unknown to raml_trl, which must know how a loss is averaged: use "
                f"{', '.join(known)}"
            )
        terms = ", ".join(self.per_micro_batch_terms)
        for name in ("length_bucketing", "skip_zero_advantage"):
            if getattr(self, name) and terms:
                raise InputError(
                    f"{name} is on and changes which rows share a micro-batch, on which {terms} depends: leave {name} "
                    "out or set it to false"
                )
        if self.max_tokens_per_micro_batch is not None:
            self._check_max_tokens(terms)
        if self.skip_zero_advantage and self.beta != 0.0:
            raise InputError(
                f"skip_zero_advantage is on, but with beta = {self.beta} rows with advantage 0 have a gradient too: "
                "leave skip_zero_advantage out or set beta to 0"
            )
        if self.skip_zero_advantage and self.subset_mode == "mask":
            raise InputError(
                "skip_zero_advantage is on, but subset_mode 'mask' runs every row: leave it out or use drop"
            )
        if self.weighs:
            self.check_weights()
        if self.token_selection == "prefix":
            self._check_prefix()

    def _check_prefix(self) -> None:
        reasons = {
            f"loss_type {self.loss_type!r}": self.loss_type in ("luspo", "vespo"),
            "importance_sampling_level 'sequence'": self.importance_sampling_level == "sequence",
            f"beta = {self.beta}": self.beta != 0.0,
            "off_policy_mask_threshold": self.off_policy_mask_threshold is not None,
            "a generation that lasts for several optimizer steps": self.scores_rollouts and self.beta == 0.0,
            **dict.fromkeys(self.per_micro_batch_terms, True),
        }
        found = ", ".join(reason for reason, holds in reasons.items() if holds)
        if found:
            raise InputError(
                f"token_selection 'prefix' weights tokens so that their sum estimates the sum over whole completions, "
                f"but with {found} the loss is not such a sum: use token_selection: all or leave that setting out"
            )

    def _check_max_tokens(self, terms: str) -> None:
        problem = f"max_tokens_per_micro_batch is {self.max_tokens_per_micro_batch}, but"
        if self.shared_prompts == "off" or self.length_bucketing is False:
            raise InputError(f"{problem} rows are not packed by tokens if shared_prompts or length_bucketing is off")
        if terms:
            raise InputError(f"{problem} rows cannot move between micro-batches, because {terms} depends on them")

    def check_weights(self) -> None:
        """Check that the rows of the loss can be weighted: it must be a sum over rows, with advantages over all G.

        Raises:
            InputError: if the rows cannot be weighted.
        """
        if self.per_micro_batch_terms:
            raise InputError(
                f"selection {self.selection!r} weights rows so that their sum estimates the sum over all G, but "
                f"{', '.join(self.per_micro_batch_terms)} is not a sum over rows: use another selection or leave that "
                "setting out"
            )
        if self.advantage_scope == "subset":
            raise InputError(
                f"selection {self.selection!r} weights rows so that their sum estimates the sum over all G, whose "
                "advantages advantage_scope 'subset' replaces: use advantage_scope: group"
            )

    def _check_subset(self) -> None:
        if self.selection_scope == "batch":
            if self.selection in STRATEGIES and self.selection not in BATCH_STRATEGIES:
                raise InputError(
                    f"selection_scope 'batch' needs a selection that uses advantages, not {self.selection!r}: use "
                    f"{' or '.join(BATCH_STRATEGIES)}, or selection_scope: group"
                )
            if self.advantage_scope == "subset":
                raise InputError(
                    "selection_scope 'batch' may select one rollout of a group or none, for which advantage_scope "
                    "'subset' defines no advantage: use advantage_scope: group"
                )
        if self.advantage_scope == "subset":
            if self.num_generations_update == 1:
                raise InputError(
                    "num_generations_update is 1 and advantage_scope is 'subset': the advantage of a single rollout "
                    "relative to itself is 0, so nothing would be learned; use advantage_scope: group or m >= 2"
                )
            if self.multi_objective_aggregation != "sum_then_normalize":
                raise InputError(
                    f"advantage_scope 'subset' needs one reward per rollout, but multi_objective_aggregation is "
                    f"{self.multi_objective_aggregation!r}: use 'sum_then_normalize' or advantage_scope: group"
                )
            if self.selection in REWARD_BLIND and self.num_generations_update < self.num_generations:
                logger.warning(
                    "selection %r with advantage_scope 'subset' is plain GRPO with num_generations = %d at the "
                    "cost of %d rollouts: the other rollouts are never used",
                    self.selection,
                    self.num_generations_update,
                    self.num_generations,
                )
        if self.subset_mode == "mask":
            for name in ("entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef"):
                if name in self.per_micro_batch_terms:
                    raise InputError(
                        f"{name} is set and subset_mode is 'mask': that term would include rollouts that are not "
                        "selected, or be scaled with the policy loss; use subset_mode: drop"
                    )


def check_geometry(
    batch: int, steps: int, num_processes: int, group: int, selected: int, *, rows_move: bool = False
) -> None:
    """Check that a generation consists of whole groups, and that a micro-batch has a whole number of selected rows.

    If rows move between micro-batches, these may have different numbers of rows.

    Args:
        batch: per_device_train_batch_size, in rollouts before selection.
        steps: steps_per_generation, the micro-batches of a generation on one process.
        num_processes: number of processes that train.
        group: num_generations (G).
        selected: num_generations_update (m).
        rows_move: whether rows move between micro-batches.

    Raises:
        InputError: if the check fails; the message has all numbers and the nearest valid ones.
    """
    if not 1 <= selected <= group:
        raise InputError(
            f"num_generations_update (m = {selected}) must lie between 1 and num_generations (G = {group})"
        )

    def whole(value: int) -> bool:
        return value * steps * num_processes % group == 0 and (rows_move or value * selected % group == 0)

    rollouts = batch * steps * num_processes
    if rollouts % group:
        raise InputError(
            f"per_device_train_batch_size x steps_per_generation x processes ({batch} x {steps} x {num_processes}) "
            f"gives {rollouts} rollouts, which is not a multiple of num_generations (G = {group}): "
            f"use per_device_train_batch_size {nearest(batch, whole)}"
        )
    if batch * selected % group and not rows_move:
        others = nearest(selected, lambda value: value <= group and batch * value % group == 0)
        raise InputError(
            f"a micro-batch of per_device_train_batch_size x m / G = {batch} x {selected} / {group} rows is not a "
            f"whole number: use per_device_train_batch_size {nearest(batch, whole)} or num_generations_update {others}"
        )
