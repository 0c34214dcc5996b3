"""`SubsetGRPOTrainer`: TRL's `GRPOTrainer` that trains on m of the G rollouts of every group.

How it differs from `GRPOTrainer`, each place marked `# RaML:`
1. Once rewards are known, m of each group are selected: after TRL has generated, and before it scores rollouts with
   the old and the reference model, so that it scores the selected ones only.
2. `drop` removes the other rows from what TRL buffered; `mask` keeps them and masks their loss. Same gradient.
3. Rows whose advantage is 0 do not run where they add nothing to the gradient.
4. Within an optimizer step, rows move between processes and micro-batches so that lengths match and padding goes.
5. A checkpoint keeps what TRL holds between two generations, so a run resumes in the middle of one.

TRL owns generation, rewards, advantages and the loss: its methods are called and their results worked on, never copied.
What is logged about rewards, advantages and completions stays over all G, so that curves for different m compare; what
is logged about the loss (entropy, KL, clipping) is over the rows that it was taken on.

    trainer = SubsetGRPOTrainer(model, reward_funcs, SubsetGRPOConfig(..., num_generations_update=2), train_dataset)
    trainer.train()
"""

import time
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer
from trl.trainer.utils import get_config_model_id

from raml_trl.grpo.advantages import group_advantages, recentre_on_subset, total_rewards
from raml_trl.grpo.batching import (
    Batch,
    exchange_rows,
    join_batches,
    num_cells,
    row_lengths,
    split_completions,
    take_rows,
    trim_padding,
)
from raml_trl.grpo.config import ROW_MEAN_LOSSES, SubsetGRPOConfig
from raml_trl.grpo.ledger import PHASES, Ledger, group_outcomes, same_value_fraction, speedup, summary
from raml_trl.grpo.micro_batches import IDLE, cut_by_width, deal_micro_batches
from raml_trl.grpo.selection import select_rollouts
from raml_trl.grpo.trl_contract import check_seam
from raml_trl.hub.card_parts import PAPER
from raml_trl.runtime.errors import InputError
from raml_trl.training.checkpoints import log_state, read_progress, restore_log, write_progress
from raml_trl.training.dashboards import messages_as_text
from raml_trl.training.evaluation import SampledEvaluation
from raml_trl.training.hub_mixin import HubTrainer

check_seam()


@dataclass
class _Draft:
    """A generation while TRL makes it. Shapes: P groups, G rollouts in each, F reward functions, over all processes."""

    inputs: list[dict[str, Any]]
    rewards_per_func: Tensor | None = None  # (P * G, F)
    mask: Tensor | None = None  # (P, G): selected
    advantages: Tensor | None = None  # (P, G)
    weights: Tensor | None = None  # (P, G): 1 unless the strategy weighs
    scored: NDArray[np.int64] | None = None  # rows of this process to take log-probs of; None for all
    tokens_scored: int = 0


