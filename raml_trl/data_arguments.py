"""The dataclasses of the commands that make data. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field
from typing import Literal

from raml_trl.arguments import DatasetArguments
from raml_trl.arithmetic import SPLITS
from raml_trl.columns import AnswerForm, Columns
from raml_trl.errors import InputError
from raml_trl.prompts import find_style
from raml_trl.validation import check_at_least, check_types


@dataclass
class PrepareDataConfig:
    """`prepare_data`: questions, and trajectories where there are any, checked and written as Parquet."""

    output_dir: str
    dataset_name: str = field(
        metadata={"help": "`arithmetic` for the embedded world, else a file or a Hub data set, as in DatasetArguments."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_split: str = field(default="train", metadata={"help": "Of a Hub data set, or of the embedded world."})
    num_questions: int | None = field(
        default=None, metadata={"help": "Keep the first this many that pass; None keeps all."}
    )
    num_trajectories: int = field(default=0, metadata={"help": "Trajectories per question of the embedded world."})
    seed: int = field(default=0, metadata={"help": "Of the embedded world."})

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
    layout: str | None = field(
        default=None,
        metadata={
            "help": "Write every correct trajectory into the layout of this prompt style, with the answer in its box: "
            "for data whose trajectories have none."
        },
    )

    strip_markup: bool = field(default=True, metadata={"help": "Take HTML and URLs off the questions."})
    drop_figures: bool = field(default=True, metadata={"help": "Leave out questions that need a figure."})
    drop_duplicates: bool = field(default=True, metadata={"help": "Leave out questions that have come before."})
    tokenizer: str | None = field(default=None, metadata={"help": "Model whose tokens max_question_tokens counts."})
    max_question_tokens: int | None = field(default=None, metadata={"help": "Leave out longer questions."})
    benchmarks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Leave out what overlaps with these: files, or Hub data sets as NAME, NAME@SPLIT or "
            "NAME@SPLIT@CONFIG."
        },
    )
    ngram_size: int = field(default=8, metadata={"help": "Words of an n-gram, for the overlap."})
    min_overlap: float = field(
        default=0.5, metadata={"help": "Share of common n-grams, of the question that has fewer, that is too many."}
    )

    def __post_init__(self) -> None:
        check_types(self, PrepareDataConfig)
        if self.layout is not None:
            find_style(self.layout)
        check_at_least(self, num_questions=1, num_trajectories=0, max_question_tokens=1, ngram_size=1)
        if not 0 < self.min_overlap <= 1:
            raise InputError(f"min_overlap must be more than 0 and at most 1, got {self.min_overlap}")
        if (self.tokenizer is None) != (self.max_question_tokens is None):
            raise InputError(
                f"tokenizer is {self.tokenizer} and max_question_tokens is {self.max_question_tokens}: give both, or "
                "neither"
            )
        if self.dataset_name == "arithmetic":
            self._check_arithmetic()
        elif self.num_trajectories:
            raise InputError(
                f"num_trajectories is {self.num_trajectories}, but only the arithmetic world makes trajectories: "
                f"those of {self.dataset_name} are all kept, and train_sft chooses K of them"
            )

    def _check_arithmetic(self) -> None:
        if self.dataset_split not in SPLITS:
            raise InputError(
                f"dataset_split {self.dataset_split!r} of the arithmetic world is unknown: choose one of "
                f"{', '.join(SPLITS)}"
            )
        if self.num_questions is None:
            raise InputError(
                "num_questions is missing: the arithmetic world makes as many questions as it is asked for"
            )

    @property
    def columns(self) -> Columns:
        """What is said of where things stand."""
        return Columns(self.question_column, self.answer_column, self.id_column, self.source_column)


@dataclass
class SampleTrajectoriesConfig(DatasetArguments):
    """`sample_trajectories`: n trajectories of a teacher for every question, graded."""

    model_name_or_path: str = field(kw_only=True, metadata={"help": "The teacher; with a server, its name there."})
    output_dir: str = field(kw_only=True, metadata={"help": "Of all processes and machines of the launch: shared."})
    num_questions: int | None = field(default=None, metadata={"help": "Take the first this many; None takes all."})
    num_trajectories: int = field(default=64, metadata={"help": "n: trajectories per question."})
    max_completion_length: int = field(default=8192, metadata={"help": "Tokens of a trajectory."})
    temperature: float = field(default=0.7, metadata={"help": "0 decodes greedily."})
    top_p: float = 1.0
    top_k: int = field(default=0, metadata={"help": "0 keeps the whole vocabulary."})
    seed: int = 0

    engine: Literal["transformers", "vllm", "server"] = field(
        default="transformers",
        metadata={
            "help": "The model in this process, vLLM in this process, or any server that speaks OpenAI's protocol."
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = field(default=64, metadata={"help": "transformers: trajectories generated at once."})
    tensor_parallel_size: int = field(default=1, metadata={"help": "vllm: devices per process of the launch."})
    gpu_memory_utilization: float = field(default=0.9, metadata={"help": "vllm: share of a device's memory to use."})
    max_model_length: int | None = field(default=None, metadata={"help": "vllm: tokens of prompt and trajectory."})
    server_url: str | None = field(default=None, metadata={"help": "server: such as http://host:8000/v1."})
    api_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "server: environment variable that holds the key, if it wants one."}
    )
    max_requests: int = field(default=64, metadata={"help": "server: requests in flight, per process."})

    questions_per_shard: int = field(
        default=64, metadata={"help": "A killed run loses at most one unfinished shard of each process."}
    )
    num_graders: int = field(default=2, metadata={"help": "Processes that grade, beside each that samples."})
    push_to_hub: bool = False
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Where to push, such as USER/NAME."})
    hub_private: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, SampleTrajectoriesConfig)
        check_at_least(
            self,
            **dict.fromkeys(("num_questions", "num_trajectories", "max_completion_length", "batch_size"), 1),
            **dict.fromkeys(("tensor_parallel_size", "max_model_length", "max_requests", "num_graders"), 1),
            questions_per_shard=1,
            temperature=0,
            top_k=0,
        )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be more than 0 and at most 1, got {self.top_p}")
        if self.temperature == 0 and self.num_trajectories > 1:
            raise InputError(
                f"temperature 0 gives {self.num_trajectories} times the same trajectory: set num_trajectories to 1 or "
                "raise it"
            )
        if (self.engine == "server") != (self.server_url is not None):
            raise InputError(f"engine is {self.engine} and server_url is {self.server_url}: each needs the other")
        if self.push_to_hub != (self.hub_dataset_id is not None):
            raise InputError(
                f"push_to_hub is {self.push_to_hub} and hub_dataset_id is {self.hub_dataset_id}: each needs the other"
            )
