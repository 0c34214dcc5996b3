"""The dataclasses that the commands' YAML and command lines fill. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field
from typing import Literal

from raml_trl.choosing import Order, QuestionWeight, parse_length_bin
from raml_trl.errors import InputError
from raml_trl.planning import Sharding
from raml_trl.prompts import find_style
from raml_trl.validation import check_at_least, check_types


@dataclass
class DatasetArguments:
    """What to train on or evaluate with, and how to put it to the model."""

    dataset_name: str = field(
        metadata={"help": "Directory made by prepare_data, a .jsonl, .jsonl.gz or .parquet file, or a Hub data set."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub data set."})
    prompt_style: str = field(default="conclusion", metadata={"help": "A key of raml_trl.prompts.STYLES."})

    def __post_init__(self) -> None:
        check_types(self, DatasetArguments)
        find_style(self.prompt_style)


@dataclass
class SFTArguments(DatasetArguments):
    """`train_sft`, beside TRL's `SFTConfig` and `ModelConfig`."""

    num_trajectories: int | None = field(
        default=None, metadata={"help": "K: distinct correct trajectories per question; None takes all."}
    )
    trajectory_order: Order = field(
        default="random",
        metadata={
            "help": "Which K: see raml_trl.choosing. Those for K = 4 contain those for K = 2, whatever the order."
        },
    )
    length_bin: str | None = field(
        default=None,
        metadata={
            "help": "Take the K from one part of a question's correct trajectories by length: 1/3 is the shortest "
            "third, 3/3 the longest. All parts have the same questions and as many examples."
        },
    )
    repeat_to_fill: bool = field(
        default=True,
        metadata={
            "help": "Fill up by repetition, so that the number of training examples is the same for every K (the "
            "paper's control). If not, every chosen trajectory is one example."
        },
    )
    question_weight: QuestionWeight = field(
        default="correct",
        metadata={
            "help": "With repeat_to_fill: as many examples of a question as it has correct trajectories (the paper's; "
            "easy questions weigh more), or equally many of every question."
        },
    )
    overlong: Literal["drop", "cut"] = field(
        default="drop",
        metadata={
            "help": "What becomes of prompt and trajectory longer than max_length: another trajectory takes its place, "
            "or the end is cut off. Both are counted."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, SFTArguments)
        check_at_least(self, num_trajectories=1)
        if self.length_bin is not None:
            parse_length_bin(self.length_bin)


@dataclass
class GRPOArguments(DatasetArguments):
    """`train_grpo`, beside `SubsetGRPOConfig` and TRL's `ModelConfig`."""


@dataclass
class BuildModelConfig:
    """`build_model`: a small Qwen2 with random weights, and its tokenizer."""

    output_dir: str
    tokenizer: Literal["arithmetic", "bpe"] = field(
        default="arithmetic",
        metadata={"help": "The embedded world's words, or a byte-level BPE trained on `tokenizer_data`."},
    )
    tokenizer_data: str | None = field(default=None, metadata={"help": "A data set to train the BPE on."})
    vocab_size: int = field(default=2048, metadata={"help": "Of the BPE."})
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = field(default=2, metadata={"help": "vLLM wants hidden_size / heads of 32 or more."})
    num_key_value_heads: int = 2
    intermediate_size: int = 192
    max_position_embeddings: int = 512
    initializer_range: float = field(default=0.05, metadata={"help": "Small models learn sooner from a wide start."})
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self, BuildModelConfig)
        if (self.tokenizer == "bpe") != (self.tokenizer_data is not None):
            raise InputError(
                f"tokenizer is {self.tokenizer!r} and tokenizer_data is {self.tokenizer_data!r}: "
                "a bpe tokenizer needs data to be trained on, and no other takes any"
            )
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size}) and "
                f"be a multiple of num_key_value_heads ({self.num_key_value_heads})"
            )


