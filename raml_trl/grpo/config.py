"""`SubsetGRPOConfig`: TRL's `GRPOConfig` with settings that choose which m of G rollouts per group carry gradient.

Settings that cannot work are rejected when the config is created, before a model or a dataset is loaded. The error
names all numbers involved and the nearest valid values.
"""

import os
from dataclasses import dataclass, field, fields
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Literal

from trl import GRPOConfig

from raml_trl.grpo.config_checks import check_exactness, check_geometry, check_subset
from raml_trl.grpo.packing.support import SharedPrompts
from raml_trl.grpo.row_rules import PLAIN_MODEL, ModelTraits, RowRules, per_micro_batch_terms, settle_row_rules
from raml_trl.grpo.user_selection import STRATEGIES, Selector, Strategy, load_strategy, selector_name
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import COUNT, Limits, above, check_settings, whole
from raml_trl.runtime.validation import nearest
from raml_trl.training.config import check_device, use_new_names
from raml_trl.training.limits import GRPO

if TYPE_CHECKING:
    SelectionSetting = str | Selector
else:
    SelectionSetting = str  # the command line has only names, and a function is replaced by its name


_CHOICE_IF_CHANGED = frozenset(
    {
        *("selection_cost", "question_selection", "question_floor", "question_weights", "refill"),
        *("token_selection", "prefix_minimum", "prefix_keep", "top_entropy_quantile"),
    }
)
"""Further settings that choose rows or tokens to train on. Model cards state those that differ from their defaults."""


