"""`BufferResuming`: a mixin whose checkpoints include the generation that is being trained on.

TRL keeps the rollouts of a generation, and the completions that are not yet logged, in memory only. A run that was
resumed in the middle of a generation would therefore generate new rollouts and end with different weights.
"""

import logging
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from trl import GRPOConfig, GRPOTrainer, RLOOConfig

from raml_trl.grpo.reference_model import ReferenceResuming
from raml_trl.grpo.rows import Batch
from raml_trl.training.completeness import Progress

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
        buffered = None if between_generations else _storable(self._buffered_inputs)
        # A process without buffered rollouts would generate alone after a resume, and wait for the others.
        if not all(gather_object([buffered is not None])):
            buffered = None
        return super()._progress() | {"step": self._step, "buffered": buffered, **self._pending_completions()}

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
    """A `GRPOTrainer` with `BufferResuming`; its checkpoints also include TRL's adaptive entropy coefficient."""

    def _progress(self) -> Progress:
        return super()._progress() | {"entropy": (self.entropy_coef, self._last_world_entropy)}

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        if "entropy" in progress:  # older versions left it to TRL, which saves it after the checkpoint is complete
            self.entropy_coef, self._last_world_entropy = progress["entropy"]


def without_images(value: Any) -> Any:
    """Return logged values in which chat messages have no images, as in the table that TRL writes."""
    if isinstance(value, list):
        return [without_images(entry) for entry in value]
    if isinstance(value, dict):
        hidden = ("image",) if value.get("type") == "image" else ()
        return {name: without_images(entry) for name, entry in value.items() if name not in hidden}
    return value


def _storable(batches: list[Batch]) -> list[Batch] | None:
    """Return the batches, or None with a warning if a checkpoint cannot hold them.

    A checkpoint holds tensors and plain Python values, so that loading it runs no code.
    """
    for name, value in ((name, value) for batch in batches for name, value in batch.items()):
        foreign = _foreign_type(value)
        if foreign is not None:
            logger.warning(
                "a checkpoint cannot hold the %s in %r: a run that resumes from it generates new rollouts; put only "
                "tensors, numbers and text into the batch",
                foreign.__name__,
                name,
            )
            return None
    return batches


def _foreign_type(value: Any) -> type | None:
    """Return the type of a value, or of an entry in it, that is neither a tensor nor a plain Python value."""
    if type(value) in (list, tuple):
        return next(filter(None, map(_foreign_type, value)), None)
    if type(value) is dict:
        return next(filter(None, map(_foreign_type, (*value, *value.values()))), None)
    return None if type(value) in _PLAIN else type(value)
