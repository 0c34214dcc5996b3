"""The options that both `train_sft` and `train_grpo` add to those of TRL, checked before any work starts."""

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_bf16_gpu_available, is_torch_xla_available
from trl import ModelConfig

from raml_trl.data.config import DatasetArguments
from raml_trl.runtime.errors import InputError, MissingDevice
from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import COUNT, PATH, TOP_P, Each, Limits, Number, check_settings, whole
from raml_trl.training.adapters import StartingAdapter
from raml_trl.training.limits import MODEL

_NEW_NAMES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""The new names of settings that transformers has renamed and TRL has not. Older releases have only the old names."""


def use_new_names(config: TrainingArguments) -> None:
    """Copy the values of renamed settings to their new names, unless the new names are set.

    `__post_init__` of transformers would do the same with a warning, which every start would print because of a default
    of TRL. Therefore, call this function before `__post_init__`.
    """
    for old, new in _NEW_NAMES.items():
        if hasattr(config, new) and getattr(config, new) is None:
            setattr(config, new, getattr(config, old))


def check_device(config: TrainingArguments) -> None:
    """Check that this machine can train in bfloat16, if the settings ask for it.

    Call this function before `__post_init__` of TRL, which replaces None in `bf16` by true, unless `fp16` is true.

    Raises:
        MissingDevice: if the settings ask for bfloat16, and no device of this machine computes in it.
    """
    bf16 = not config.fp16 if config.bf16 is None else config.bf16
    if config.use_cpu or not (bf16 or config.bf16_full_eval):
        return
    if not (is_torch_bf16_gpu_available() or is_torch_xla_available()):
        name = "bf16" if bf16 else "bf16_full_eval"
        raise MissingDevice(
            f"{name} is true, but this machine has no GPU that computes in bfloat16: start on a machine with one, or "
            f"set use_cpu: true and {name}: false to train on the CPU"
        )


@dataclass(kw_only=True)
class EvaluationArguments(DatasetArguments):
    """Options for the questions and samples of an evaluation during training.

    TRL's `eval_strategy` and `eval_steps` decide when to evaluate.
    """

    limits: ClassVar[Limits] = {
        "eval_data": PATH,
        "eval_num_questions": COUNT,
        "eval_num_samples": whole(1, 10**6),
        "eval_k": Each(whole(1, 10**6)),
        "eval_temperature": Number(0, 1000),
        "eval_top_p": TOP_P,
        "eval_top_k": whole(0, 10**9),
        "eval_max_completion_length": whole(1, 10**7),
    }
    headings: ClassVar[Headings] = {"eval_data": "Evaluation during training"}

    eval_data: str | None = field(
        default=None,
        metadata={
            "help": "Questions to evaluate on during training: like dataset_name, or NAME@SPLIT, or "
            "NAME@SPLIT@CONFIG, with columns of the usual names."
        },
    )
    eval_num_questions: int | None = field(
        default=None, metadata={"help": "Evaluate on the first N questions; None takes all."}
    )
    eval_num_samples: int = field(default=8, metadata={"help": "n: samples per question."})
    eval_k: list[int] = field(
        default_factory=lambda: [1, 8], metadata={"help": "The k of Pass@k and, if k is even, of mG-Pass@k."}
    )
    eval_temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 decodes greedily."})
    eval_top_p: float = 1.0
    eval_top_k: int = field(default=0, metadata={"help": "0 keeps the whole vocabulary."})
    eval_max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "Maximum tokens of a sample; None means max_completion_length in train_grpo and 1024 in train_sft."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.eval_num_samples
        if self.eval_temperature == 0 and n > 1:
            raise InputError(f"eval_temperature 0 draws {n} identical samples: set eval_num_samples to 1")
        if not self.eval_k or not all(1 <= k <= n for k in self.eval_k):
            raise InputError(f"eval_k must be numbers from 1 to eval_num_samples = {n}, got {self.eval_k}")


@dataclass(kw_only=True)
class TrainArguments(EvaluationArguments):
    """All options that `train_sft` and `train_grpo` both add to those of TRL."""

    limits: ClassVar[Limits] = {}
    headings: ClassVar[Headings] = {"starting_adapter": "Adapters", "hub_revisions": "The Hub"}

    starting_adapter: StartingAdapter | None = field(
        default=None,
        metadata={
            "help": "If model_name_or_path is the directory of an adapter (LoRA): `merge` it into its base model and "
            "train that, or `continue` to train the adapter."
        },
    )
    hub_revisions: bool = field(
        default=False,
        metadata={"help": "With push_to_hub: push every checkpoint as a revision of the model, such as step-200."},
    )


@dataclass
class CheckedModelConfig(ModelConfig):
    """TRL's `ModelConfig`, extended to refuse values that cannot work."""

    limits: ClassVar[Limits] = MODEL

    def __post_init__(self) -> None:
        check_settings(self)
        super().__post_init__()
