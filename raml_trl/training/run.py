"""Runs a trainer from start to finish: loads the model, resumes, trains, and saves the model with its card."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from raml_trl.hub.card_parts import plain_name
from raml_trl.hub.client import reason
from raml_trl.runtime.disks import named_faults
from raml_trl.runtime.errors import InputError, count_of
from raml_trl.runtime.files import write_json
from raml_trl.runtime.history import SUMMARY_FILE
from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.runtime.stopping import collected
from raml_trl.sampling.loading import LOADING_ERRORS, cannot_load, check_model, keep_rope_theta, load_tokenizer
from raml_trl.training.adapters import MERGED, StartingAdapter, load_adapter, merge_adapter
from raml_trl.training.checkpoints import ResumableTrainer
from raml_trl.training.dashboards import close_dashboards, open_dashboards
from raml_trl.training.publishing import RevisionPusher
from raml_trl.training.stopping import StopAfterStep

logger = logging.getLogger(__name__)

_SHOWN = ("loss", "reward", "correct", "grad_norm")


class ProgressBar(ProgressCallback):
    """transformers' progress bar, with the latest metrics beside it instead of a line of metrics at every step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if self.training_bar is not None and logs is not None:
            # A value that does not exist is NaN or None, such as the reward if no function judged a completion.
            known = {name: float(logs[name]) for name in _SHOWN if logs.get(name) is not None}
            self.training_bar.set_postfix({name: f"{value:.3g}" for name, value in known.items()})


class Clock(TrainerCallback):
    """Measures how many seconds a run has taken, earlier starts included, and saves it in `run.json` at checkpoints."""

    def __init__(self, record: Run) -> None:
        self.record = record
        self.before = record.seconds
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        self.record.save(self.seconds)
        return control


@contextmanager
def without_advice_to_trl() -> Iterator[None]:
    """Within the block, hide the warnings that TRL and PEFT use names which transformers has changed.

    These are a property and two methods for gradient checkpointing. No setting avoids the warnings.
    """
    with warnings.catch_warnings():
        names = "is_gradient_checkpointing|gradient_checkpointing_(?:en|dis)able"
        warnings.filterwarnings("ignore", f"`(?:{names})` is deprecated", FutureWarning)
        yield


@without_advice_to_trl()
def train(
    trainer_class: Callable[..., ResumableTrainer],
    config: SFTConfig | GRPOConfig,
    model: ModelConfig,
    record: Run,
    *,
    starting_adapter: StartingAdapter | None = None,
    revisions: bool = False,
    summarize: Callable[[Any], Mapping[str, object]] | None = None,
    results: Mapping[str, object] | None = None,
    **trainer_arguments: Any,
) -> None:
    """Train, resuming from the newest complete checkpoint in the output directory, and save the model.

    On SIGTERM and SIGUSR1, finish the optimizer step, save a checkpoint and raise `Terminated`.

    Args:
        trainer_class: the class of the trainer, from TRL or ours.
        config: the `args` of the trainer. The loading options of `model` are added to its `model_init_kwargs`.
        model: the settings of the model, and optionally of its adapter and quantization.
        record: the record of the run, which is complete afterwards.
        starting_adapter: how to start if the model is an adapter.
        revisions: whether to push each checkpoint to the Hub as a revision when it is saved.
        summarize: maps the trainer to the contents of `summary.json`. It is called on every process.
        results: further results of the command, to save in `run.json` with the results of training.
        trainer_arguments: further arguments of the trainer.

    Raises:
        InputError: if the model cannot be loaded, the Hub refuses a request that TRL makes at the start, the
            checkpoints are damaged, or the disk cannot be written.
    """
    name = check_model(model.model_name_or_path)
    config.model_init_kwargs = model_init_kwargs(config, model)
    adapter = {"peft_config": get_peft_config(model), "quantization_config": get_quantization_config(model)}
    start: Any = name
    if starting_adapter == "merge":
        start = merge_adapter(name, record.directory / MERGED, dtype=model.dtype)
        config.model_init_kwargs |= {"revision": None}  # that of the adapter
    elif starting_adapter == "continue":
        options = {**config.model_init_kwargs, "quantization_config": adapter.pop("quantization_config")}
        start, config.model_init_kwargs = load_adapter(name, **options), None
        # TRL would take the tokenizer of the base model.
        trainer_arguments["processing_class"] = load_tokenizer(name)
        if isinstance(config, GRPOConfig):
            trainer_arguments["processing_class"].padding_side = "left"
            trainer_arguments["processing_class"].truncation_side = "left"
    try:
        trainer = trainer_class(start, args=config, **adapter, **trainer_arguments)
    except HfHubHTTPError as error:  # TRL's constructor creates the repository of the completions
        raise InputError(f"{reason(error)}; run the same command to try again") from error
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    loaded: Any = trainer.model  # a class of transformers or of PEFT
    keep_rope_theta(loaded.config)
    clock = Clock(record)
    trainer.add_callback(clock)
    if revisions:
        trainer.add_callback(RevisionPusher(trainer.hub_model_id))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ProgressBar)
    checkpoint = trainer.checkpoint_to_resume(record.directory)
    if checkpoint is not None and is_first_process():
        logger.info("resuming from %s", checkpoint)
    open_dashboards(trainer, record)
    with collected() as request:
        trainer.add_callback(StopAfterStep(request, trainer.accelerator, record.lock))
        output = trainer.train(resume_from_checkpoint=checkpoint)
    with named_faults(record.directory, RuntimeError, SafetensorError):
        trainer.save_model(_internal_call=True)  # RaML: any other call would push, and a failed push would end the run
        trainer.save_state()
    name = (trainer.args.hub_model_id or str(record.directory)).rpartition("/")[2]
    trainer.create_model_card(model_name=plain_name(name))  # RaML: TRL writes the name into the card as it is
    if summarize is not None:
        summary = summarize(trainer)
        if is_first_process():
            write_json(record.directory / SUMMARY_FILE, summary)
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


def describe_length(config: TrainingArguments) -> str:
    """Return the number of steps or of epochs of a training as text, for a dry run."""
    if config.max_steps > 0:
        return count_of(config.max_steps, "step")
    return f"{config.num_train_epochs:g} epoch{'' if config.num_train_epochs == 1 else 's'}"


def model_init_kwargs(config: SFTConfig | GRPOConfig, model: ModelConfig) -> dict[str, Any]:
    """Return arguments for `from_pretrained`, as in TRL's scripts. Those in `config` override those in `model`."""
    overrides = config.model_init_kwargs
    assert overrides is None or isinstance(overrides, dict)
    return {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(overrides or {}),
    }
