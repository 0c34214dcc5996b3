"""`ReferenceResuming`: a mixin whose checkpoints include the reference model if `sync_ref_model` changes it.

TRL keeps the reference model in memory only, so a resumed run would start again from the initial reference and end with
different weights. An adapter named `ref`, which is TRL's reference for a model that has an adapter from the beginning,
is part of every checkpoint anyway.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from trl import GRPOConfig, RLOOConfig

from raml_trl.runtime.errors import InputError
from raml_trl.training.checkpoints import ResumableTrainer
from raml_trl.training.completeness import Required

logger = logging.getLogger(__name__)

REFERENCE_FILE = "reference_model.pt"
"""Name of the checkpoint file that holds the reference model. It is written only if training has changed the model."""


class ReferenceResuming(ResumableTrainer):
    """Mixin for `GRPOTrainer` and `RLOOTrainer`: saves and restores a reference model that changes.

    Raises:
        InputError: if checkpoints would have to hold a reference model that FSDP or ZeRO-3 shards.
    """

    args: GRPOConfig | RLOOConfig
    ref_model: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        state = self.accelerator.state
        zero3 = state.deepspeed_plugin is not None and state.deepspeed_plugin.zero_stage == 3
        sharded = zero3 or state.distributed_type == DistributedType.FSDP
        if sharded and self.args.sync_ref_model and self.args.save_strategy != "no":
            raise InputError(
                "sync_ref_model is on, but checkpoints cannot hold a reference model that FSDP or ZeRO-3 shards: set "
                "sync_ref_model: false or save_strategy: no, or use DDP, ZeRO-1 or ZeRO-2"
            )

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: this method runs before `trainer_state.json` marks the checkpoint as complete.
        if self._reference_has_changed(self.state.global_step) and self.args.should_save:
            torch.save(self._reference.state_dict(), Path(output_dir) / REFERENCE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self._reference_has_changed(self.state.global_step):
            return
        path = Path(checkpoint) / REFERENCE_FILE
        if path.is_file():
            self._reference.load_state_dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))
        else:
            logger.warning("%s is missing: the reference model starts again from its initial weights", path)

    def _required(self, step: int, num_processes: int) -> list[Required]:
        changed = [(REFERENCE_FILE,)] if self._reference_has_changed(step) else []
        return [*super()._required(step, num_processes), *changed]

    def _reference_has_changed(self, step: int) -> bool:
        """Return whether TRL has updated the reference model by optimizer step `step`."""
        return self.args.sync_ref_model and step >= self.args.ref_model_sync_steps

    @property
    def _reference(self) -> torch.nn.Module:
        reference: torch.nn.Module = self.accelerator.unwrap_model(self.ref_model)
        return reference
