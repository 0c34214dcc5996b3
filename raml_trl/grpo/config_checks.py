"""Checks that the settings of a `SubsetGRPOConfig` fit together, before a model or a dataset is loaded."""

import logging
from typing import TYPE_CHECKING

from raml_trl.grpo.selection import REWARD_BLIND
from raml_trl.grpo.user_selection import STRATEGIES
from raml_trl.runtime.errors import InputError, suggestion
from raml_trl.runtime.validation import nearest

if TYPE_CHECKING:
    from raml_trl.grpo.config import SubsetGRPOConfig

logger = logging.getLogger(__name__)

BATCH_STRATEGIES = ("abs_advantage", "importance")
"""Strategies that support `selection_scope: batch`."""
ROW_MEAN_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""Loss types of TRL that average over the rows of a micro-batch, masked rows included."""
MEAN_OF_ROW_LOSSES = ("grpo", "sapo")
"""Loss types that average over the tokens of each row.

The other loss types add up these tokens, or use them in another way.
"""
_TOKEN_LOSSES = ("dapo", "cispo", "vespo", "bnpo")


def check_exactness(args: "SubsetGRPOConfig") -> None:
    """Check that settings that only save time, such as `length_bucketing`, leave the gradient of a step unchanged.

    Also check the settings that give rows or tokens different weights: `selection: importance` and `question_weights`
    need a loss that is a sum over rows, and `token_selection: prefix` needs one that is a sum over tokens.

    Raises:
        InputError: if a check fails; the message names the settings.
    """
    known = (*ROW_MEAN_LOSSES, *_TOKEN_LOSSES)
    if args.loss_type not in known:
        raise InputError(
            f"loss_type must be one of {', '.join(known)}, got {args.loss_type!r}: raml_trl must know how a loss is "
            f"averaged{suggestion(str(args.loss_type), known)}"
        )
    terms = ", ".join(args.per_micro_batch_terms)
    for name in ("length_bucketing", "skip_zero_advantage"):
        if getattr(args, name) and terms:
            raise InputError(
                f"{name} is on and changes which rows share a micro-batch, on which {terms} depends: leave {name} "
                "out or set it to false"
            )
    if args.max_tokens_per_micro_batch is not None:
        _check_max_tokens(args, terms)
    if args.skip_zero_advantage and args.beta != 0.0:
        raise InputError(
            f"skip_zero_advantage is on, but with beta = {args.beta} rows with advantage 0 have a gradient too: "
            "leave skip_zero_advantage out or set beta to 0"
        )
    if args.skip_zero_advantage and args.subset_mode == "mask":
        raise InputError("skip_zero_advantage is on, but subset_mode 'mask' runs every row: leave it out or use drop")
    if args.weighs:
        check_weights(args)
    if args.selection_cost == "tokens" and args.selection != "importance":
        raise InputError(
            f"selection_cost 'tokens' changes the probabilities of selection 'importance', but selection is "
            f"{args.selection!r}: use importance, or selection_cost: rows"
        )
    if args.question_weights and args.question_selection != "mixed":
        raise InputError(
            "question_weights weights the questions that question_selection 'mixed' draws, but question_selection is "
            f"{args.question_selection!r}: use mixed, or question_weights: false"
        )
    if args.question_weights and args.refill:
        raise InputError(
            f"question_weights needs known probabilities of questions, which refill ({args.refill}) changes: set one "
            "of the two to 0 or false"
        )
    if args.token_selection == "prefix":
        _check_prefix(args)


def _check_prefix(args: "SubsetGRPOConfig") -> None:
    reasons = {
        f"loss_type {args.loss_type!r}": args.loss_type in ("luspo", "vespo"),
        "importance_sampling_level 'sequence'": args.importance_sampling_level == "sequence",
        f"beta = {args.beta}": args.beta != 0.0,
        "off_policy_mask_threshold": args.off_policy_mask_threshold is not None,
        "a generation that lasts for several optimizer steps": not args.aligned,
        **dict.fromkeys(args.per_micro_batch_terms, True),
    }
    found = ", ".join(reason for reason, holds in reasons.items() if holds)
    if found:
        raise InputError(
            f"token_selection 'prefix' weights tokens so that their sum estimates the sum over whole completions, "
            f"but with {found} the loss is not such a sum: use token_selection: all or leave that setting out"
        )


def _check_max_tokens(args: "SubsetGRPOConfig", terms: str) -> None:
    problem = f"max_tokens_per_micro_batch is {args.max_tokens_per_micro_batch}, but"
    if args.shared_prompts == "off" or args.length_bucketing is False:
        raise InputError(f"{problem} rows are not packed by tokens if shared_prompts or length_bucketing is off")
    if terms:
        raise InputError(f"{problem} rows cannot move between micro-batches, because {terms} depends on them")


def check_weights(args: "SubsetGRPOConfig") -> None:
    """Check that the rows of the loss can be given different weights.

    This needs a loss that is a sum over rows, and `advantage_scope: group`, with which advantages are computed over all
    G rollouts of a group.

    Raises:
        InputError: if the rows cannot be weighted.
    """
    if args.per_micro_batch_terms:
        raise InputError(
            f"{args.weighing} weights rows so that their sum estimates the sum over all G, but "
            f"{', '.join(args.per_micro_batch_terms)} is not a sum over rows: use another selection or leave that "
            "setting out"
        )
    if args.advantage_scope == "subset":
        raise InputError(
            f"{args.weighing} weights rows so that their sum estimates the sum over all G, whose "
            "advantages advantage_scope 'subset' replaces: use advantage_scope: group"
        )


def check_subset(args: "SubsetGRPOConfig") -> None:
    """Check that `selection_scope`, `advantage_scope` and `subset_mode` can be combined with the other settings.

    A warning is logged if they can, but train like plain GRPO with G = m at a higher cost.

    Raises:
        InputError: if they cannot be combined; the message names the settings.
    """
    if args.selection_scope == "batch":
        if args.selection in STRATEGIES and args.selection not in BATCH_STRATEGIES:
            raise InputError(
                f"selection_scope 'batch' needs a selection that uses advantages, not {args.selection!r}: use "
                f"{' or '.join(BATCH_STRATEGIES)}, or selection_scope: group"
            )
        if args.advantage_scope == "subset":
            raise InputError(
                "selection_scope 'batch' may select one rollout of a group or none, for which advantage_scope "
                "'subset' defines no advantage: use advantage_scope: group"
            )
    if args.advantage_scope == "subset":
        if args.num_generations_update == 1:
            raise InputError(
                "num_generations_update is 1 and advantage_scope is 'subset': the advantage of a single rollout "
                "relative to itself is 0, so nothing would be learned; use advantage_scope: group or m >= 2"
            )
        if args.multi_objective_aggregation != "sum_then_normalize":
            raise InputError(
                f"advantage_scope 'subset' needs one reward per rollout, but multi_objective_aggregation is "
                f"{args.multi_objective_aggregation!r}: use 'sum_then_normalize' or advantage_scope: group"
            )
        if args.selection in REWARD_BLIND and args.fraction < 1:
            logger.warning(
                "selection %r with advantage_scope 'subset' is plain GRPO with num_generations = %d at the "
                "cost of %d rollouts: the other rollouts are never used",
                args.selection,
                args.num_generations_update,
                args.num_generations,
            )
    if args.subset_mode == "mask":
        for name in ("entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef"):
            if name in args.per_micro_batch_terms:
                raise InputError(
                    f"{name} is set and subset_mode is 'mask': that term would include rollouts that are not "
                    "selected, or be scaled with the policy loss; use subset_mode: drop"
                )


def check_geometry(
    batch: int, steps: int, num_processes: int, group: int, selected: int, *, rows_move: bool = False
) -> None:
    """Check that the rollouts of a generation, over all processes, form whole groups of G.

    Also check that a micro-batch has a whole number of selected rows, unless rows move between micro-batches: these may
    then have different numbers of rows.

    Args:
        batch: per_device_train_batch_size, in rollouts before selection.
        steps: steps_per_generation, the micro-batches of a generation on one process.
        num_processes: number of processes that train.
        group: num_generations (G).
        selected: num_generations_update (m).
        rows_move: whether the trainer moves rows between micro-batches.

    Raises:
        InputError: if m is not from 1 to G, or a check fails. If a check fails, the message has all numbers and the
            nearest valid ones.
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