@dataclass
class EvaluateConfig(DatasetArguments):
    """`evaluate`: n samples per question, graded and counted."""

    model_name_or_path: str = field(kw_only=True)
    output_dir: str = field(kw_only=True)
    num_questions: int | None = field(default=None, metadata={"help": "Take the first this many; None takes all."})
    num_samples: int = field(default=32, metadata={"help": "n: samples per question."})
    k: list[int] = field(default_factory=lambda: [1, 8], metadata={"help": "For Pass@k, and mG-Pass@k where even."})
    max_completion_length: int = 16384
    temperature: float = field(default=1.0, metadata={"help": "0 decodes greedily."})
    top_p: float = 1.0
    top_k: int = field(default=0, metadata={"help": "0 keeps the whole vocabulary."})
    batch_size: int = field(default=64, metadata={"help": "Samples generated at once."})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, EvaluateConfig)
        check_at_least(self, num_questions=1, num_samples=1, max_completion_length=1, batch_size=1, top_k=0)
        if self.temperature < 0:
            raise InputError(f"temperature must be 0 or more, got {self.temperature}")
        if self.temperature == 0 and self.num_samples > 1:
            raise InputError(
                f"temperature 0 gives {self.num_samples} times the same sample: set num_samples to 1 or raise it"
            )
        for k in self.k:
            if not 1 <= k <= self.num_samples:
                raise InputError(f"k = {k} needs at least {k} samples per question; num_samples is {self.num_samples}")


@dataclass
class ReportConfig:
    """`report`: run directories to one page."""

    output_dir: str
    evaluations: list[str] = field(metadata={"help": "stage=DIR for each evaluation, in the order of the table."})
    runs: list[str] = field(default_factory=list, metadata={"help": "stage=DIR for each training run to draw."})
    title: str = "RaML on TRL"
    lead: str = field(default="", metadata={"help": "A sentence or two under the title."})

    def __post_init__(self) -> None:
        check_types(self, ReportConfig)
        for value in (*self.evaluations, *self.runs):
            if "=" not in value:
                raise InputError(f"{value!r} must have the form stage=DIR")


@dataclass
class PlanConfig:
    """`plan`: what a step of a GRPO recipe will cost for several m."""

    output_dir: str
    recipe: str = field(metadata={"help": "YAML file of train_grpo."})
    prompt_length: int = field(metadata={"help": "Tokens of a prompt, padded: the longest of a micro-batch."})
    num_processes: int = field(default=1, metadata={"help": "Of the launch."})
    num_generations_update: list[int] | None = field(
        default=None, metadata={"help": "Each m to predict; None takes 1, 2, 4, ... and G, where the recipe allows."}
    )
    run: str | None = field(
        default=None,
        metadata={"help": "Directory of a run of train_grpo, with any m, that says where the seconds of a step go."},
    )
    seconds_generating: float | None = field(
        default=None, metadata={"help": "Instead of `run`: of a step, all that does not shrink with m."}
    )
    seconds_updating: float | None = field(default=None, metadata={"help": "Of a step of TRL's trainer on all G."})
    lengths: str | None = field(
        default=None,
        metadata={
            "help": "Completion lengths in tokens: directory of a run of train_grpo, a JSON list, or a Parquet file "
            "with a column num_tokens. None: those of `run`."
        },
    )
    length_median: float | None = field(
        default=None, metadata={"help": "Instead of `lengths`: of a log-normal, cut at max_completion_length."}
    )
    length_sigma: float | None = field(default=None, metadata={"help": "Of the natural logarithm of the length."})
    dead_groups: float | None = field(
        default=None,
        metadata={"help": "Share of groups expected all right or all wrong. None: what `run` skipped, else 0."},
    )
    sharding: Sharding = field(
        default="none", metadata={"help": "optimizer: ZeRO-1; gradients: ZeRO-2; full: ZeRO-3 or FSDP."}
    )
    model_config: str | None = field(
        default=None, metadata={"help": "Directory of the model's config.json; None reads the recipe's model."}
    )
    seed: int = field(default=0, metadata={"help": "Of the lengths drawn."})

    def __post_init__(self) -> None:
        check_types(self, PlanConfig)
        check_at_least(self, prompt_length=1, num_processes=1, seconds_generating=0, length_sigma=0)
        for name in ("seconds_updating", "length_median"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be more than 0, got {value}")
        if self.dead_groups is not None and not 0 <= self.dead_groups <= 1:
            raise InputError(f"dead_groups must lie between 0 and 1, got {self.dead_groups}")
        if self.num_generations_update == []:
            raise InputError("num_generations_update is an empty list: name at least one m, or leave it out")
        self._check_choice("run", "seconds_generating", "seconds_updating")
        chosen = (self.lengths, self.length_median, self.length_sigma)
        if self.run is None or any(value is not None for value in chosen):
            self._check_choice("lengths", "length_median", "length_sigma")

    def _check_choice(self, one: str, *others: str) -> None:
        given = [getattr(self, other) is not None for other in others]
        if any(given) != all(given) or (getattr(self, one) is None) != all(given):
            raise InputError(f"give either {one}, or {' and '.join(others)}")
