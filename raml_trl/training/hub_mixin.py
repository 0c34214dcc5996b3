"""Mixin for TRL trainers: extends the model card, and keeps a failed push from ending the run.

transformers' `hub_strategy` still decides when a run pushes during training. The module `publishing` pushes
at the end of the run.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import Trainer

from raml_trl.data.tables import DatasetReference
from raml_trl.hub.card_parts import CARD, reproduction, version
from raml_trl.hub.client import insist
from raml_trl.hub.model_card import Prompt, TrainingFacts, add_results, complete_card, is_text, last_metrics
from raml_trl.runtime.disks import named_faults
from raml_trl.runtime.files import Settings
from raml_trl.runtime.runs import RunRecord, find_record
from raml_trl.sampling.loading import shown_name
from raml_trl.training.evaluation import Evaluation
from raml_trl.training.publishing import RevisionPusher, revision

logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """Completes the model cards that TRL writes, and retries or logs pushes that fail."""

    sampled_evaluation: Evaluation | None
    _checkpoint_to_push: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._version = version()  # now, because the checkout may change during training
        super().__init__(*args, **kwargs)

    @property
    def choice(self) -> Mapping[str, object]:
        """The settings by which trajectories or rollouts are chosen, which the card states."""
        return {}

    @property
    def longest_completion(self) -> int | None:
        """The most tokens of a completion that the model was trained to write; None if there is no limit."""
        args: Any = self.args
        return args.max_completion_length

    @property
    def example_prompt(self) -> Prompt | None:
        """A prompt of the training data, with which the card shows how to ask the model; None if there is none."""
        rows: Any = self.train_dataset
        if not isinstance(rows, Dataset) or "prompt" not in rows.column_names or not len(rows):
            return None
        prompt = rows.select_columns("prompt")[0]["prompt"]
        return prompt if is_text(prompt) else None

    @property
    def _directory(self) -> Path:
        return Path(str(self.args.output_dir))

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        # RaML: retry while the Hub is busy. transformers would end the run.
        init = super().init_hf_repo
        insist(lambda: init(*args, **kwargs), f"model {self.args.hub_model_id or self._directory.name}")

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        # RaML: transformers would start the push before all processes have written their files.
        if self._checkpoint_to_push is not None:
            before = self._push_jobs
            with named_faults(self._directory, RuntimeError):
                super()._push_from_checkpoint(self._checkpoint_to_push)
            self._checkpoint_to_push = None
            for job in self._push_jobs:
                if job not in before:
                    job.add_done_callback(_log_failure)  # RaML: log failures, which transformers ignores

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._checkpoint_to_push = checkpoint_folder  # see `_save_checkpoint`

    @property
    def _keeps_checkpoints(self) -> bool:
        return any(not job.done() for job in self._push_jobs)  # one of them may be sent to the Hub

    @property
    def _push_jobs(self) -> list[Future[object]]:
        """The pushes that transformers has in progress. Only the process that pushes has any."""
        return [] if self.hub_model_id is None or self.push_in_progress is None else [*self.push_in_progress.jobs]

    def create_model_card(  # type: ignore[override]  # TRL's signature
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        settings = self._settings
        data = settings.get("dataset_name")
        on_hub = data is not None and not Path(data).exists()
        create_card: Any = super().create_model_card
        create_card(model_name, dataset_name or (data if on_hub else None), tags)
        if not self.is_world_process_zero():
            return
        # RaML: facts about the run that TRL does not know.
        facts = self._training_facts()
        complete_card(self._directory / CARD, facts)
        evaluation = self.sampled_evaluation
        if evaluation is not None and facts.metrics and facts.metrics_step == facts.step:
            reference = DatasetReference.parse(settings.get("eval_data", "questions"))
            add_results(
                self._directory,
                dataset=shown_name(reference.name),
                split=reference.split,
                metrics=facts.metrics,
                samples=[evaluation.settings.num_samples],
                in_text=False,  # it is among the facts
            )

    def _training_facts(self) -> TrainingFacts:
        """Return the facts that the card states about the model in its current state."""
        record, state, model = self._record, self.state, cast(Any, self.model)
        settings = self._settings
        data = settings.get("dataset_name")
        # At the end, `load_best_model_at_end` has restored the weights of an earlier step.
        best = (state.best_global_step or None) if self.args.load_best_model_at_end and not self.is_in_train else None
        step = best or state.global_step
        metrics_step, metrics = last_metrics(state.log_history, step=best)
        pushes_revisions = any(isinstance(callback, RevisionPusher) for callback in self.callback_handler.callbacks)
        return TrainingFacts(
            base=shown_name(settings.get("model_name_or_path") or model.config._name_or_path or "a new model"),
            version=self._version,
            settings=self.choice,
            data=None if data is None else shown_name(data),
            recipe=reproduction(self._directory) if record else None,
            prompt=self.example_prompt,
            max_new_tokens=self.longest_completion,
            step=step,
            repo_id=self.hub_model_id,
            revision=revision(step) if pushes_revisions else None,
            metrics=metrics,
            metrics_step=metrics_step,
        )

    @property
    def _record(self) -> RunRecord | None:
        """The contents of `run.json`; None if the trainer was not started by a command."""
        return find_record(self._directory)

    @property
    def _settings(self) -> Settings:
        """The settings that the user gave to the command."""
        record = self._record
        return {} if record is None else record["settings"]


def _log_failure(job: Future[object]) -> None:
    if job.exception() is not None:
        logger.warning("a push during training failed (%s); the push at the end sends the model", job.exception())
