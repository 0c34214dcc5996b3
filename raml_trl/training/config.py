"""The options that both `train_sft` and `train_grpo` add to those of TRL, checked before any work starts."""

from dataclasses import dataclass, field

from raml_trl.data.config import DatasetArguments
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least, check_types


@dataclass(kw_only=True)
class EvaluationArguments(DatasetArguments):
    """Options for the questions and samples of an evaluation during training.

    TRL's `eval_strategy` and `eval_steps` decide when to evaluate.
    """

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
        check_types(self, EvaluationArguments)
        check_at_least(
            self,
            **dict.fromkeys(("eval_num_questions", "eval_num_samples", "eval_max_completion_length"), 1),
            eval_temperature=0,
            eval_top_k=0,
        )
        n = self.eval_num_samples
        if not 0 < self.eval_top_p <= 1:
            raise InputError(f"eval_top_p must be more than 0 and at most 1, got {self.eval_top_p}")
        if self.eval_temperature == 0 and n > 1:
            raise InputError(f"eval_temperature 0 draws {n} identical samples: set eval_num_samples to 1")
        if not self.eval_k or not all(1 <= k <= n for k in self.eval_k):
            raise InputError(f"eval_k must be numbers from 1 to eval_num_samples = {n}, got {self.eval_k}")


@dataclass(kw_only=True)
class TrainArguments(EvaluationArguments):
    """All options that `train_sft` and `train_grpo` both add to those of TRL."""

    hub_revisions: bool = field(
        default=False,
        metadata={"help": "With push_to_hub: push every checkpoint as a revision of the model, such as step-200."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, TrainArguments)
