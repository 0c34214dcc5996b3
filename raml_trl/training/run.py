"""A training run from its last checkpoint to its end: load, resume, train, save, model card."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from raml_trl.hub.client import reason
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import write_json
from raml_trl.runtime.history import SUMMARY_FILE
from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.sampling.loading import LOADING_ERRORS, cannot_load, check_model, keep_rope_theta
from raml_trl.training.checkpoints import newest_checkpoint
from raml_trl.training.dashboards import close_dashboards, open_dashboards
from raml_trl.training.hub_mixin import RevisionPusher

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "reward", "correct", "grad_norm")


class ProgressBar(ProgressCallback):
    """The bar of transformers, with the last figures beside it instead of a dictionary under it at every step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if self.training_bar is not None and logs is not None:
            self.training_bar.set_postfix({name: f"{float(logs[name]):.3g}" for name in _SHOWN if name in logs})


class Clock(TrainerCallback):
    """Records with every checkpoint how long the run took to get there, over all its sessions."""

    def __init__(self, record: Run) -> None:
        self.record = record
        self.before = record.seconds
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.record.save(self.seconds)
        return control


def train(
    trainer_class: Callable[..., Trainer],
    config: SFTConfig | GRPOConfig,
    model: ModelConfig,
    record: Run,
    *,
    revisions: bool = False,
    summarize: Callable[[Any], dict[str, Any]] | None = None,
    results: Mapping[str, Any] | None = None,
    **parts: Any,
) -> None:
    """Make the trainer, carry on from the newest whole checkpoint in its `output_dir`, and save.

    Args:
        trainer_class: one of TRL's, or ours.
        config: its `args`; what `model` says of loading goes into its `model_init_kwargs`.
        model: which model, and its adapter and quantization if it is to have any.
        record: the run to finish.
        revisions: make each checkpoint a revision on the Hub as it is saved.
        summarize: from the trainer to the contents of `summary.json`; called on every process.
        results: what is to stand in `run.json` beside those of the training.
        parts: whatever else the trainer takes.

    Raises:
        InputError: if the model cannot be loaded, or the Hub refuses what TRL asks of it at the start.
    """
    name = check_model(model.model_name_or_path)
    config.model_init_kwargs = model_init_kwargs(config, model)
    adapter = {"peft_config": get_peft_config(model), "quantization_config": get_quantization_config(model)}
    try:
        trainer = trainer_class(name, args=config, **adapter, **parts)
    except HfHubHTTPError as error:  # TRL makes and fills the repository of the completions in between
        raise InputError(f"{reason(error)}; the same command tries again") from error
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    trained: Any = trainer.model  # transformers' or PEFT's
    keep_rope_theta(trained.config)
    clock = Clock(record)
    trainer.add_callback(clock)
    if revisions:
        trainer.add_callback(RevisionPusher(trainer.hub_model_id))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ProgressBar)
    checkpoint = trainer.args.resume_from_checkpoint or newest_checkpoint(record.directory)
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
    open_dashboards(trainer, record)
    output = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(_internal_call=True)  # RaML: of itself it would push, and end the run where that fails
    trainer.save_state()
    trainer.create_model_card(model_name=(trainer.args.hub_model_id or str(record.directory)).rpartition("/")[2])
    if summarize is not None:
        spent = summarize(trainer)
        if is_first_process():
            write_json(record.directory / SUMMARY_FILE, spent)
    trainer.accelerator.wait_for_everyone()
    state = trainer.state
    best = {} if state.best_metric is None else {"best_metric": state.best_metric, "best_step": state.best_global_step}
    record.finish(
        clock.seconds,
        {
            **(results or {}),
            **best,
            "steps": state.global_step,
            "train_loss": output.training_loss,
            "processes": trainer.accelerator.num_processes,
            "distributed": trainer.accelerator.distributed_type.value,
        },
    )
    close_dashboards(trainer.args)
    trainer.end()


def model_init_kwargs(config: SFTConfig | GRPOConfig, model: ModelConfig) -> dict[str, Any]:
    """What TRL's own scripts hand to `from_pretrained`: `ModelConfig`'s fields, and the config's on top."""
    given = config.model_init_kwargs
    assert given is None or isinstance(given, dict)
    return {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(given or {}),
    }
