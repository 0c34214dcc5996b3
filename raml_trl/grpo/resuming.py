"""`BufferResumingTrainer`: a `GRPOTrainer` whose checkpoints include the generation that is being trained on.

TRL keeps the buffered rollouts of a generation, and the completions that are not yet logged, in memory only. Without
them a run resumed in the middle of a generation would generate again and end with other weights.
"""

from typing import Any, cast

from trl import GRPOConfig, GRPOTrainer

from raml_trl.grpo.batching import Batch
from raml_trl.training.checkpoints import Progress, ResumableTrainer


class BufferResumingTrainer(ResumableTrainer, GRPOTrainer):
    """Saves and restores the buffered rollouts and the completions that are not yet logged."""

    args: GRPOConfig
    _buffered_inputs: list[Batch]  # type: ignore[assignment]  # TRL declares it None

    def _progress(self) -> Progress:
        # RaML: the state of this process that TRL holds in memory only.
        between_generations = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        return super()._progress() | {
            "step": self._step,
            "buffered": None if between_generations else self._buffered_inputs,
            **self._pending_completions(),
        }

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        if not self.args.ignore_data_skip:  # otherwise the data start again, and with them a generation
            self._step, buffered = progress["step"], progress["buffered"]
            self._buffered_inputs = buffered and [self._on_device(batch) for batch in buffered]
        logs = self._completion_logs
        for name, values in progress["tables"].items():
            logs[name].extend(values)
        for part, columns in progress["columns"].items():
            for name, values in columns.items():
                logs[part][name].extend(values)

    def _pending_completions(self) -> Progress:
        """Return TRL's columns of completions that are not yet logged; empty unless `log_completions`."""
        if not self.log_completions:
            return {"tables": {}, "columns": {"rewards": {}, "extra": {}}}
        logs = self._completion_logs
        return {
            "tables": {name: list(logs[name]) for name in ("prompt", "completion", "advantages")},
            "columns": {
                part: {name: list(values) for name, values in logs[part].items()} for part in ("rewards", "extra")
            },
        }

    def _on_device(self, batch: Batch) -> Batch:
        return {name: value.to(self.accelerator.device) for name, value in batch.items()}

    @property
    def _completion_logs(self) -> dict[str, Any]:
        """TRL's completions that are not yet logged: lists by column, and columns by name in `rewards` and `extra`."""
        return cast(dict[str, Any], self._logs)
