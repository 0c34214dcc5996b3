"""`SubsetGRPOTrainer`: TRL's `GRPOTrainer` that trains on m of the G rollouts of every group.

It differs from `GRPOTrainer` in six ways, whose places in the code are marked `# RaML:`.
1. As soon as rewards are known, m rollouts of each group are selected. Only these are scored, that is, get
   log-probabilities under the old and the reference model.
2. `subset_mode: drop` removes the other rows from the buffered rollouts; `mask` masks their loss (the same gradient).
3. Rows with advantage 0 are skipped if they add nothing to the gradient.
4. The rows of a micro-batch are packed: a prompt that they share runs once, and padding does not run (see `packing`).
5. Within an optimizer step, rows move between processes and micro-batches: whole groups are packed together. If rows
   cannot be packed, rows of similar length share a micro-batch.
6. A checkpoint includes the buffered rollouts, so that a run can resume in the middle of a generation.

TRL computes generation, rewards, advantages and the loss: its methods are called through `super()`, never copied. If a
subclass overrides one of them, our code wraps the subclass's method (see `overrides`). Metrics of rewards, advantages
and completions cover all G rollouts. Options choose questions, and cut or replace rollouts (see `question_choice`,
`prefix_cuts` and `refill`). Metrics of the loss equal those of `GRPOTrainer` if m = G; with m < G, or with
`skip_zero_advantage: true`, they cover the rows that were trained on.

    trainer = SubsetGRPOTrainer(model, reward_funcs, SubsetGRPOConfig(..., num_generations_update=2), train_dataset)
    trainer.train()
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import get_config_model_id

from raml_trl.grpo import batching, step_metrics
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.generation import Generation, GenerationCounter, Row, add_fields, has_all_rows
from raml_trl.grpo.images import image_inputs
from raml_trl.grpo.ledger import Ledger, summary
from raml_trl.grpo.loss_metrics import LossMetrics
from raml_trl.grpo.model_traits import TraitsReader
from raml_trl.grpo.overrides import Normalizer, Overrides, around, check_default_args, check_private_names, is_around
from raml_trl.grpo.packing.packed_model import PackedModel
from raml_trl.grpo.padding import join_batches, trim_padding
from raml_trl.grpo.prefix_cuts import surviving
from raml_trl.grpo.question_choice import QuestionChoosing
from raml_trl.grpo.row_beta import weighted_beta
from raml_trl.grpo.row_rules import ModelTraits
from raml_trl.grpo.rows import CUT_DRAWS, LOSS_ROWS, SELECTED, WEIGHTS, Batch, has_advantage
from raml_trl.grpo.scoring import Scores, score_rows
from raml_trl.grpo.subset import (
    Subset,
    check_advantages,
    choose_subset,
    local_rows,
    restrict_loss,
    row_advantages,
    write_subset,
)
from raml_trl.grpo.trl_contract import check_contract
from raml_trl.hub.card_parts import PAPER
from raml_trl.runtime import rollout_table
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import RunSummary
from raml_trl.training.completeness import Progress
from raml_trl.training.dashboards import messages_as_text
from raml_trl.training.evaluation import SampledEvaluation
from raml_trl.training.hub_mixin import HubTrainer

check_contract()
logger = logging.getLogger(__name__)


class SubsetGRPOTrainer(HubTrainer, SampledEvaluation, QuestionChoosing):
    """TRL's `GRPOTrainer`, which trains on m of the G rollouts of every group.

    The constructor is that of `GRPOTrainer`, but `args` is a `SubsetGRPOConfig`. With m = G and `subset_mode: drop`,
    training gives the same weights as `GRPOTrainer`: bit for bit if `length_bucketing`, `skip_zero_advantage` and
    `shared_prompts` are off, and up to rounding if they are on.

    Source: RaML, arXiv 2505.19815, section 4.4.

    Raises:
        InputError: for models with a router loss if a setting would change that loss.
    """

    _tag_names = ["trl", "grpo", "raml"]
    _name = "Subset GRPO"
    _paper = PAPER

    args: SubsetGRPOConfig
    loss_normalizer: Normalizer | None = None
    """For a subclass that overrides the loss: the number by which its loss divides; see `overrides.Normalizer`."""

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: SubsetGRPOConfig | None = None,
        *rest: Any,
        **named: Any,
    ) -> None:
        if args is None:  # TRL's default would lack our fields
            check_default_args(self, SubsetGRPOTrainer)
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SubsetGRPOConfig(f"{name.rpartition('/')[2]}-GRPO")
        if not isinstance(args, SubsetGRPOConfig):
            raise InputError(f"args must be a SubsetGRPOConfig, got {type(args).__name__}")
        check_private_names(self, SubsetGRPOTrainer)
        self._overrides: Overrides | None = None
        Overrides.of(self).check(args)  # before the model is loaded
        super().__init__(model, reward_funcs, args, *rest, **named)
        self._loss_metrics = LossMetrics(args, self.accelerator)
        self.packing = PackedModel(self.accelerator)
        self.set_model_traits(ModelTraits(router_loss=self.aux_loss_enabled))
        self.add_callback(TraitsReader(self))  # measures the other traits
        self.ledger = Ledger(time.perf_counter, training=lambda: bool(self.model.training))
        self.add_callback(step_metrics.OptimizerClock(self.ledger))
        self._generations = GenerationCounter(args, self.num_iterations)
        self._cells_all: int | None = None  # of a micro-batch of TRL's; None if its own micro-batches run
        self._update = {"cells_updating": 0}  # what this training step runs, by names in the ledger
        self._prepared = False  # whether the inputs of this training step come from `_prepare_inputs`

    def set_model_traits(self, traits: ModelTraits) -> None:
        """Decide from the model's traits and from methods that others override whether rows may move and be skipped."""
        self._traits, overrides = traits, Overrides.of(self)
        overrides.check(self.args)
        by_settings = self.args.row_rules(traits, num_processes=self.accelerator.num_processes)
        rules = overrides.restrict(by_settings, self.args)
        if overrides != self._overrides and rules != by_settings and self.accelerator.is_main_process:
            logger.warning(overrides.explain(by_settings, rules))
        self._overrides = overrides
        self.row_rules = rules._replace(whole_groups=rules.length_bucketing and self.packing.obstacle is None)
        self._loss_metrics.rules = self.row_rules

    # One generation, in the order of TRL's calls. Each function `_around_...` wraps the outermost override of a method.

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        if not self.model.training:
            batch = super()._prepare_inputs(generation_batch)
            rows = self.accelerator.num_processes * len(generation_batch)
            self._completion_logs["extra"][rollout_table.SELECTED].extend([None] * rows)
            return batch
        if (self.args.fraction < 1 or any(self.row_rules)) and not is_around(self, "compute_loss"):
            self._overrides.check_step()
        with self.ledger.phase("preparing"), around(self, _generate_and_score_completions=self._around_generation):
            batch = super()._prepare_inputs(generation_batch)
        cells_all = batching.num_cells(batch) if self._cells_all is None else self._cells_all
        self._prepared, self._update = True, step_metrics.count_update(batch, cells_all, self.row_rules)
        return batch

    def _around_generation(self, generate_and_score: Callable[..., Batch], inputs: list[Row]) -> Batch:
        self.set_model_traits(self._traits)  # methods may have been replaced since
        generation = Generation(inputs)
        with around(
            self,
            _generate=partial(self._around_rollouts, generation),
            _calculate_rewards=partial(self._around_rewards, generation),
            _get_per_token_logps_and_entropies=partial(self._around_scoring, generation),
        ):
            batch = generate_and_score(inputs)
        if generation.lengths is None:  # an override does not call `_generate`
            generation.prompt_lengths = batch["prompt_mask"].sum(dim=1)
            generation.lengths = batch["completion_mask"].sum(dim=1)
        # RaML: select after every override has acted, from the rows, advantages and masks that TRL would train on.
        if self._overrides.generation and not has_all_rows(batch, generation, self.args, self.accelerator):
            column = self._completion_logs["extra"][rollout_table.SELECTED]
            column.extend([True] * (len(self._completion_logs["prompt"]) - len(column)))
            return batch
        subset = self._select(generation, batch)
        with self.ledger.phase("selecting"):
            check_advantages(batch, subset, self.accelerator, self._overrides.generation)
            if subset.weights is not None:
                self._overrides.check_weights(self.args)
            write_subset(batch, subset, self.accelerator)
            self._account(batch, generation, subset)
        return batch

    def _around_rollouts(self, generation: Generation, generate: Callable[..., Any], prompts: list[Any]) -> Any:
        generate = self.ledger.phase("generating")(generate)
        generated = generate(prompts)
        if self.args.refill:
            # RaML: replace groups without a signal now, because TRL does not yet depend on the rows.
            generated = self._refill(generation, generate, prompts, generated)
        prompt_ids, completion_ids, _, completions, _, extra_fields, *_ = generated
        generation.measure(prompt_ids, completion_ids, self.accelerator.device)
        if self._scores_selected_rows:
            # RaML: rewards need no log-probs, so they are computed first and decide which rows are scored.
            if generation.early_rewards is None:
                add_fields(inputs := generation.inputs, extra_fields)
                generation.early_rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids)
            subset = self._select(generation)
            keeps_all = self._loss_metrics.runs_skipped_rows
            trained = subset.selected if keeps_all else self._trained(subset.selected, subset.advantages)
            trained = local_rows(trained, self.accelerator)
            rows = batching.rows_to_score(trained, self.accelerator)
            if len(rows) < len(trained) or self.row_rules.length_bucketing:
                generation.rows_to_score = rows
        return generated

    def _around_rewards(
        self, generation: Generation, calculate: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        rewards, generation.early_rewards = generation.early_rewards, None
        if rewards is None:
            with self.ledger.phase("rewarding"):
                rewards = calculate(*args, **kwargs)
            generation.rewards.append(rewards)
        return rewards

    def _select(self, generation: Generation, batch: Batch | None = None) -> Subset:
        """Return the subset of a generation, chosen on the first call: by rewards, or by the advantages of `batch`."""
        if generation.subset is None:
            with self.ledger.phase("selecting"):
                # RaML: an override may have changed the advantages that follow from the rewards.
                changed = batch is not None and self._overrides.generation
                generation.subset = choose_subset(
                    generation.rewards[-1],
                    self.reward_weights,
                    self.accelerator.gather(generation.prompt_lengths),
                    self.accelerator.gather(generation.lengths),
                    self.args,
                    number=self._generations.next(self.state.global_step),
                    advantages=self.accelerator.gather(row_advantages(batch)) if changed else None,
                    group_weights=self._question_weights,
                    shares_prompts=self.row_rules.whole_groups,
                )
        return generation.subset

    def _get_per_token_logps_and_entropies(self, model: torch.nn.Module, *args: Any, **named: Any) -> Scores:
        if self._loss_metrics.replayed is not None:
            return *self._loss_metrics.replayed, None  # RaML: the model has run on these rows before
        # RaML: TRL passes a padded batch to the model; the model runs on the same rows, packed.
        outputs = super()._get_per_token_logps_and_entropies(self.packing.wrap(model), *args, **named)
        self._loss_metrics.record(*outputs[:2])
        return outputs

    def _around_scoring(self, generation: Generation, score: Callable[..., Scores], *args: Any, **named: Any) -> Scores:
        model, input_ids, attention_mask, logits_to_keep, *_ = args
        rows, cells = generation.rows_to_score, input_ids.numel()
        with self.ledger.phase("scoring"):
            self.ledger.count(cells_scoring_all=cells)
            if rows is None:
                tokens = int(attention_mask[:, -logits_to_keep:].sum())
                scores = score(*args, **named)
            else:
                # RaML: score only the rows that will be trained on.
                batch = batching.split_completions(input_ids, attention_mask, logits_to_keep) | image_inputs(named)
                run, size = partial(score, model), self.args.per_device_train_batch_size
                logps, cells, tokens = score_rows(run, batch, rows, size, rules=self.row_rules, trim=self._trim)
                scores = logps, None, None
            self.ledger.count(cells_scoring=cells)
            generation.tokens_scored += tokens
        return scores

    @property
    def _scores_selected_rows(self) -> bool:
        """Whether TRL computes log-probs of the rollouts, and computing those of the selected rows saves work."""
        fewer = self.args.subset_mode == "drop" and (self.args.fraction < 1 or any(self.row_rules))
        return self.args.scores_rollouts and fewer and not self._overrides.generation

    def _trained(self, selected: Tensor, advantages: Tensor) -> Tensor:
        """Return which of the selected rows are trained on."""
        return selected & (advantages != 0) if self.row_rules.skip_zero_advantage else selected

    # From the generation to the micro-batches.

    @property  # type: ignore[override]  # TRL declares it None
    def _buffered_inputs(self) -> list[Batch] | None:
        return self._micro_batches

    @_buffered_inputs.setter
    def _buffered_inputs(self, micro_batches: list[Batch] | None) -> None:
        # RaML: TRL has shuffled all rows and cut them into micro-batches; join them and cut only the rows that run.
        self._cells_all = None
        if micro_batches and SELECTED in micro_batches[0]:
            with self.ledger.phase("selecting"):
                self._cells_all = batching.num_cells(micro_batches[0])
                micro_batches = self._deal(join_batches(micro_batches))
        elif micro_batches:  # an override has changed the rows, or a resumed run restores them
            self._loss_metrics.windows = []
        self._micro_batches = micro_batches

    def _deal(self, batch: Batch) -> list[Batch]:
        """Distribute the buffered rows of all processes, and return the micro-batches of this process."""
        args, masks = self.args, self.args.subset_mode == "mask"
        batch = restrict_loss(batch, args, self.accelerator)
        live = self._trained(torch.ones_like(batch[SELECTED]), has_advantage(batch["advantages"]))
        table = batching.gather_row_table(batch, live, self.accelerator)
        runs = {"keep_unselected": masks, "runs_unused": self.is_deepspeed_enabled}
        parts = batching.deal_rows(table, table.live, args, self.row_rules, **runs)
        dealt = batching.take_micro_batches(batch, parts, self.accelerator, mask_unselected=masks, trim=self._trim)
        if self._overrides.normalizer(self.loss_type) == "rows":
            batching.mark_loss_rows(dealt, table)
        self._loss_metrics.plan(batch, table, parts, dealt, self._trim, replay=self._overrides.loss_is_repeatable)
        return dealt

    def _trim(self, batch: Batch) -> Batch:
        multiple: Any = self.pad_to_multiple_of  # set by TRL
        return trim_padding(batch, multiple=multiple) if self.row_rules.length_bucketing else batch

    # One micro-batch.

    def training_step(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        before = self.ledger.seconds["updating"]
        self._prepared = False
        with self.ledger.phase("updating", training=True), around(self, compute_loss=self._around_loss):
            loss = super().training_step(model, *args, **kwargs)
        if self._prepared:
            self.ledger.count(**self._update)
            self.ledger.observe_update(self._update["cells_updating"], self.ledger.seconds["updating"] - before)
        with self.ledger.phase("selecting"), torch.no_grad(), self.compute_loss_context_manager():
            # RaML: metrics of the loss for the micro-batches that TRL would have run.
            self._loss_metrics.log(self._step, self._metrics["train"], partial(self._compute_loss, model))
        if self.accelerator.sync_gradients:
            self._log_metrics(step_metrics.time_metrics(self.ledger, self.args.fraction))
        return loss

    def _around_loss(
        self, compute_loss: Callable[..., Tensor], model: torch.nn.Module, inputs: Batch, *args: Any, **kwargs: Any
    ) -> Tensor:
        if not self._prepared and self.args.fraction < 1:
            self._overrides.refuse_inputs()
        if self._prepared and not len(inputs["advantages"]):
            return torch.zeros((), device=self.accelerator.device, requires_grad=True)  # RaML: not needed in this step
        # RaML: the advantages contain the row weights of selection `importance`, but the KL term does not.
        metrics = self._loss_metrics.of_micro_batch(inputs, self._metrics["train"])
        with metrics, weighted_beta(self, inputs.get(WEIGHTS)):
            loss = compute_loss(model, inputs, *args, **kwargs)
        if LOSS_ROWS in inputs:
            # RaML: a loss that is a mean over rows divides by the rows of this micro-batch. Rescale it, so that it is
            # divided by the selected rows that a micro-batch has before rows are skipped, moved or masked.
            loss = loss * (len(inputs["advantages"]) / float(inputs[LOSS_ROWS]))
        return loss

    # Records of the run.

    @property
    def choice(self) -> dict[str, object]:
        return self.args.choice

    def summary(self) -> RunSummary:
        """Return the cost of the run so far, including the time before a resume, and the settings in effect."""
        return {
            "steps": self.state.global_step,
            "num_generations": self.num_generations,
            "num_generations_update": self.args.num_generations_update,
            "length_bucketing": self.row_rules.length_bucketing,
            "skip_zero_advantage": self.row_rules.skip_zero_advantage,
            "shared_prompts": self.row_rules.whole_groups,
            **summary(self.ledger, self.args.fraction),
        }

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.ledger.paused():
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # RaML: trackio cannot render chat messages, so log them as text.
        with messages_as_text(self._completion_logs) if "trackio" in self.args.report_to else nullcontext():
            super().log(logs, *args, **kwargs)

    def _account(self, batch: Batch, generation: Generation, subset: Subset) -> None:
        """Count the rows and tokens of a generation, and log its metrics."""
        trained = self._trained(batch[SELECTED], has_advantage(batch["advantages"]))[:, None]
        if CUT_DRAWS in batch:
            trained = trained & surviving(batch, minimum=self.args.prefix_minimum, keep=self.args.prefix_keep)
        counted = (self.ledger, self.accelerator, batch, generation, trained)
        self._log_metrics(step_metrics.count_generation(*counted, refill=self.args.refill > 0))
        columns, selected = self._completion_logs["extra"], subset.selected.cpu().numpy()
        correct = step_metrics.latest_correct(columns, selected.shape)
        self._log_metrics(step_metrics.selection_metrics(subset.rewards.cpu().numpy(), selected, correct))
        columns[rollout_table.SELECTED].extend(selected.flatten().tolist())

    def _log_metrics(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _progress(self) -> Progress:
        progress = super()._progress() | {"ledger": self.ledger.state()}
        of_generation = {"loss_metrics": self._loss_metrics.state(), "cells_all": self._cells_all}
        return progress | (of_generation if progress["buffered"] else {})

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        self._loss_metrics.restore(progress.get("loss_metrics") or [])
        self._cells_all = progress.get("cells_all")

    def _restore_totals(self, progress: Progress) -> None:
        super()._restore_totals(progress)
        self.ledger.restore(progress["ledger"])
