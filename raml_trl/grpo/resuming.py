"""`BufferResuming`: a mixin whose checkpoints include the generation that is being trained on.

TRL keeps the rollouts of a generation, and the completions that are not yet logged, in memory only. A run that was
resumed in the middle of a generation would therefore generate new rollouts and end with different weights.
"""

import logging
from typing import Any

import torch
from accelerate.utils import send_to_device
from trl import GRPOConfig, GRPOTrainer, RLOOConfig

from raml_trl.grpo.reference_model import ReferenceResuming
from raml_trl.grpo.rows import Batch
from raml_trl.training.checkpoints import Progress

logger = logging.getLogger(__name__)

_PLAIN = {torch.Tensor, bool, int, float, str, type(None)}


class BufferResuming(ReferenceResuming):
    """Mixin for `GRPOTrainer` and `RLOOTrainer`: saves buffered rollouts, and completions that are not yet logged."""

    args: GRPOConfig | RLOOConfig
    num_iterations: int
    log_completions: bool
    _step: int
    _logs: dict[str, Any]
    _buffered_inputs: Any  # TRL declares it None

    def _progress(self) -> Progress:
        # RaML: the part of this process's state that TRL keeps in memory only.
        between_generations = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        return super()._progress() | {
            "step": self._step,
            "buffered": None if between_generations else _storable(self._buffered_inputs),
            **self._pending_completions(),
        }

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        if not self.args.ignore_data_skip:  # if it is set, the data start over with a new generation
            self._step, buffered = progress["step"], progress["buffered"]
            self._buffered_inputs = buffered and [self._on_device(batch) for batch in buffered]
        logs = self._completion_logs
        for name, values in progress["tables"].items():
            logs[name].extend(values)
        for part, columns in progress["columns"].items():
            for name, values in columns.items():
                logs[part][name].extend(values)
        if progress.get("images"):  # images are not saved, so the rows of the table have none
            logs["images"].extend([[]] * progress["images"])

    def _pending_completions(self) -> Progress:
        """Return the completions that TRL has not yet logged, by column; empty columns without `log_completions`."""
        if not self.log_completions:
            return {"tables": {}, "columns": {"rewards": {}, "extra": {}}, "images": 0}
        logs = self._completion_logs
        return {
            "tables": {name: without_images(list(logs[name])) for name in ("prompt", "completion", "advantages")},
            "columns": {
                part: {name: list(values) for name, values in logs[part].items()} for part in ("rewards", "extra")
            },
            "images": len(logs["images"]) if "images" in logs else 0,
        }

    def _on_device(self, batch: Batch) -> Batch:
        moved: Batch = send_to_device(batch, self.accelerator.device)
        return moved

    @property
    def _completion_logs(self) -> dict[str, Any]:
        """The completions that TRL has not yet logged: a list per column; `rewards` and `extra` are dicts of lists."""
        return self._logs


class BufferResumingTrainer(BufferResuming, GRPOTrainer):
from raml_trl.grpo.reference_model import ReferenceResuming
from raml_trl.grpo.rows import Batch
from raml_trl.training.checkpoints import Progress