@dataclass
class SubsetGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with settings that choose which m of the G rollouts of a group carry gradient.

    G is `num_generations`, and m is `num_generations_update`. `per_device_train_batch_size` (B) and
    `steps_per_generation` count rollouts before selection, as in TRL. A micro-batch is made from B rollouts and trains
    on B * m / G rows.
    """

    limits: ClassVar[Limits] = {
        **GRPO,
        "num_generations_update": whole(1, 2**20),
        "question_floor": above(0, 10**6),
        "refill": whole(0, 100),
        "prefix_minimum": whole(1, 10**7),
        "prefix_keep": above(0, 1),
        "max_tokens_per_micro_batch": COUNT,
    }
    headings: ClassVar[Headings] = {
        "num_generations_update": "Selection of rollouts",
        "length_bucketing": "Speed, with the same gradient",
        "question_selection": "Questions",
        "token_selection": "Tokens",
        "shared_prompts": "Packing",
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
    selection_cost: Literal["rows", "tokens"] = field(
        default="rows",
        metadata={
            "help": "What selection: importance counts as the cost of a rollout. `rows`: all cost the same, and the "
            "probability of a rollout is proportional to its |A|. `tokens`: longer rollouts cost more."
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
    question_weights: bool = field(
        default=False,
        metadata={
            "help": "Weight the questions of question_selection: mixed by the inverse of their probabilities, so that "
            "the expected gradient is that of all questions."
        },
    )
    refill: int = field(
        default=0,
        metadata={
            "help": "How often groups whose rewards are all equal are replaced by groups of other questions, before "
            "the update. Biased: questions that are nearly always or never solved get less weight. 0: never."
        },
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
        self.check_geometry(rows_move=self.length_bucketing is not False and not self.per_micro_batch_terms)
        use_new_names(self)
        super().__post_init__()
        if self.num_generations_update is None:
            self.num_generations_update = self.num_generations
        check_subset(self)
        check_exactness(self)

    @property
    def fraction(self) -> float:
        """The share m/G of rollouts that carry gradient: `num_generations_update` / `num_generations`."""
        return self.num_generations_update / self.num_generations

    @property
    def choice(self) -> dict[str, object]:
        """The settings that determine the selection and the loss, by name, for model cards.

        Settings that choose questions, or tokens of a rollout, to train on are included only if they differ from their
        defaults.
        """
        names = ("num_generations", "num_generations_update", "selection", "selection_scope", "subset_mode")
        always = {name: getattr(self, name) for name in (*names, "advantage_scope", "loss_type", "seed")}
        defaults = {field.name: field.default for field in fields(self) if field.name in _CHOICE_IF_CHANGED}
        changed = {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        return always | changed

    @property
    def strategy(self) -> Strategy | Selector:
        """The strategy that selects the m rollouts, or the user's function."""
        return load_strategy(str(self.selection))

    @property
    def weighs(self) -> bool:
        """Whether a setting gives the rows of the loss different weights.

        A user's function as `selection` does not count, although it may return weights.
        """
        return self.question_weights or (self.selection == "importance" and self.fraction < 1)

    @property
    def weighing(self) -> str:
        """The setting that gives the rows of the loss different weights, as text for messages."""
        return "question_weights" if self.question_weights else f"selection {str(self.selection)!r}"

    @property
    def per_micro_batch_terms(self) -> list[str]:
        """The names of the settings with which the loss of a row depends on the other rows of its micro-batch."""
        return per_micro_batch_terms(vars(self))

    @property
    def scores_rollouts(self) -> bool:
        """Whether TRL computes log-probs of the rollouts before training, under the old or the reference model."""
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return not self.aligned or corrected or self.beta != 0.0

    @property
    def aligned(self) -> bool:
        """Whether all micro-batches of a generation run in one optimizer step, so that training is on policy."""
        return self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0

    @property
    def needs_model_traits(self) -> bool:
        """Whether the settings may drop rows, pack them, or move them to other micro-batches.

        If they may, tests on the model show before training whether it allows this: see `model_traits`.
        """
        switches = (self.length_bucketing, self.skip_zero_advantage)
        return self.fraction < 1 or any(value is not False for value in switches) or self.shared_prompts != "off"

    def row_rules(self, traits: ModelTraits = PLAIN_MODEL, *, num_processes: int = 1) -> RowRules:
        """Return how rows are assigned to micro-batches: whether `length_bucketing` and `skip_zero_advantage` are on.

        If one of these two settings is None, it is on if it leaves the gradient of an optimizer step unchanged.

        Args:
            traits: the properties of the model that decide whether rows may move and padding may be trimmed.
            num_processes: number of processes that train.

        Raises:
            InputError: if the gradient of this model would change through one of these two settings, through
                `subset_mode: mask`, or through rows that move between processes; or if the batch sizes do not fit.
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
        self.check_geometry(rows_move=rules.length_bucketing)
        return rules

    def row_remarks(self, traits: ModelTraits) -> list[str]:
        """Return warnings about the effect of `length_bucketing` and `skip_zero_advantage` with this model.

        Args:
            traits: the properties of the model. Call `row_rules` with them first: it raises an error if the settings do
                not work with such a model.
        """
        rules = self.row_rules()
        settings = {
            "length_bucketing": (self.length_bucketing, rules.length_bucketing),
            "skip_zero_advantage": (self.skip_zero_advantage, rules.skip_zero_advantage),
        }
        on = " and ".join(name for name, (value, _) in settings.items() if value)
        off = " and ".join(name for name, (value, by_default) in settings.items() if value is None and by_default)
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
        """Number of rows of a micro-batch that carry gradient: B * m / G, where B is `per_device_train_batch_size`."""
        return self.per_device_train_batch_size * self.num_generations_update // self.num_generations

    @property
    def bucketing_window(self) -> int:
        """Number of consecutive micro-batches of a generation that always belong to the same optimizer step."""
        return gcd(self.steps_per_generation, self.gradient_accumulation_steps)

    def check_geometry(self, *, rows_move: bool) -> None:
        """Check the batch sizes with `config_checks.check_geometry`.

        Args:
            rows_move: whether the trainer moves rows between micro-batches.

        Raises:
            InputError: if the batch sizes do not fit together.
        """
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


@dataclass
class CheckedGRPOConfig(SubsetGRPOConfig):
    """`SubsetGRPOConfig` of the command `train_grpo`, whose error for a missing GPU names the settings to change.

    `SubsetGRPOConfig` itself leaves this check to transformers, as `GRPOConfig` does.
    """

    def __post_init__(self) -> None:
        check_device(self)
        super().__post_init__()
