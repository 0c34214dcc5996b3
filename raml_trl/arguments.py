"""The dataclasses that the commands' YAML and command lines fill. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field
from typing import Literal

from raml_trl.choosing import Order, QuestionWeight, parse_length_bin
from raml_trl.columns import AnswerForm, Columns, Reading
from raml_trl.errors import InputError
from raml_trl.planning import Sharding
from raml_trl.prompts import find_style
from raml_trl.validation import check_at_least, check_types


@dataclass(kw_only=True)
class TableArguments:
    """Where rows come from, and what stands where in them."""

    dataset_name: str = field(
        metadata={
            "help": "Directory made by prepare_data or sample_trajectories, a .jsonl, .jsonl.gz, .json or .parquet "
            "file, or a Hub data set; for prepare_data also `arithmetic`, the embedded world."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_split: str = field(default="train", metadata={"help": "Of a Hub data set, or of the embedded world."})
    question_column: str | None = field(
        default=None,
        metadata={
            "help": "Where the question stands, where its column has none of the usual names; a path such as 0.value "
            "leads into nested rows. Likewise the next three."
        },
    )
    answer_column: str | None = None
    id_column: str | None = None
    source_column: str | None = None
    answer_form: AnswerForm = field(
        default="plain",
        metadata={"help": "What the answer column holds: the answer; a solution that ends in \\boxed{}, or in ####."},
    )
    choice_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Options of multiple-choice questions, the right one first; the answer is then its letter."},
    )
    where: list[str] = field(
        default_factory=list, metadata={"help": "Take only rows with these values, such as level=5."}
    )

    def __post_init__(self) -> None:
        check_types(self, TableArguments)
        for condition in self.where:
            if not condition.partition("=")[1]:
                raise InputError(f"where must have the form COLUMN=VALUE, got {condition!r}")
        if len(self.choice_columns) == 1 or len(self.choice_columns) > 26:
            raise InputError(f"choice_columns needs 2 to 26 columns, got {len(self.choice_columns)}")

    @property
    def reading(self) -> Reading:
        """What is said of how rows are to be understood."""
        conditions = (condition.partition("=") for condition in self.where)
        return Reading(
            Columns(self.question_column, self.answer_column, self.id_column, self.source_column),
            self.answer_form,
            tuple(self.choice_columns),
            tuple((column.strip(), value.strip()) for column, _, value in conditions),
        )


@dataclass(kw_only=True)
class DatasetArguments(TableArguments):
    """What to train on or evaluate with, and how to put it to the model."""

    prompt_style: str = field(default="conclusion", metadata={"help": "A key of raml_trl.prompts.STYLES."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, DatasetArguments)
        find_style(self.prompt_style)


@dataclass(kw_only=True)
class EvaluationArguments(DatasetArguments):
    """Questions to evaluate the model on while it is trained; `eval_strategy` and `eval_steps` say how often."""

    eval_data: str | None = field(
        default=None,
        metadata={
            "help": "Questions, as dataset_name or as NAME@SPLIT or NAME@SPLIT@CONFIG, in columns of the usual names."
        },
    )
    eval_num_questions: int | None = field(default=None, metadata={"help": "Take the first this many; None takes all."})
    eval_num_samples: int = field(default=8, metadata={"help": "n: samples per question."})
    eval_k: list[int] = field(
        default_factory=lambda: [1, 8], metadata={"help": "For Pass@k, and mG-Pass@k where even."}
    )
    eval_temperature: float = field(default=1.0, metadata={"help": "0 decodes greedily."})
    eval_top_p: float = 1.0
    eval_top_k: int = field(default=0, metadata={"help": "0 keeps the whole vocabulary."})
    eval_max_completion_length: int | None = field(
        default=None, metadata={"help": "Tokens of a sample; None takes max_completion_length, in train_sft 1024."}
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
            raise InputError(f"eval_temperature 0 gives {n} times the same sample: set eval_num_samples to 1")
        if not self.eval_k or not all(1 <= k <= n for k in self.eval_k):
            raise InputError(f"eval_k must be numbers from 1 to eval_num_samples = {n}, got {self.eval_k}")


@dataclass(kw_only=True)
class TrainArguments(EvaluationArguments):
    """What `train_sft` and `train_grpo` have in common."""

    hub_revisions: bool = field(
        default=False,
        metadata={"help": "With push_to_hub: every checkpoint is a revision of the model, such as step-200."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, TrainArguments)


@dataclass(kw_only=True)
class SFTArguments(TrainArguments):
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


@dataclass(kw_only=True)
class GRPOArguments(TrainArguments):
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
class CompareConfig:
    """`compare`: evaluations of the same questions side by side."""

    output_dir: str
    evaluations: list[str] = field(
        metadata={"help": "name=DIR for each evaluation; the others are compared to the first."}
    )
    k: list[int] = field(
        default_factory=lambda: [1, 8],
        metadata={"help": "For Pass@k, maj@k if all have votes, and mG-Pass@k where even."},
    )
    seed: int = field(default=0, metadata={"help": "Of the intervals and tests."})

    def __post_init__(self) -> None:
        check_types(self, CompareConfig)
        names = [value.partition("=")[0] for value in self.evaluations]
        if len(set(names)) < max(2, len(names)) or not all("=" in value for value in self.evaluations):
            raise InputError(
                f"evaluations must be two or more of the form name=DIR, all named differently, got {names}"
            )
        if not self.k or min(self.k) < 1:
            raise InputError(f"k must be one or more numbers of 1 or more, got {self.k}")


@dataclass
class ReportConfig:
    """`report`: runs, evaluations and sweeps to one page."""

    output_dir: str
    evaluations: list[str] = field(
        default_factory=list, metadata={"help": "stage=DIR for each evaluation, in the order of the table."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "stage=DIR for each training run to draw; several of one stage are its seeds."},
    )
    sweeps: list[str] = field(
        default_factory=list, metadata={"help": "name=DIR for each directory of `sweep`, complete or not."}
    )
    baselines: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sweep=PARAMETER=VALUE,... for each sweep whose combinations are to be compared with another one "
            "than that of the largest m, or the first where m was not swept."
        },
    )
    title: str = "RaML on TRL"
    lead: str = field(default="", metadata={"help": "A sentence or two under the title."})
    seed: int = field(default=0, metadata={"help": "Of the resampling behind intervals and p-values of differences."})

    def __post_init__(self) -> None:
        check_types(self, ReportConfig)
        check_at_least(self, seed=0)
        for value in (*self.evaluations, *self.runs, *self.sweeps):
            name, _, directory = value.partition("=")
            if not name or not directory:
                raise InputError(f"{value!r} must have the form stage=DIR")
        if not (self.evaluations or self.runs or self.sweeps):
            raise InputError("there is nothing to report: name evaluations, runs or sweeps")
        for kind, values in (("evaluations", self.evaluations), ("sweeps", self.sweeps), ("baselines", self.baselines)):
            names = [value.partition("=")[0] for value in values]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise InputError(f"{kind} names {twice[0]!r} twice: a name stands for one")
        swept = [value.partition("=")[0] for value in self.sweeps]
        for value in self.baselines:
            name, _, combination = value.partition("=")
            if name not in swept or "=" not in combination:
                raise InputError(
                    f"baseline {value!r} must have the form sweep=PARAMETER=VALUE,... with one of sweeps: "
                    f"{', '.join(swept) or 'there is none'}"
                )


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
