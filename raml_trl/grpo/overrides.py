"""Finds code of others that overrides TRL's methods, and wraps the outermost override in our code.

A subclass, a mixin before or after our trainer in the base classes, an attribute set on the trainer, or a patched class
of TRL may override a method. `Overrides` holds all of these, and decides what our trainer may still assume about the
loss. While TRL runs, `around` wraps a method, with all its overrides, in a function of ours. Our code therefore sees
the arguments that TRL passes, and the result that all overrides together give.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from trl import GRPOTrainer

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.config_checks import ROW_MEAN_LOSSES
from raml_trl.grpo.row_rules import RowRules
from raml_trl.runtime.errors import InputError

Normalizer = Literal["rows", "tokens"]
"""The number by which a loss divides the sum over its rows.

`"rows"`: the loss is a mean over the rows of the micro-batch, as with `loss_type: grpo`. `"tokens"`: it is a sum that
is divided by `inputs["num_items_in_batch"]`, as with `loss_type: dapo`. Either value also states that the term of a row
depends on no other row and not on padding, that tokens where `tool_mask` is 0 add nothing, and that `_compute_loss`
may be called again to get its metrics. For `selection: importance`, it also states that the terms are proportional to
the advantages, apart from `self.beta` times a KL term per row.

None, the default, states nothing. If a method that computes the loss or a micro-batch is then overridden, rows neither
move between micro-batches nor are skipped, and m < G is rejected if it needs the normaliser.
"""

# Methods whose override can make the loss depend on which rows share a micro-batch, and on how these are padded.
_LOSS_METHODS = (
    *("compute_loss", "_compute_loss", "_get_per_token_logps_and_entropies", "_prepare_inputs"),
    *("get_high_entropy_mask", "get_off_policy_mask", "get_gamma_weights"),
)
_DECLARE = 'declare loss_normalizer = "rows" or "tokens" in your class'
_HOSTS = ("trl", "transformers", "accelerate", "torch", "raml_trl")


@dataclass(frozen=True)
class Overrides:
    """Methods of TRL that neither TRL nor we override but others, such as a user's subclass, each as `Class.method`."""

    loss: list[str]
    """Overrides of methods that compute the loss, or the micro-batches and log-probabilities that it reads."""
    step: list[str]
    """Overrides of `training_step`, which may use the gradient of a single micro-batch."""
    generation: list[str]
    """Overrides of the method that makes a generation. They may change its rows, advantages and masks."""
    declared: Normalizer | None
    """The trainer's `loss_normalizer`."""

    @classmethod
    def of(cls, trainer: Any) -> "Overrides":
        """Find the methods of TRL's trainer that code of others overrides: a subclass of ours, a mixin or an attribute.

        Raises:
            InputError: if the trainer's `loss_normalizer` is not a `Normalizer` or None.
        """
        declared = trainer.loss_normalizer
        if declared not in (None, *get_args(Normalizer)):
            raise InputError(f'loss_normalizer must be "rows", "tokens" or None, got {declared!r}')
        return cls(
            loss=find_overrides(trainer, _LOSS_METHODS),
            step=find_overrides(trainer, ["training_step"]),
            generation=find_overrides(trainer, ["_generate_and_score_completions"]),
            declared=declared,
        )

    @property
    def unknown(self) -> str:
        """The overrides that may make the gradient depend on which rows share a micro-batch, as text for a message.

        The text is empty if there are none, or if the class declares `loss_normalizer`, which excludes this.
        """
        return "" if self.declared else ", ".join(dict.fromkeys(self.loss + self.step))

    def normalizer(self, loss_type: str) -> Normalizer | None:
        """Return whether the loss divides by the number of "rows" or "tokens".

        The result is None if the loss is overridden and the class does not declare `loss_normalizer`.
        """
        if self.loss:
            return self.declared
        return "rows" if loss_type in ROW_MEAN_LOSSES else "tokens"

    @property
    def loss_is_repeatable(self) -> bool:
        """Whether the loss of a micro-batch may be computed a second time, to get its metrics."""
        methods = {name.rpartition(".")[2] for name in self.loss}
        return not methods or (self.declared is not None and methods == {"_compute_loss"})

    def check(self, args: SubsetGRPOConfig) -> None:
        """Check that the settings in `args` can be used with the overridden methods.

        Settings such as `length_bucketing: true`, and `subset_mode: drop` with m < G, need to know how the loss adds up
        its rows. A class that overrides the loss must declare this as `loss_normalizer`; for `length_bucketing`, also a
        class that overrides `training_step`. `refill` cannot be used with an override of
        `_generate_and_score_completions`.

        Raises:
            InputError: if a setting cannot be used; the message names the setting and the override, and says what to
                change.
        """
        if self.generation and args.refill:
            raise InputError(
                f"refill is {args.refill}, but {', '.join(self.generation)} may keep what the replaced groups "
                "were made from: use refill: 0"
            )
        if not self.unknown:
            return
        for name in ("length_bucketing", "skip_zero_advantage", "max_tokens_per_micro_batch"):
            if getattr(args, name):
                raise InputError(
                    f"{name} is set, but {self.unknown} may depend on which rows share a micro-batch: leave {name} "
                    f"out, or {_DECLARE}"
                )
        args.check_geometry(rows_move=False)
        if self.loss and args.token_selection == "prefix":
            raise InputError(
                f"token_selection is 'prefix', but {self.unknown} may not be a sum over tokens: use token_selection: "
                f"all, or {_DECLARE}"
            )
        if args.weighs:
            self.check_weights(args)
        if not self.loss or args.fraction == 1:
            return
        problem = (
            f"num_generations_update ({args.num_generations_update}) is less than num_generations "
            f"({args.num_generations}), but it is unknown what {', '.join(self.loss)} divides the loss by"
        )
        if args.loss_type in ROW_MEAN_LOSSES:
            raise InputError(f"{problem} (loss_type {args.loss_type!r} divides by rows): {_DECLARE}")
        if args.subset_mode == "drop":
            raise InputError(f"{problem}: {_DECLARE}, or use subset_mode: mask")

    def check_weights(self, args: SubsetGRPOConfig) -> None:
        """Check that the loss can give rollouts different weights, as a setting in `args` requires.

        Raises:
            InputError: if the loss is overridden and its class does not declare `loss_normalizer`, which says how the
                loss adds up rollouts.
        """
        if self.loss and not self.declared:
            raise InputError(
                f"{args.weighing} weights the rows of the loss, but it is unknown how {', '.join(self.loss)} adds "
                f"them up: {_DECLARE}, or use another selection"
            )

    def check_step(self) -> None:
        """Reject an override of `training_step` that does not call ours.

        Call this method only if our `training_step` has not been called, which shows that an override does not call it.

        Raises:
            InputError: if there is an override.
        """
        if self.step:
            raise InputError(
                f"{self.step[0]} does not call super().training_step, so the loss cannot be restricted to the selected "
                "rollouts: call it, or set num_generations_update to num_generations"
            )

    def refuse_inputs(self) -> None:
        """Raise the error for an override of `_prepare_inputs` that was found not to call ours.

        Raises:
            InputError: always. The caller has detected the fault.
        """
        raise InputError(
            f"{', '.join(self.loss)} does not call super()._prepare_inputs, so no rollout is selected: call it, or set "
            "num_generations_update to num_generations"
        )

    def restrict(self, rules: RowRules, args: SubsetGRPOConfig) -> RowRules:
        """Return `rules`, with those switched off that could change the gradient of an overridden loss.

        A rule is a permission to move rows between micro-batches, or to skip rows. If the class declares
        `loss_normalizer`, rows with advantage 0 are skipped only if the config sets `skip_zero_advantage` to true,
        because an overridden loss may have terms without the advantage.
        """
        if self.unknown:
            return RowRules(length_bucketing=False, skip_zero_advantage=False)
        if self.loss:
            return rules._replace(skip_zero_advantage=bool(args.skip_zero_advantage))
        return rules

    def explain(self, by_settings: RowRules, rules: RowRules) -> str:
        """Return a log line that says which rules, such as `length_bucketing`, `restrict` has switched off, and why.

        `by_settings` are the rules before `restrict`, and `rules` those after it.
        """
        off = [name for name in rules._fields if getattr(by_settings, name) > getattr(rules, name)]
        if self.unknown:
            return (
                f"{' and '.join(off)} off: {self.unknown} may depend on which rows share a micro-batch. If it does "
                "not, declare loss_normalizer in your class"
            )
        return (
            f"{' and '.join(off)} off: {', '.join(self.loss)} may train rows with advantage 0. If it does not, set "
            "skip_zero_advantage: true"
        )


