"""Trains a tiny model for a few steps, and records gradients and logs.

The model has random weights, and the rollouts are random tokens. The optimizer is SGD: Adam would turn the rounding
errors of small gradients into different steps.
"""

import copy
import gc
import logging
import string
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from trl import GRPOConfig, GRPOTrainer

from raml_trl.grpo.agreement.cases import Case
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.trainer import SubsetGRPOTrainer

NUM_GENERATIONS = 4
_PAD, _EOS = "<pad>", "<eos>"


@dataclass
class Training:
    """The gradient `(number of parameters,)` of every optimizer step, and the log entries."""

    gradients: list[Tensor] = field(default_factory=list)
    logs: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Workshop:
    """A directory for the outputs of all trainings, and the model that each of them starts from."""

    directory: Path
    model: LlamaForCausalLM


@contextmanager
def open_workshop() -> Iterator[Workshop]:
    """Make a temporary directory with a model of one layer, and yield both as a `Workshop`.

    In the `with` block, trainings print no warnings and no progress bars. Python's garbage collector ignores the
    objects made before the block, which saves time after each training.
    """
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(make_tokenizer()), initializer_range=0.2, **sizes)
    with tempfile.TemporaryDirectory(prefix="raml_trl_") as directory, _quick_and_quiet():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        model.save_pretrained(directory)  # TRL loads the reference model from there
        model.config._name_or_path = directory
        yield Workshop(Path(directory), model)


def train(case: Case, workshop: Workshop, subset: dict[str, Any] | None = None) -> Training:
    """Train for two optimizer steps of four groups, in micro-batches of two groups, and return gradients and logs.

    Args:
        case: the settings and arguments that differ from the defaults.
        workshop: the directory and the model.
        subset: fields of `SubsetGRPOConfig`; None to train with TRL's own trainer.

    Raises:
        InputError: if our trainer rejects the settings.
    """
    settings: dict[str, Any] = {
        **{"output_dir": str(workshop.directory / "run"), "report_to": "none", "save_strategy": "no"},
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": NUM_GENERATIONS},
        **{"max_completion_length": 12, "max_steps": 2, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0},
        **{"lr_scheduler_type": "constant", "logging_steps": 1, "logging_nan_inf_filter": False, "seed": 3},
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True},
    }
    parts: dict[str, Any] = {
        **{"model": lambda: copy.deepcopy(workshop.model), "processing_class": make_tokenizer()},
        **{"reward_funcs": letters_reward, "train_dataset": questions(), "rollout_func": random_rollouts},
    }
    settings |= case.settings
    parts |= case.parts
    if callable(parts["model"]) and not isinstance(parts["model"], torch.nn.Module):
        parts["model"] = parts["model"]()
    trainer_class: type[GRPOTrainer] = GRPOTrainer if subset is None else SubsetGRPOTrainer
    if case.subclass is not None:
        trainer_class = case.subclass(trainer_class)
    args = GRPOConfig(**settings) if subset is None else SubsetGRPOConfig(**settings, **subset)
    recorder = _Recorder()
    trainer = trainer_class(args=args, callbacks=[recorder], **parts)
    trainer.pop_callback(PrinterCallback)
    if case.prepare is not None:
        case.prepare(trainer)
    trainer.train()
    return recorder.training


class _Recorder(TrainerCallback):
    """Records gradients before every optimizer step, and log entries without times and without the final totals."""

    def __init__(self) -> None:
        self.training = Training()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        trained = [parameter for parameter in given["model"].parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in trained]
        self.training.gradients.append(torch.cat([gradient.double().flatten() for gradient in gradients]))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if "train_runtime" not in given["logs"]:
            timed = ("step_time", "runtime", "per_second")
            self.training.logs.append({k: v for k, v in given["logs"].items() if not k.endswith(timed)})


def questions(number: int = 32) -> Dataset:
    """Return a dataset of `number` prompts of different lengths."""
    texts = [f"{'abcdefgh'[: 1 + i % 5]}{i}" for i in range(number)]
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in texts]})


def letters_reward(completions: Sequence[Any], prompts: Sequence[Any], **_columns: object) -> list[float]:
    """Return rewards that differ within most groups. In every third group or so all rewards are 0."""
    live = [sum(map(ord, text_of(prompt))) % 3 > 0 for prompt in prompts]
    texts = [text_of(completion) for completion in completions]
    return [sum(map(ord, text)) % 11 / 10 if alive else 0.0 for text, alive in zip(texts, live, strict=True)]


def text_of(messages: Any) -> str:
    """Return the text of a prompt or a completion: a string, or a list of messages."""
    return messages if isinstance(messages, str) else "".join(message["content"] for message in messages)


def random_rollouts(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
    """Return rollouts of random tokens and lengths. They depend only on the prompt and its position in the batch."""
    tokenizer, longest = trainer.processing_class, trainer.max_completion_length
    completions = []
    for row, prompt in enumerate(prompts):
        rng = np.random.default_rng([row, *text_of(prompt).encode()])
        length = min(longest, 2 + int(rng.exponential(longest / 3)))
        tokens = rng.integers(2, len(tokenizer), size=length).tolist()
        completions.append(tokens if length == longest else [*tokens[:-1], tokenizer.eos_token_id])
    return {
        "prompt_ids": tokenizer([text_of(prompt) for prompt in prompts])["input_ids"],
        "completion_ids": completions,
        "logprobs": [[-3.0 - 0.1 * (token % 7) for token in tokens] for tokens in completions],
    }


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for every letter and digit."""
    vocabulary = {token: index for index, token in enumerate([_PAD, _EOS, *string.ascii_letters, *string.digits])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_EOS,
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )


@contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """Suppress log lines, warnings and progress bars of the trainers, and shorten their garbage collections."""
    previous, bars = logging.root.manager.disable, is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    gc.collect()
    gc.freeze()  # accelerate collects garbage after every training: leave out the objects of all imported modules
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gc.unfreeze()
        logging.disable(previous)
        if bars:
            enable_progress_bar()
