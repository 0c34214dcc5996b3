"""The dataclasses that say where rows come from, and the one of `prepare_data`. Unusable values are refused here."""

from dataclasses import dataclass, field

from raml_trl.data.arithmetic import SPLITS
from raml_trl.data.columns import AnswerForm, Columns, Reading
from raml_trl.prompts import find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least, check_types


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
class PrepareDataConfig(TableArguments):
    """`prepare_data`: questions, and trajectories where there are any, checked and written as Parquet."""

    output_dir: str
    num_questions: int | None = field(
        default=None, metadata={"help": "Keep the first this many that pass; None keeps all."}
    )
    num_trajectories: int = field(default=0, metadata={"help": "Trajectories per question of the embedded world."})
    seed: int = field(default=0, metadata={"help": "Of the embedded world."})

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
        super().__post_init__()
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