def find_overrides(trainer: object, names: Iterable[str]) -> list[str]:
    """Return the overrides of the methods `names` that neither TRL and its libraries nor this package define.

    Trainers in `trl.experimental` count as code of others. Each override is described as `Class.method`.
    """
    return [
        description
        for name in names
        for description, method in _definitions(trainer, name)
        if not all(map(_is_host, _layers(method)))
    ]


def check_private_names(trainer: object, owner: type) -> None:
    """Check that no code of others has a method with the name of a private method that `owner` adds to TRL's trainer.

    Such a clash is an accident: the author of the other method does not know ours, but the other method would be called
    instead of ours.

    Raises:
        InputError: if there is such a method; the message names it.
    """
    added = [name for name in vars(owner) if name.startswith("_") and not hasattr(GRPOTrainer, name)]
    for override in find_overrides(trainer, added):
        raise InputError(f"{override} has the name of a private method of {owner.__name__}: rename yours")


def check_default_args(trainer: object, owner: type) -> None:
    """Check that no base class of the trainer would lose its own default settings. Call this if `args` is None.

    If the user passes no config, `owner`, our trainer class, makes one with our defaults. A trainer of others that
    comes after `owner` in the base classes and has its own `__init__` would then not make its own config. TRL's
    experimental `GMPOTrainer`, for example, has another default for `epsilon` than `GRPOTrainer`.

    Raises:
        InputError: if there is such a base class; the message names it.
    """
    bases = type(trainer).__mro__
    for base in bases[bases.index(owner) + 1 :]:
        if issubclass(base, GRPOTrainer) and "__init__" in vars(base) and not _is_host(vars(base)["__init__"]):
            raise InputError(
                f"args is None, but {base.__name__} may have other default settings than SubsetGRPOConfig, such as "
                "GMPO's epsilon of 0.4: pass args=SubsetGRPOConfig(...) with these settings"
            )


