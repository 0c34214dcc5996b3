"""`SubsetRLOOTrainer`: TRL's `RLOOTrainer` that trains on m of the G rollouts of every group.

TRL computes the advantages over all G rollouts and buffers them; then m of each group are selected, and only these are
kept. RLOO's loss is a mean over rows, and every micro-batch keeps the same number of rows, so the loss needs no
correction. docs/other_trainers.md derives the estimate and lists what `SubsetGRPOTrainer` does in addition.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RLOOConfig, RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing

from raml_trl.grpo.batching import gather_row_table, join_completions, take_micro_batches
from raml_trl.grpo.config_checks import check_geometry
from raml_trl.grpo.generation import GenerationCounter, Row
from raml_trl.grpo.micro_batches import deal_micro_batches
from raml_trl.grpo.padding import join_batches
from raml_trl.grpo.resuming import BufferResuming
from raml_trl.grpo.rows import SELECTED, Batch
from raml_trl.grpo.selection import select_rollouts
from raml_trl.grpo.user_selection import Strategy
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import Each, Limits, Number, check_settings, whole
from raml_trl.training.config import use_new_names
from raml_trl.training.limits import GROUPS


@dataclass
class SubsetRLOOConfig(RLOOConfig):
    """TRL's `RLOOConfig` with settings that choose which m of the G rollouts of a group carry gradient.

    `per_device_train_batch_size` and `steps_per_generation` count rollouts before selection, as in TRL.
    """

    limits: ClassVar[Limits] = {
        **GROUPS,
        "reward_clip_range": Each(Number(-(10**9), 10**9)),
        "num_generations_update": whole(1, 2**20),
    }

    num_generations_update: int | None = field(
        default=None, metadata={"help": "m: rollouts of each group of num_generations that carry gradient; None = all."}
    )
    selection: Strategy = field(
        default="random",
        metadata={"help": "Strategy that selects the m; see raml_trl.grpo.selection. It sees RLOO's advantages."},
    )

    def __post_init__(self) -> None:
        check_settings(self)
        use_new_names(self)
        super().__post_init__()
        if self.num_generations_update is None:
            self.num_generations_update = self.num_generations
        batch, steps, group = self.per_device_train_batch_size, self.steps_per_generation, self.num_generations
        check_geometry(batch, steps, self.world_size, group, self.num_generations_update)


class SubsetRLOOTrainer(BufferResuming, RLOOTrainer):
    """TRL's `RLOOTrainer`, which trains on m of the G rollouts of every group.

    The constructor is that of `RLOOTrainer`, but `args` is a `SubsetRLOOConfig`. With m = G, training gives the same
    weights as `RLOOTrainer`, bit for bit. Checkpoints include the buffered rollouts.

    Raises:
        InputError: for multimodal models.
    """

    _tag_names = ["trl", "rloo", "raml"]
    args: SubsetRLOOConfig

    def __init__(
        self, model: str | PreTrainedModel, reward_funcs: Any, args: SubsetRLOOConfig, *rest: Any, **named: Any
    ) -> None:
        if not isinstance(args, SubsetRLOOConfig):
            raise InputError(f"args must be a SubsetRLOOConfig, got {type(args).__name__}")
        super().__init__(model, reward_funcs, args, *rest, **named)
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise InputError(
                f"{type(self.processing_class).__name__} is multimodal: SubsetRLOOTrainer cannot select rows of "
                "images; use TRL's RLOOTrainer"
            )
        # With a KL penalty, the rewards of all G rollouts depend on their log-probabilities. A subclass that overrides
        # this method may read them.
        overridden = type(self)._generate_and_score_completions is not SubsetRLOOTrainer._generate_and_score_completions
        fewer = args.num_generations_update < args.num_generations
        self._scores_late = fewer and self.beta == 0.0 and not overridden
        self._generating = False
        self._generations = GenerationCounter(cast(Any, args), self.num_iterations)

    def _generate_and_score_completions(self, inputs: list[Row]) -> Batch:
        self._generating = training = self.model.training
        try:
            batch: Batch = super()._generate_and_score_completions(inputs)
        finally:
            self._generating = False
        if training:
            first = self.accelerator.process_index * len(inputs)
            batch["rollout_index"] = first + torch.arange(len(inputs), device=batch["advantages"].device)
        return batch

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **named: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._generating and self._scores_late:
            # RaML: a placeholder, which TRL only buffers. `_score` computes the values of the selected rows.
            return torch.zeros((len(input_ids), logits_to_keep), device=input_ids.device), None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **named
        )

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        buffered = self._buffered_inputs
        batch: Batch = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered:  # evaluation, or another micro-batch of the same generation
            return batch
        # RaML: TRL has shuffled all rows and cut them into micro-batches; join them and cut only the selected rows.
        selected = self._select(join_batches(self._buffered_inputs))
        table = gather_row_table(selected, selected[SELECTED], self.accelerator)
        micro_batches = deal_micro_batches(
            table.selected, self.args.steps_per_generation, window=1, lengths=None, live=None, keep_unselected=False
        )
        taken = take_micro_batches(
            selected, micro_batches, self.accelerator, mask_unselected=False, trim=lambda micro_batch: micro_batch
        )
        self._buffered_inputs = [self._score(micro_batch) for micro_batch in taken] if self._scores_late else taken
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _select(self, batch: Batch) -> Batch:
        """Return the batch with a column `SELECTED`, and with advantages multiplied by the weights of the selection."""
        args, rollout = self.args, batch["rollout_index"]
        order = self.accelerator.gather(rollout).argsort()
        advantages = self.accelerator.gather(batch["advantages"])[order].view(-1, args.num_generations)
        # RaML: within a group, RLOO's advantage is an increasing function of the reward after its KL penalty and its
        # clipping. It therefore also stands for the reward in strategies that rank rewards.
        values = advantages.cpu().numpy()
        number = self._generations.next(self.state.global_step)
        selection = select_rollouts(
            values, values, args.num_generations_update, strategy=args.selection, seed=args.seed, step=number
        )
        weights = torch.from_numpy(selection.row_weights(args.num_generations)).to(advantages).flatten()[rollout]
        others = {name: value for name, value in batch.items() if name != "rollout_index"}
        return others | {"advantages": batch["advantages"] * weights, SELECTED: weights != 0}

    def _score(self, batch: Batch) -> Batch:
        """Return the micro-batch with the log-probability of each completion under the model before the update."""
        model, checkpointing = cast(Any, self.model), cast(Any, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), disable_gradient_checkpointing(model, checkpointing):
            width = batch["completion_ids"].size(1)
            logps, _, _ = self._get_per_token_logps_and_entropies(model, *join_completions(batch), width)
        return batch | {"old_logps": (logps * batch["completion_mask"]).sum(dim=1)}
