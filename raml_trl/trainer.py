"""`SubsetGRPOTrainer`: TRL's `GRPOTrainer` that trains on m of the G rollouts of every group.

How it differs from `GRPOTrainer`, each place marked `# RaML:`
1. After TRL has generated, rewarded and computed advantages over all G, m of each group are selected.
2. `drop` removes the other rows from what TRL buffered; `mask` keeps them and masks their loss. Same gradient.
   Where a group lies on two processes, rows change hands until each process has the same number of selected ones.
3. Within an optimizer step, rows are sorted by length before they are cut into micro-batches, and padding is trimmed.

TRL owns generation, rewards, advantages and the loss: its methods are called and their results worked on, never copied.
What is logged about rewards, advantages and completions stays over all G, so that curves for different m compare; what
is logged about the loss (entropy, KL, clipping) is over the m that it was taken on.

    trainer = SubsetGRPOTrainer(model, reward_funcs, SubsetGRPOConfig(..., num_generations_update=2), train_dataset)
    trainer.train()
"""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.trainer.utils import get_config_model_id

from raml_trl.advantages import recentre_on_subset
from raml_trl.batching import Batch, cut_micro_batches, deal_rows, join_batches, row_lengths, take_rows, trim_padding
from raml_trl.configs import ROW_MEAN_LOSSES, SubsetGRPOConfig
from raml_trl.errors import InputError
from raml_trl.selection import Selection, select_rollouts

CITATION = """\
@article{liu2025deciphering,
  title   = {Deciphering Trajectory-Aided {LLM} Reasoning: An Optimization Perspective},
  author  = {Junnan Liu and Hongwei Liu and Linchen Xiao and Shudong Liu and Taolin Zhang and Zihan Ma and
             Songyang Zhang and Kai Chen},
  journal = {arXiv preprint arXiv:2505.19815},
  year    = {2025}
}"""


class SubsetGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, same constructor, with `SubsetGRPOConfig` for its `args`.

    With m = G, `drop` and no bucketing it equals `GRPOTrainer` bit for bit.

    Source: RaML, arXiv 2505.19815, section 4.4.

    Raises:
        InputError: for multimodal models; for models with a router loss in `mask` mode or with bucketing asked for.
    """

    _tag_names = ["trl", "grpo", "raml"]
    _name = "Subset GRPO"
    _paper = {
        "title": "Deciphering Trajectory-Aided LLM Reasoning: An Optimization Perspective",
        "id": "2505.19815",
        "citation": CITATION,
    }

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
        if self.aux_loss_enabled and (args.subset_mode == "mask" or args.length_bucketing):
            raise InputError(
                "this mixture-of-experts model has a router loss, which is a mean over a micro-batch: leave out "
                "subset_mode: mask and length_bucketing: true, or set router_aux_loss_coef: 0"
            )
        exact = not args.per_micro_batch_terms and not self.aux_loss_enabled
        self._length_bucketing = exact if args.length_bucketing is None else args.length_bucketing
        # Selection is keyed by how often this optimizer step has generated: a count that a resume starts afresh too.
        self._generations_of_step = (-1, 0)
        self._rewards_per_func = torch.empty(0)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        self._rewards_per_func = rewards_per_func  # RaML: (all rows, reward functions), for selection to look at
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            self._extra_logs["selected"].extend([None] * self.accelerator.num_processes * len(inputs))
            return batch
        # RaML: choose m of G, over the global batch, the same on every process.
        rewards = self._weighted_rewards().view(-1, self.num_generations)  # (P, G)
        advantages = self.accelerator.gather(batch["advantages"]).view_as(rewards)
        selection = self._select(rewards, advantages)
        mask = torch.from_numpy(selection.mask(self.num_generations)).to(rewards.device)
        if self.args.advantage_scope == "subset":
            advantages = recentre_on_subset(rewards, mask, scale=self.args.scale_rewards)
            batch["advantages"] = self._local_rows(advantages)
        batch["selected"] = self._local_rows(mask)
        # RaML: token-normalised losses divide by the tokens of the selected rows alone.
        loss_mask = batch["completion_mask"] * batch.get("tool_mask", 1) * batch["selected"].unsqueeze(1)
        batch["num_items_in_batch"] = self.accelerator.gather(loss_mask.sum()).sum()
        self._log_selection(rewards, mask, batch)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        buffered = self._buffered_inputs
        batch = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered:  # evaluation, or another pass over the same generation
            return batch
        # RaML: TRL has shuffled all rows and cut them; cut again with the selected rows only.
        self._buffered_inputs = self._cut_selected(self._deal(join_batches(self._buffered_inputs)))
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        # RaML: a mean over all B rows of a micro-batch, B * m / G of which count.
        if self.args.subset_mode == "mask" and self.loss_type in ROW_MEAN_LOSSES and self.model.training:
            loss = loss * (self.num_generations / self.args.num_generations_update)
        return loss

    def _weighted_rewards(self) -> Tensor:
        """`(all rows,)`: what TRL sums over its reward functions; NaN where none of them gave a reward."""
        rewards = (self._rewards_per_func * self.reward_weights.to(self._rewards_per_func.device)).nansum(dim=1)
        return rewards.masked_fill(self._rewards_per_func.isnan().all(dim=1), torch.nan)

    def _select(self, rewards: Tensor, advantages: Tensor) -> Selection:
        step, generations = self._generations_of_step
        generations = generations + 1 if step == self.state.global_step else 0
        self._generations_of_step = (self.state.global_step, generations)
        per_step = -(-self.args.gradient_accumulation_steps // (self.args.steps_per_generation * self.num_iterations))
        return select_rollouts(
            rewards.cpu().numpy(),
            advantages.cpu().numpy(),
            self.args.num_generations_update,
            strategy=self.args.selection,
            seed=self.args.seed,
            step=self.state.global_step * per_step + generations,
        )

    @property
    def _extra_logs(self) -> dict[str, deque[Any]]:
        """Columns of TRL's table of completions."""
        logs: Any = self._logs
        return logs["extra"]

    def _local_rows(self, values: Tensor) -> Tensor:
        """This process's rows of a global `(P, G)`."""
        return values.reshape(self.accelerator.num_processes, -1)[self.accelerator.process_index]

    def _deal(self, batch: Batch) -> Batch:
        """The same batch where every process has as many selected rows as any other; else rows change hands."""
        counts = self.accelerator.gather(batch["selected"].sum()).view(-1)
        if (counts == counts[0]).all():
            return batch
        # RaML: a group lies on two processes, and more of its selected rows on one of them.
        everywhere = {name: self._gather_rows(name, value) for name, value in batch.items()}
        selected = everywhere["selected"].view(self.accelerator.num_processes, -1).cpu().numpy()
        return take_rows(everywhere, deal_rows(selected)[self.accelerator.process_index])

    def _gather_rows(self, name: str, value: Tensor) -> Tensor:
        """The rows of all processes, padded to one width on the side where TRL pads them; a 0-d tensor as it is."""
        if value.ndim == 0:
            return value
        if value.ndim > 1:
            value = self.accelerator.pad_across_processes(value, dim=1, pad_first=name.startswith("prompt_"))
        return self.accelerator.gather(value)

    def _cut_selected(self, batch: Batch) -> list[Batch]:
        args = self.args
        selected = batch.pop("selected")
        if args.subset_mode == "mask":
            mask = selected.unsqueeze(1).expand_as(batch["completion_mask"]).to(batch["completion_mask"].dtype)
            batch["tool_mask"] = mask * batch.get("tool_mask", 1)
        chosen = selected.cpu().numpy()
        rows = np.flatnonzero(chosen)
        lengths = row_lengths(batch)[rows] if self._length_bucketing else None
        micro_batches = cut_micro_batches(
            rows, args.steps_per_generation, lengths=lengths, window=args.bucketing_window
        )
        if args.subset_mode == "mask":  # the same selected rows in each micro-batch as `drop` has, then the others
            others = cut_micro_batches(np.flatnonzero(~chosen), args.steps_per_generation)
            micro_batches = [np.concatenate(pair) for pair in zip(micro_batches, others, strict=True)]
        batches = [take_rows(batch, rows) for rows in micro_batches]
        if self._length_bucketing:
            multiple: Any = self.pad_to_multiple_of  # a number by now
            batches = [trim_padding(one, multiple=multiple) for one in batches]
        return batches

    def _log_selection(self, rewards: Tensor, mask: Tensor, batch: Batch) -> None:
        metrics = self._metrics["train"]
        for name, values in (("group", rewards), ("selected", rewards[mask].view(len(rewards), -1))):
            same = (values == values[:, :1]).all(dim=1)
            metrics[f"selection/{name}_same_reward"].append(same.float().mean().item())
        generated = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        metrics["selection/trained_token_fraction"].append((batch["num_items_in_batch"] / generated).item())
        self._extra_logs["selected"].extend(mask.flatten().tolist())