class _Around(partial[Any]):
    """A function that is called instead of a method. The method is the last bound argument of the function."""


@contextmanager
def around(trainer: object, **functions: Callable[..., Any]) -> Iterator[None]:
    """Call the given functions instead of the trainer's methods of the same names, until the `with` block ends.

    A function gets the method, bound to the trainer, and then the arguments of the call. The method is the one that TRL
    would have called: the outermost override.
    """
    attributes = vars(trainer)
    own = {name: attributes[name] for name in functions if name in attributes}
    attributes.update({name: _Around(function, getattr(trainer, name)) for name, function in functions.items()})
    try:
        yield
    finally:
        for name in functions:
            del attributes[name]
        attributes.update(own)


def is_around(trainer: object, name: str) -> bool:
    """Return whether a `with` block of `around` is active for the method `name`."""
    return isinstance(vars(trainer).get(name), _Around)


def _definitions(trainer: object, name: str) -> Iterator[tuple[str, object]]:
    """Yield a description and the function of each definition of a method, the outermost first."""
    attribute = vars(trainer).get(name)
    if isinstance(attribute, _Around):
        attribute = attribute.args[-1]
    if attribute is not None and getattr(attribute, "__func__", attribute) is not getattr(type(trainer), name):
        yield f"the attribute {name} of the trainer", attribute
    for owner in type(trainer).__mro__:
        if name in vars(owner):
            patched = " (patched)" if owner in GRPOTrainer.__mro__ else ""
            yield f"{owner.__name__}.{name}{patched}", vars(owner)[name]


def _layers(method: object) -> Iterator[object]:
    """Yield the functions that a method consists of: decorators, and the function that they decorate."""
    function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
    yield function
    if hasattr(function, "__wrapped__"):
        yield from _layers(function.__wrapped__)


def _is_host(function: object) -> bool:
    """Return whether a function is code of TRL, of the libraries that TRL builds on, or of this package."""
    module = getattr(function, "__globals__", {}).get("__name__", "")
    return module.partition(".")[0] in _HOSTS and not module.startswith("trl.experimental.")
