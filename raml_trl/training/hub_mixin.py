"""For a trainer of TRL's: a model card that says how the model was made, and pushes in training that do not end it.

When transformers pushes in training is as it was (`hub_strategy`); the push at the end is that of `publishing`.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raml_trl.data.tables import DatasetReference
from raml_trl.hub.card_parts import recipe, version
from raml_trl.hub.client import insist
from raml_trl.hub.model_card import CARD, Training, add_results, complete_card, last_metrics
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.runs import is_run, read_record
from raml_trl.sampling.loading import shown_name
from raml_trl.training.checkpoints import find_checkpoints, find_fault
from raml_trl.training.evaluation import Evaluation
from raml_trl.training.publishing import push_checkpoint, revision

logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """Writes our card where TRL writes its own: with each checkpoint, and at the end."""

    sampled_evaluation: Evaluation | None

    def __init__(self, *args: Any, **named: Any) -> None:
        self._version = version()  # before training, during which the checkout may change
        super().__init__(*args, **named)

    @property
    def choice(self) -> Mapping[str, object]:
        """How trajectories or rollouts are chosen, by name, for the card."""
        return {}

    @property
    def _directory(self) -> Path:
        return Path(str(self.args.output_dir))

    def init_hf_repo(self, *args: Any, **named: Any) -> None:
        # RaML: asked again while the Hub is busy; at this point transformers would give up.
        init = super().init_hf_repo
        insist(lambda: init(*args, **named), f"model {self.args.hub_model_id or self._directory.name}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        before = self._push_jobs
        super()._push_from_checkpoint(checkpoint_folder)
        for job in self._push_jobs:
            if job not in before:
                job.add_done_callback(_tell)  # RaML: of a push in training that fails, transformers says nothing

    @property
    def _push_jobs(self) -> list[Future[Any]]:
        """Pushes that transformers has under way, in the process that pushes."""
        return [] if self.hub_model_id is None or self.push_in_progress is None else [*self.push_in_progress.jobs]

    def create_model_card(  # type: ignore[override]  # TRL's signature
        self, model_name: str | None = None, dataset_name: str | None = None, *args: Any, **named: Any
    ) -> None:
        settings = self._record.get("settings", {})
        data = settings.get("dataset_name")
        on_hub = data is not None and not Path(data).exists()
        card: Any = super().create_model_card
        card(model_name, dataset_name or (data if on_hub else None), *args, **named)
        if not self.is_world_process_zero():
            return
        # RaML: what TRL does not know of the run.
        training = self._training()
        complete_card(self._directory / CARD, training)
        evaluation = self.sampled_evaluation
        if evaluation is not None and training.metrics and training.metrics_step == training.step:
            reference = DatasetReference.parse(settings.get("eval_data", "questions"))
            number, metrics = evaluation.settings.num_samples, training.metrics
            dataset = shown_name(reference.name)
            add_results(self._directory, dataset=dataset, split=reference.split, metrics=metrics, samples=[number])

    def _training(self) -> Training:
        """What the card is to say of the model as it is now."""
        record, state, trained = self._record, self.state, cast(Any, self.model)
        settings = record.get("settings", {})
        data = settings.get("dataset_name")
        # At the end, `load_best_model_at_end` has gone back to an earlier step.
        best = (state.best_global_step or None) if self.args.load_best_model_at_end and not self.is_in_train else None
        step = best or state.global_step
        metrics_step, metrics = last_metrics(state.log_history, step=best)
        pushed = any(isinstance(one, RevisionPusher) for one in self.callback_handler.callbacks)
        return Training(
            base=shown_name(settings.get("model_name_or_path") or trained.config._name_or_path or "a new model"),
            version=self._version,
            settings=self.choice,
            data=None if data is None else shown_name(data),
            recipe=recipe(record) if record else None,
            step=step,
            repo_id=self.hub_model_id,
            revisions=revision(step) if pushed else None,
            metrics=metrics,
            metrics_step=metrics_step,
        )

    @property
    def _record(self) -> Mapping[str, Any]:
        """What `run.json` says; empty where the trainer is not that of a command."""
        return read_record(self._directory) if is_run(str(self._directory)) else {}


def _tell(job: Future[Any]) -> None:
    if job.exception() is not None:
        logger.warning("a push in training failed (%s): the one at the end makes up for it", job.exception())


class RevisionPusher(TrainerCallback):
    """Makes a revision of every checkpoint as it is saved, before `save_total_limit` removes it.

    One that cannot be pushed is told, and pushed with the next or at the end of the run, if it is still here by then.
    """

    def __init__(self, repo_id: str | None) -> None:
        self.repo_id = repo_id  # which only the process that pushes knows
        self.pushed: set[int] = set()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.repo_id is None:
            return
        directory, now = Path(str(args.output_dir)), state.global_step
        checkpoints = find_checkpoints(directory)
        with whole_file(checkpoints[now] / CARD) as partial:
            partial.write_bytes((directory / CARD).read_bytes())
        # The other processes may still be writing what of this checkpoint is theirs, which is not pushed.
        whole = {step for step, path in checkpoints.items() if step == now or find_fault(path) is None}
        for step in sorted(whole - self.pushed):
            try:
                push_checkpoint(checkpoints[step], self.repo_id, step)
            except InputError as error:
                logger.warning("%s is not pushed yet: %s", checkpoints[step], error)
                return  # so the next would not be either
            self.pushed.add(step)