class SubsetGRPOTrainer(HubTrainer, SampledEvaluation, GRPOTrainer):
    """TRL's `GRPOTrainer`, same constructor, with `SubsetGRPOConfig` for its `args`.

    With m = G, `drop`, no bucketing and no rows skipped it equals `GRPOTrainer` bit for bit; with them to rounding.

    Source: RaML, arXiv 2505.19815, section 4.4.

    Raises:
        InputError: for multimodal models; for models with a router loss where a setting would change what it is.
    """

    _tag_names = ["trl", "grpo", "raml"]
    _name = "Subset GRPO"
    _paper = PAPER

    args: SubsetGRPOConfig

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: SubsetGRPOConfig | None = None, *rest: Any, **named: Any
    ) -> None:
        if args is None:  # TRL's own default would lack our fields
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SubsetGRPOConfig(f"{name.rpartition('/')[2]}-GRPO")
        if not isinstance(args, SubsetGRPOConfig):
            raise InputError(f"args must be a SubsetGRPOConfig, got {type(args).__name__}")
        super().__init__(model, reward_funcs, args, *rest, **named)
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise InputError(
                f"{type(self.processing_class).__name__} is multimodal: images are buffered by patch, not by row, and "
                "selecting rows of them is not supported; use TRL's GRPOTrainer"
            )
        asked = [name for name in ("length_bucketing", "skip_zero_advantage") if getattr(args, name)]
        if self.aux_loss_enabled and (args.subset_mode == "mask" or asked):
            raise InputError(
                "this mixture-of-experts model has a router loss, which is a mean over a micro-batch: leave out "
                "subset_mode: mask, length_bucketing: true and skip_zero_advantage: true, or set "
                "router_aux_loss_coef: 0"
            )
        free = not args.per_micro_batch_terms and not self.aux_loss_enabled  # rows may change micro-batches
        self._length_bucketing = free if args.length_bucketing is None else args.length_bucketing
        skip = free and args.beta == 0.0 and args.subset_mode == "drop"
        self._skip_zero_advantage = skip if args.skip_zero_advantage is None else args.skip_zero_advantage
        # Selection is keyed by how often this optimizer step has generated: a count that a resume starts afresh too.
        self._generations_of_step = (-1, 0)
        self._cells_of_step = 0
        self._draft: _Draft | None = None
        self.ledger = Ledger(time.perf_counter)
        self._seconds_logged = dict(self.ledger.seconds)
        self.add_callback(_OptimizerClock(self.ledger))

    @property
    def choice(self) -> dict[str, object]:
        return self.args.choice

    def summary(self) -> dict[str, Any]:
        """What the run has spent so far, over all its sessions; see `accounting.summary`."""
        return {
            "steps": self.state.global_step,
            "num_generations": self.num_generations,
            "num_generations_update": self.args.num_generations_update,
            **summary(self.ledger, self.args.fraction),
        }

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        tables: Any = self._logs
        # RaML: of a cell that holds messages, trackio's table shows no word.
        with messages_as_text(tables) if "trackio" in self.args.report_to else nullcontext():
            super().log(logs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        before = self.ledger.seconds["updating"]
        with self.ledger.phase("updating"):
            loss = super().training_step(*args, **kwargs)
        self.ledger.observe_update(self._cells_of_step, self.ledger.seconds["updating"] - before)
        if self.accelerator.sync_gradients:
            self._log_seconds()
        return loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        if not self.model.training:
            batch = super()._generate_and_score_completions(inputs)
            self._extra_logs["selected"].extend([None] * self.accelerator.num_processes * len(inputs))
            return batch
        self._draft = draft = _Draft(inputs)
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self._draft = None
        if draft.mask is None:  # nothing was scored, so it could wait
            self._select(draft)
        with self.ledger.phase("selecting"):
            self._check_advantages(draft, batch)
            self._apply_selection(draft, batch)
        return batch

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        with self.ledger.phase("generating"):
            generated = super()._generate(prompts)
        draft = self._draft
        if draft is not None and self._scores_selected_rows:
            # RaML: rewards need no log-probs, so they come first and say which rows to score.
            _, completion_ids, _, completions, _, extra_fields, *_ = generated
            rows = [dict(row) for row in draft.inputs]
            for name, values in extra_fields.items():
                for row, value in zip(rows, values if isinstance(values, list) else [values] * len(rows), strict=False):
                    row[name] = value
            self._calculate_rewards(rows, prompts, completions, completion_ids)
            self._select(draft)
            draft.scored = self._rows_to_score(self._local_rows(self._trained(draft.mask, draft.advantages)))
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        draft = self._draft
        if draft is not None and draft.rewards_per_func is not None:
            return draft.rewards_per_func  # RaML: they were needed earlier
        with self.ledger.phase("rewarding"):
            rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        if draft is not None:
            draft.rewards_per_func = rewards_per_func
        return rewards_per_func

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        draft = self._draft
        if draft is None:  # the loss, or evaluation
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *rest, **named
            )
        with self.ledger.phase("scoring"):
            self.ledger.count(cells_scoring_all=input_ids.numel())
            if draft.scored is None:
                draft.tokens_scored += int(attention_mask[:, -logits_to_keep:].sum())
                self.ledger.count(cells_scoring=input_ids.numel())
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *rest, **named
                )
            # RaML: only rows that will be trained on; NaN is TRL's word for a log-prob that is not available.
            logps = torch.full((len(input_ids), logits_to_keep), torch.nan, device=input_ids.device)
            batch = split_completions(input_ids, attention_mask, logits_to_keep)
            for rows in self._cut_for_scoring(draft.scored, row_lengths(batch)):
                one = self._trim(take_rows(batch, rows))
                ids = torch.cat([one["prompt_ids"], one["completion_ids"]], dim=1)
                mask = torch.cat([one["prompt_mask"], one["completion_mask"]], dim=1)
                width = one["completion_ids"].size(1)
                scores, _, _ = super()._get_per_token_logps_and_entropies(model, ids, mask, width)
                logps[rows] = 0.0  # as wide as the row may be trained on: 0 * NaN is NaN, under a mask too
                logps[rows, :width] = scores.to(logps.dtype)
                self.ledger.count(cells_scoring=ids.numel())
                draft.tokens_scored += int(one["completion_mask"].sum())
            return logps, None, None

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        buffered = self._buffered_inputs
        with self.ledger.phase("preparing"):
            batch = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered:  # evaluation, or another pass over the same generation
            return batch
        with self.ledger.phase("selecting"):
            # RaML: TRL has shuffled all rows and cut them; cut again with the rows that count only.
            self._buffered_inputs = self._cut(join_batches(self._buffered_inputs))
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        if not self.model.training:
            return super()._compute_loss(model, inputs)
        self._cells_of_step = num_cells(inputs)
        metrics, beta = self._metrics["train"], self.beta
        before = {name: len(values) for name, values in metrics.items()} if inputs["idle"] else {}
        if "weights" in inputs and beta:  # RaML: advantages carry the weight of the policy's term, this that of the KL
            self.beta = _RowFactor(beta, inputs["weights"].unsqueeze(1))
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        # RaML: a mean over the rows of a micro-batch, whose number need not be that of the rows that count.
        if self.loss_type in ROW_MEAN_LOSSES:
            loss = loss * (len(inputs["advantages"]) / self.args.rows_per_micro_batch)
        if inputs["idle"]:
            for name, values in metrics.items():
                if len(values) > before.get(name, 0):
                    values[-1] = float("nan")  # of no token; TRL leaves NaN out of its means
        return loss

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: written by every process, and before the file that marks a checkpoint whole.
        write_progress(Path(output_dir), self._progress(), self.accelerator.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            progress = read_progress(Path(checkpoint), self.accelerator.process_index, self.accelerator.num_processes)
            if progress is not None:
                self._resume(progress)

    def _progress(self) -> dict[str, Any]:
        """What TRL and transformers hold in memory alone: the buffered rollouts, and what is not yet logged."""
        between = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        logs: Any = self._logs
        tables = {"prompt": logs["prompt"], "completion": logs["completion"], "advantages": logs["advantages"]}
        return {
            "num_processes": self.accelerator.num_processes,
            "step": self._step,
            "buffered": None if between else self._buffered_inputs,
            **log_state(self),
            "tables": {name: list(values) for name, values in tables.items()} if self.log_completions else {},
            "columns": {
                part: {name: list(values) for name, values in logs[part].items()} if self.log_completions else {}
                for part in ("rewards", "extra")
            },
            "ledger": self.ledger.state(),
        }

    def _resume(self, progress: dict[str, Any]) -> None:
        if not self.args.ignore_data_skip:  # else the data begin anew, and so does a generation
            self._step, buffered = progress["step"], progress["buffered"]
            device, trainer = self.accelerator.device, cast(Any, self)  # TRL declares the buffer None
            trainer._buffered_inputs = buffered and [
                {name: value.to(device) for name, value in batch.items()} for batch in buffered
            ]
        restore_log(self, progress)
        logs: Any = self._logs
        for name, values in progress["tables"].items():
            logs[name].extend(values)
        for part, columns in progress["columns"].items():
            for name, values in columns.items():
                logs[part][name].extend(values)
        self.ledger.restore(progress["ledger"])
        self._seconds_logged = dict(self.ledger.seconds)

    @property
    def _scores_selected_rows(self) -> bool:
        """Whether TRL will take log-probs of the rollouts, and of which ones can be chosen."""
        args = self.args
        aligned = args.gradient_accumulation_steps % (args.steps_per_generation * self.num_iterations) == 0
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        fewer = args.fraction < 1 or self._length_bucketing or self._skip_zero_advantage
        return (not aligned or corrected or self.beta != 0.0) and args.subset_mode == "drop" and fewer

    def _select(self, draft: _Draft) -> None:
        """Choose m of G over the global batch, the same on every process."""
        with self.ledger.phase("selecting"):
            self._draw(draft)

    def _draw(self, draft: _Draft) -> None:
        # RaML: the selection.
        group, args = self.num_generations, self.args
        rewards_per_func = draft.rewards_per_func.view(-1, group, len(self.reward_funcs))
        reward_weights = self.reward_weights.to(rewards_per_func.device)
        rewards = total_rewards(rewards_per_func, reward_weights)  # (P, G)
        advantages = group_advantages(
            rewards_per_func,
            reward_weights,
            scale=self.scale_rewards,
            aggregation=self.multi_objective_aggregation,
        )
        # What is chosen together: each group, or the whole batch as one.
        together = rewards.view(1, -1) if args.selection_scope == "batch" else rewards
        selection = select_rollouts(
            together.cpu().numpy(),
            advantages.view_as(together).cpu().numpy(),
            args.num_generations_update * together.size(1) // group,
            strategy=args.selection,
            seed=args.seed,
            step=self._selection_key(),
        )
        mask = torch.from_numpy(selection.mask(together.size(1)))
        draft.mask = mask.view_as(rewards).to(rewards.device)
        if args.advantage_scope == "subset":
            advantages = recentre_on_subset(rewards, draft.mask, scale=self.scale_rewards)
        draft.advantages = advantages
        if args.weighs:
            weights = torch.from_numpy(selection.row_weights(together.size(1))).view_as(rewards)
            draft.weights = weights.to(rewards.device, rewards.dtype)

    def _selection_key(self) -> int:
        """A number for each generation of the run, the same after a resume."""
        step, generations = self._generations_of_step
        generations = generations + 1 if step == self.state.global_step else 0
        self._generations_of_step = (self.state.global_step, generations)
        per_step = -(-self.args.gradient_accumulation_steps // (self.args.steps_per_generation * self.num_iterations))
        return self.state.global_step * per_step + generations

    def _check_advantages(self, draft: _Draft, batch: Batch) -> None:
        if self.args.advantage_scope == "group" and not torch.allclose(
            batch["advantages"], self._local_rows(draft.advantages), rtol=1e-4, atol=1e-6
        ):
            raise RuntimeError("this release of TRL computes advantages in a way that raml_trl does not know")

    def _apply_selection(self, draft: _Draft, batch: Batch) -> None:
        """Write the selection into what TRL will shuffle and buffer, and into what it logs."""
        batch["selected"] = self._local_rows(draft.mask)
        batch["advantages"] = self._local_rows(draft.advantages)
        if draft.weights is not None:
            batch["weights"] = self._local_rows(draft.weights)
            batch["advantages"] = batch["advantages"] * batch["weights"]
        generated = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        loss_mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        # RaML: token-normalised losses divide by the tokens of the selected rows; or, where rows are weighted so that
        # their sum estimates that over all G, by what the tokens of all G are on m rows.
        if self.args.weighs:
            batch["num_items_in_batch"] = batch["num_items_in_batch"] * self.args.fraction
        else:
            selected_tokens = (loss_mask * batch["selected"].unsqueeze(1)).sum()
            batch["num_items_in_batch"] = self.accelerator.gather(selected_tokens).sum()
        trained = self._trained(batch["selected"], batch["advantages"])
        scored = torch.tensor(draft.tokens_scored, device=trained.device)
        sums = torch.stack([trained.sum(), (loss_mask * trained.unsqueeze(1)).sum().long(), scored])
        rows, tokens, scored = self.accelerator.reduce(sums).tolist()
        self.ledger.count(
            rollouts=draft.mask.numel(),
            selected=int(draft.mask.sum()),
            trained=rows,
            tokens_generated=int(generated),
            tokens_scored=scored,
            tokens_trained=tokens,
        )
        metrics = self._metrics["train"]
        metrics["rows/selected"].append(int(draft.mask.sum()))
        metrics["rows/trained"].append(rows)
        for name, amount in (("generated", int(generated)), ("scored", scored), ("trained", tokens)):
            metrics[f"tokens/{name}"].append(amount)
        self._log_groups(draft)

    def _trained(self, selected: Tensor, advantages: Tensor) -> Tensor:
        """Of the selected rows those that run."""
        return selected & (advantages != 0) if self._skip_zero_advantage else selected

    def _rows_to_score(self, rows: Tensor) -> NDArray[np.int64] | None:
        """Which rows of this process are scored, equally many on all, for each forward pass may be a collective."""
        own = rows.nonzero().flatten().cpu().numpy()
        most = int(self.accelerator.gather(torch.tensor(len(own), device=rows.device)).max())
        if most == len(rows) and not self._length_bucketing:
            return None
        return np.concatenate([own, np.zeros(max(most, 1) - len(own), dtype=np.int64)])

    def _cut_for_scoring(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        num_parts = -(-len(rows) // self.args.per_device_train_batch_size)
        if not self._length_bucketing:
            return np.array_split(rows, num_parts)
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        return np.split(rows, cut_by_width(lengths[rows], num_parts))

    @property
    def _extra_logs(self) -> dict[str, deque[Any]]:
        """Columns of TRL's table of completions."""
        logs: Any = self._logs
        return logs["extra"]

    def _local_rows(self, values: Tensor) -> Tensor:
        """This process's rows of a global `(P, G)`."""
        return values.reshape(self.accelerator.num_processes, -1)[self.accelerator.process_index]

    def _cut(self, batch: Batch) -> list[Batch]:
        """The buffered rows of a generation as the micro-batches of this process."""
        args, num_rows = self.args, len(batch["selected"])
        lengths = torch.from_numpy(row_lengths(batch)).to(self.accelerator.device)
        live = self._trained(torch.ones_like(batch["selected"]), batch["advantages"])
        facts = torch.stack([batch["selected"].long(), live.long(), lengths], dim=1)
        facts = self.accelerator.gather(facts).view(-1, num_rows, 3).cpu().numpy()  # (W, R, 3)
        selected, lives = facts[..., 0] == 1, facts[..., 1] == 1
        micro_batches = deal_micro_batches(
            selected,
            args.steps_per_generation,
            window=args.bucketing_window,
            lengths=facts[..., 2] if self._length_bucketing else None,
            live=lives if self._skip_zero_advantage else None,
            others=args.subset_mode == "mask",
        )
        self.ledger.count(cells_updating_all=self.num_iterations * num_cells(batch))
        return self._take(batch, micro_batches)

    def _take(self, batch: Batch, micro_batches: list[NDArray[np.int64]]) -> list[Batch]:
        """The rows of `micro_batches`, each `(W, N)`, that are dealt to this process."""
        args, here, num_rows = self.args, self.accelerator.process_index, len(batch["selected"])
        wanted = [np.concatenate([part[process] for part in micro_batches]) for process in range(len(micro_batches[0]))]
        mine = [part[here] for part in micro_batches]
        if all((rows[rows != IDLE] // num_rows == process).all() for process, rows in enumerate(wanted)):
            mine = [np.where(rows == IDLE, IDLE, rows - here * num_rows) for rows in mine]
        else:
            # RaML: rows change hands, for groups that lie on two processes or for the balance of tokens.
            needed = [rows[rows != IDLE] for rows in wanted]
            needed = [  # an idle process keeps a row of its own to stand on
                rows if len(rows) else np.array([process * num_rows]) for process, rows in enumerate(needed)
            ]
            batch = exchange_rows(batch, needed, self.accelerator)
            numbers = np.where(wanted[here] == IDLE, IDLE, np.cumsum(wanted[here] != IDLE) - 1)
            mine = np.split(numbers, np.cumsum([len(rows) for rows in mine])[:-1])
        if args.subset_mode == "mask":
            mask = batch["selected"].unsqueeze(1).expand_as(batch["completion_mask"])
            batch["tool_mask"] = mask.to(batch["completion_mask"].dtype) * batch.get("tool_mask", 1)
        del batch["selected"]
        taken = []
        for rows, everywhere in zip(mine, micro_batches, strict=True):
            one = self._trim(take_rows(batch, rows))
            one["idle"] = torch.tensor(bool((everywhere == IDLE).all()))
            self.ledger.count(
                cells_updating=self.num_iterations * num_cells(one),
                tokens_updating=self.num_iterations * int(row_lengths(one).sum()),
            )
            taken.append(one)
        return taken

    def _trim(self, batch: Batch) -> Batch:
        multiple: Any = self.pad_to_multiple_of  # a number by now
        return trim_padding(batch, multiple=multiple) if self._length_bucketing else batch

    def _log_seconds(self) -> None:
        """Seconds of each phase since the last optimizer step, and what training on all G would have taken."""
        metrics = self._metrics["train"]
        for phase in PHASES:
            metrics[f"seconds/{phase}"].append(self.ledger.seconds[phase] - self._seconds_logged[phase])
        self._seconds_logged = dict(self.ledger.seconds)
        for name, value in speedup(self.ledger, self.args.fraction).items():
            metrics[f"speedup/{name}"].append(value)

    def _log_groups(self, draft: _Draft) -> None:
        """How many groups have a signal, before and after selection."""
        metrics, extra = self._metrics["train"], self._extra_logs
        mask = draft.mask.cpu().numpy()
        rewards = total_rewards(
            draft.rewards_per_func.view(*mask.shape, -1), self.reward_weights.to(draft.rewards_per_func.device)
        )
        everything = np.ones_like(mask)
        for name, rows in (("group", everything), ("selected", mask)):
            metrics[f"selection/{name}_same_reward"].append(same_value_fraction(rewards.cpu().numpy(), rows))
        if len(extra.get("correct", ())) >= mask.size:  # the reward function says which rollouts are right
            correct = np.array(list(extra["correct"])[-mask.size :], dtype=bool).reshape(mask.shape)
            for name, rows in (("groups", everything), ("selected", mask)):
                for outcome, part in group_outcomes(correct, rows).items():
                    metrics[f"{name}/{outcome}"].append(part)
        extra["selected"].extend(mask.flatten().tolist())


class _RowFactor(float):
    """A number that weighs the rows of what it multiplies: TRL's one `beta`, times the weight of each row."""

    rows: Tensor

    def __new__(cls, value: float, rows: Tensor) -> "_RowFactor":
        factor = super().__new__(cls, value)
        factor.rows = rows  # (R, 1)
        return factor

    def __mul__(self, other: Any) -> Any:
        return float(self) * self.rows * other


class _OptimizerClock(TrainerCallback):
    """Charges the optimizer's own step, which happens outside of `training_step`, to updating."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.ledger.enter("updating")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.ledger.leave()
