"""`SubsetGRPOTrainer`: TRL's `GRPOTrainer` that trains on m of the G rollouts of every group.

It differs from `GRPOTrainer` in five ways; each place is marked `# RaML:`.
1. As soon as rewards are known, m rollouts of each group are selected. This happens before TRL computes
   log-probabilities under the old and the reference model. Only the selected rollouts are scored, that is, get these
   log-probabilities.
2. `subset_mode: drop` removes the other rows from the rollouts that TRL buffers; `mask` keeps these rows and masks
   their loss. Both give the same gradient.
3. Rows with advantage 0 are skipped if they add nothing to the gradient.
4. Within an optimizer step, rows move between processes and micro-batches so that rows of similar length share a
   micro-batch, which reduces padding.
5. A checkpoint includes the buffered rollouts, so that a run can resume in the middle of a generation.

Generation, rewards, advantages and the loss are computed by TRL: its methods are called through `super()`, never
copied. Metrics of rewards, advantages and completions cover all G rollouts, so curves for different m are comparable.
Metrics of the loss (entropy, KL, clipping) cover the rows that were trained on.

    trainer = SubsetGRPOTrainer(model, reward_funcs, SubsetGRPOConfig(..., num_generations_update=2), train_dataset)
    trainer.train()
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import get_config_model_id

from raml_trl.grpo.batching import (
    gather_row_table,
    join_completions,
    num_cells,
    row_lengths,
    rows_to_score,
    split_completions,
    take_micro_batches,
)
from raml_trl.grpo.config import ROW_MEAN_LOSSES, SubsetGRPOConfig
from raml_trl.grpo.generation import (
    Generation,
    GenerationCounter,
    Row,
    Subset,
    check_advantages,
    choose_subset,
    local_rows,
    write_subset,
)
from raml_trl.grpo.images import image_inputs, split_pixels, stack_pixels
from raml_trl.grpo.ledger import Ledger, summary
from raml_trl.grpo.loss_metrics import LossMetrics
from raml_trl.grpo.micro_batches import ModelTraits, cut_for_scoring, deal_micro_batches
from raml_trl.grpo.model_traits import TraitsReader
from raml_trl.grpo.padding import join_batches, trim_padding
from raml_trl.grpo.resuming import BufferResumingTrainer
from raml_trl.grpo.rows import Batch, take_rows
from raml_trl.grpo.step_metrics import (
    OptimizerClock,
    count_generation,
    latest_correct,
    selection_metrics,
    time_metrics,
)
from raml_trl.grpo.trl_contract import check_contract
from raml_trl.hub.card_parts import PAPER
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.history import RunSummary
from raml_trl.runtime.rollout_table import SELECTED
from raml_trl.training.checkpoints import Progress
from raml_trl.training.dashboards import messages_as_text
from raml_trl.training.evaluation import SampledEvaluation
from raml_trl.training.hub_mixin import HubTrainer

check_contract()


class SubsetGRPOTrainer(HubTrainer, SampledEvaluation, BufferResumingTrainer):
    """TRL's `GRPOTrainer`, which trains on m of the G rollouts of every group.

    The constructor is that of `GRPOTrainer`, but `args` is a `SubsetGRPOConfig`. With m = G and `subset_mode: drop`,
    training gives the same weights as `GRPOTrainer`: bit for bit if `length_bucketing` and `skip_zero_advantage` are
    off, and up to rounding if they are on.

    Source: RaML, arXiv 2505.19815, section 4.4.

    Raises:
        InputError: for models with a router loss if a setting would change that loss.
    """

    _tag_names = ["trl", "grpo", "raml"]
    _name = "Subset GRPO"
    _paper = PAPER

    args: SubsetGRPOConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: SubsetGRPOConfig | None = None,
        *rest: Any,
        **named: Any,
    ) -> None:
        if args is None:  # TRL's default would lack our fields
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SubsetGRPOConfig(f"{name.rpartition('/')[2]}-GRPO")
        if not isinstance(args, SubsetGRPOConfig):
            raise InputError(f"args must be a SubsetGRPOConfig, got {type(args).__name__}")
        super().__init__(model, reward_funcs, args, *rest, **named)
        self._loss_metrics = LossMetrics(args, self.accelerator)
        self.set_model_traits(ModelTraits(router_loss=self.aux_loss_enabled))
        self.add_callback(TraitsReader(self))  # measures the other traits
        self.ledger = Ledger(time.perf_counter, training=lambda: bool(self.model.training))
        self.add_callback(OptimizerClock(self.ledger))
        self._generation: Generation | None = None  # set while TRL makes a generation
        self._generations = GenerationCounter(args, self.num_iterations)
        self._cells_of_update = 0

    def set_model_traits(self, traits: ModelTraits) -> None:
        """Decide from the traits of the model whether rows may move and be skipped."""
        self.row_rules = self.args.row_rules(traits, num_processes=self.accelerator.num_processes)
        self._loss_metrics.rules = self.row_rules

    # One generation. TRL calls these methods in this order; `_generate` may already call `_calculate_rewards`.

    def _generate_and_score_completions(self, inputs: list[Row]) -> Batch:
        if not self.model.training:
            batch = super()._generate_and_score_completions(inputs)
            self._completion_logs["extra"][SELECTED].extend([None] * self.accelerator.num_processes * len(inputs))
            return batch
        self._generation = generation = Generation(inputs)
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self._generation = None
        subset = self._select(generation)
        with self.ledger.phase("selecting"):
            if self.args.advantage_scope == "group":
                check_advantages(batch, subset, self.accelerator)
            write_subset(batch, subset, self.args, self.accelerator)
            self._account(batch, generation, subset)
        return batch

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        with self.ledger.phase("generating"):
            generated = super()._generate(prompts)
        generation = self._generation
        if generation is None:
            return generated
        _, completion_ids, _, completions, _, extra_fields, *_ = generated
        generation.lengths = torch.tensor([len(ids) for ids in completion_ids], device=self.accelerator.device)
        if self._scores_selected_rows:
            # RaML: rewards need no log-probs, so they are computed first and decide which rows are scored.
            self._calculate_rewards(generation.reward_inputs(extra_fields), prompts, completions, completion_ids)
            subset = self._select(generation)
            trained = subset.selected
            if not self._loss_metrics.runs_skipped_rows:
                trained = self._trained(trained, subset.advantages)
            trained = local_rows(trained, self.accelerator)
            rows = rows_to_score(trained, self.accelerator)
            if len(rows) < len(trained) or self.row_rules.length_bucketing:
                generation.rows_to_score = rows
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        generation = self._generation
        if generation is not None and generation.rewards_per_func is not None:
            return generation.rewards_per_func  # RaML: already computed, before scoring
        with self.ledger.phase("rewarding"):
            rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        if generation is not None:
            generation.rewards_per_func = rewards_per_func
        return rewards_per_func

    def _select(self, generation: Generation) -> Subset:
        """Return the subset of a generation, chosen on the first call."""
        if generation.subset is None:
            with self.ledger.phase("selecting"):
                number = self._generations.next(self.state.global_step)
                lengths = self.accelerator.gather(generation.lengths)
                generation.subset = choose_subset(
                    generation.rewards_per_func, self.reward_weights, lengths, self.args, number=number
                )
        return generation.subset

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        generation = self._generation
        if self._loss_metrics.replayed is not None:
            return *self._loss_metrics.replayed, None  # RaML: the model has run on these rows before
        if generation is None:  # called by the loss or in evaluation
            outputs = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *rest, **named
            )
            self._loss_metrics.record(*outputs[:2])
            return outputs
        with self.ledger.phase("scoring"):
            self.ledger.count(cells_scoring_all=input_ids.numel())
            if generation.rows_to_score is None:
                generation.tokens_scored += int(attention_mask[:, -logits_to_keep:].sum())
                self.ledger.count(cells_scoring=input_ids.numel())
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *rest, **named
                )
            # RaML: score only the rows that will be trained on. TRL reads NaN as a log-prob that is not available.
            logps = torch.full((len(input_ids), logits_to_keep), torch.nan, device=input_ids.device)
            columns = split_completions(input_ids, attention_mask, logits_to_keep)
            batch = split_pixels(columns | image_inputs(named))
            parts = cut_for_scoring(
                generation.rows_to_score,
                row_lengths(batch),
                self.args.per_device_train_batch_size,
                bucketing=self.row_rules.length_bucketing,
            )
            for rows in parts:
                part = stack_pixels(self._trim(take_rows(batch, rows)))
                width = part["completion_ids"].size(1)
                scores, _, _ = super()._get_per_token_logps_and_entropies(
                    model, *join_completions(part), width, **image_inputs(part)
                )
                logps[rows] = 0.0  # the loss may use a larger width, and a mask does not help: 0 * NaN is NaN
                logps[rows, :width] = scores.to(logps.dtype)
                self.ledger.count(cells_scoring=num_cells(part))
                generation.tokens_scored += int(part["completion_mask"].sum())
            return logps, None, None

    @property
    def _scores_selected_rows(self) -> bool:
        """Whether TRL computes log-probs of the rollouts, and computing those of the selected rows saves work."""
        args = self.args
        aligned = args.gradient_accumulation_steps % (args.steps_per_generation * self.num_iterations) == 0
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        fewer = args.fraction < 1 or any(self.row_rules)
        return (not aligned or corrected or self.beta != 0.0) and args.subset_mode == "drop" and fewer

    def _trained(self, selected: Tensor, advantages: Tensor) -> Tensor:
        """Return which of the selected rows are trained on."""
        return selected & (advantages != 0) if self.row_rules.skip_zero_advantage else selected

    # From the generation to the micro-batches.

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        buffered = self._buffered_inputs
        with self.ledger.phase("preparing"):
            batch = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered:  # evaluation, or another micro-batch of the same generation
            return batch
        with self.ledger.phase("selecting"):
            # RaML: TRL has shuffled all rows and cut them into micro-batches; join them and cut only the rows that run.
            self._buffered_inputs = self._deal(join_batches(self._buffered_inputs))
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _deal(self, batch: Batch) -> list[Batch]:
        """Distribute the buffered rows of all processes, and return the micro-batches of this process."""
        args, rules = self.args, self.row_rules
        nonzero = batch["advantages"].view(len(batch["advantages"]), -1).any(dim=1)  # a subclass may set `(R, C)`
        live = self._trained(torch.ones_like(batch["selected"]), nonzero)
        table = gather_row_table(batch, live, self.accelerator)
        micro_batches = deal_micro_batches(
            table.selected,
            args.steps_per_generation,
            window=args.bucketing_window,
            lengths=table.lengths if rules.length_bucketing else None,
            live=table.live if rules.skip_zero_advantage else None,
            keep_unselected=args.subset_mode == "mask",
        )
        dealt = take_micro_batches(
            batch,
            micro_batches,
            self.accelerator,
            mask_unselected=args.subset_mode == "mask",
            trim=self._trim,
        )
        self._loss_metrics.plan(batch, table, micro_batches, dealt, self._trim)
        self.ledger.count(
            cells_updating_all=self.num_iterations * num_cells(batch),
            cells_updating=self.num_iterations * sum(map(num_cells, dealt)),
            tokens_updating=self.num_iterations * sum(int(row_lengths(part).sum()) for part in dealt),
        )
        return dealt

    def _trim(self, batch: Batch) -> Batch:
        multiple: Any = self.pad_to_multiple_of  # set by TRL
        return trim_padding(batch, multiple=multiple) if self.row_rules.length_bucketing else batch

    # One micro-batch.

    def _compute_loss(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        if not self.model.training or "idle" not in inputs:  # evaluation, or a batch that the trainer has not made
            return super()._compute_loss(model, inputs)
        self._cells_of_update = num_cells(inputs)
        beta = self.beta
        if "weights" in inputs and beta != 0.0:
            # RaML: the advantages already contain the row weights, but the KL term does not; this factor adds them.
            self.beta = cast(float, _RowBeta(beta, inputs["weights"].unsqueeze(1)))
        try:
            with self._loss_metrics.of_micro_batch(inputs, self._metrics["train"]):
                loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        # RaML: TRL divides by the rows of this micro-batch. Rescale the loss, so that it is divided by B * m / G: the
        # selected rows that a micro-batch has before rows are skipped, moved or masked.
        if self.loss_type in ROW_MEAN_LOSSES:
            loss = loss * (len(inputs["advantages"]) / self.args.rows_per_micro_batch)
        return loss

    def training_step(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        before = self.ledger.seconds["updating"]
        with self.ledger.phase("updating", training=True):
            loss = super().training_step(model, *args, **kwargs)
        self.ledger.observe_update(self._cells_of_update, self.ledger.seconds["updating"] - before)
        with self.ledger.phase("selecting"), torch.no_grad(), self.compute_loss_context_manager():
            # RaML: metrics of the loss for the micro-batches that TRL would have run.
            loss_of = partial(super()._compute_loss, model)
            self._loss_metrics.log(self._step, self._metrics["train"], loss_of)
        if self.accelerator.sync_gradients:
            self._log_metrics(time_metrics(self.ledger, self.args.fraction))
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
        trained = self._trained(batch["selected"], batch["advantages"])
        self._log_metrics(count_generation(self.ledger, self.accelerator, batch, generation, trained))
        columns, selected = self._completion_logs["extra"], subset.selected.cpu().numpy()
        correct = latest_correct(columns, selected.shape)
        self._log_metrics(selection_metrics(subset.rewards.cpu().numpy(), selected, correct))
        columns[SELECTED].extend(selected.flatten().tolist())

    def _log_metrics(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _progress(self) -> Progress:
        progress = super()._progress() | {"ledger": self.ledger.state()}
        return progress | {"loss_metrics": progress["buffered"] and self._loss_metrics.state()}

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        self._loss_metrics.restore(progress.get("loss_metrics") or [])

    def _restore_totals(self, progress: Progress) -> None:
        super()._restore_totals(progress)
        self.ledger.restore(progress["ledger"])


@dataclass(frozen=True, eq=False)
class _RowBeta:
    """TRL's `beta` with a weight for every row.

    TRL's loss uses `beta` in two expressions only, `self.beta != 0.0` and `self.beta * per_token_kl`. Any other use
    raises an error instead of ignoring the weights.
    """

    beta: float
    weights: Tensor  # (R, 1)

    def __ne__(self, other: object) -> bool:
        return self.beta != other

    def __mul__(self, per_token_kl: Tensor) -> Tensor:  # (R, C)
        return self.beta * self.weights * per_token_kl
