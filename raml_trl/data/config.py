"""The options of `prepare_data`, and of all commands that read a dataset. Invalid values raise `InputError`."""

from dataclasses import dataclass, field
from typing import ClassVar

from raml_trl.data import arithmetic_mixed
from raml_trl.data.arithmetic import MOST_TRAJECTORIES, SPLITS, split_size
from raml_trl.data.columns import AnswerForm, Columns, RowFormat
from raml_trl.grading.choices import OPTION_LETTERS
from raml_trl.prompts import STYLES, find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import COUNT, PATH, SEED, Each, Limits, above, check_settings, whole

GENERATED = ("arithmetic", arithmetic_mixed.NAME)
"""The names of the datasets that `prepare_data` generates."""

_FEW = 4_000


@dataclass(kw_only=True)
class TableArguments:
    """The options that name a dataset and say which columns its rows have."""

    limits: ClassVar[Limits] = {"dataset_name": PATH}
    headings: ClassVar[Headings] = {"dataset_name": "Data"}

    dataset_name: str = field(
        metadata={
            "help": "Directory written by prepare_data or sample_trajectories, a .jsonl, .jsonl.gz, .json or .parquet "
            "file, or a Hub dataset; for prepare_data also `arithmetic` and `arithmetic_mixed`, the built-in questions."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub dataset or of built-in questions."})
    question_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the question, if it has none of the usual names; a path such as 0.value reads nested "
            "rows. The next three options work alike."
        },
    )
    answer_column: str | None = None
    id_column: str | None = None
    source_column: str | None = None
    answer_form: AnswerForm = field(
        default="plain",
        metadata={"help": "The answer column contains the answer, or a solution that ends in \\boxed{} or in ####."},
    )
    choice_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Options of multiple-choice questions, the correct one first; the answer is its letter."},
    )
    where: list[str] = field(
        default_factory=list, metadata={"help": "Read only the rows with these values, such as level=5."}
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for condition in self.where:
            if not condition.partition("=")[1]:
                raise InputError(f"where must have the form COLUMN=VALUE, got {condition!r}")
        if len(self.choice_columns) == 1 or len(self.choice_columns) > len(OPTION_LETTERS):
            raise InputError(
                f"choice_columns needs 2 to {len(OPTION_LETTERS)} columns, got {len(self.choice_columns)}: the grader "
                f"reads the letters {OPTION_LETTERS[0]} to {OPTION_LETTERS[-1]}"
            )

    @property
    def row_format(self) -> RowFormat:
        """The options that say how to read a row."""
        conditions = (condition.partition("=") for condition in self.where)
        return RowFormat(
            Columns(self.question_column, self.answer_column, self.id_column, self.source_column),
            self.answer_form,
            tuple(self.choice_columns),
            tuple((column.strip(), value.strip()) for column, _, value in conditions),
        )


@dataclass(kw_only=True)
class DatasetArguments(TableArguments):
    """The options that name the dataset to train on or evaluate with, and the prompt for its questions."""

    limits: ClassVar[Limits] = {}
    headings: ClassVar[Headings] = {"prompt_style": "Data"}

    prompt_style: str = field(
        default="conclusion",
        metadata={"help": f"How a question becomes a prompt: {', '.join(STYLES)} (see raml_trl.prompts)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        find_style(self.prompt_style)


@dataclass(kw_only=True)
class PrepareDataConfig(TableArguments):
    """The options of `prepare_data`, which checks the questions of a dataset and writes them as Parquet shards.

    The trajectories of the dataset, if it has any, are written with their questions.
    """

    limits: ClassVar[Limits] = {
        "output_dir": PATH,
        "num_questions": COUNT,
        "num_trajectories": whole(0, 10**6),
        "seed": SEED,
        "tokenizer": PATH,
        "max_question_tokens": COUNT,
        "benchmarks": Each(PATH),
        "ngram_size": whole(1, 1000),
        "min_overlap": above(0, 1),
    }
    headings: ClassVar[Headings] = {
        "num_questions": "Size",
        "layout": "Trajectories",
        "strip_markup": "Checks of questions",
        "benchmarks": "Overlap with benchmarks",
    }

    output_dir: str
    num_questions: int | None = field(
        default=None, metadata={"help": "Keep the first N questions that pass the checks; None keeps all."}
    )
    num_trajectories: int = field(default=0, metadata={"help": "Trajectories per built-in question."})
    seed: int = field(default=0, metadata={"help": "Seed of the built-in questions."})

    layout: str | None = field(
        default=None,
        metadata={
            "help": "Rewrite each correct trajectory in the layout of this prompt style, with the answer in its box: "
            "for datasets whose trajectories have none."
        },
    )

    strip_markup: bool = field(default=True, metadata={"help": "Remove HTML and URLs from the questions."})
    drop_figures: bool = field(default=True, metadata={"help": "Leave out questions that need a figure."})
    drop_duplicates: bool = field(default=True, metadata={"help": "Leave out repeated questions."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Model whose tokenizer counts the tokens for max_question_tokens."}
    )
    max_question_tokens: int | None = field(
        default=None, metadata={"help": "Leave out questions with more tokens than this."}
    )
    benchmarks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Leave out questions that overlap with these: files, or Hub datasets as NAME, NAME@SPLIT or "
            "NAME@SPLIT@CONFIG."
        },
    )
    ngram_size: int = field(default=8, metadata={"help": "Words per n-gram, for the overlap."})
    min_overlap: float = field(
        default=0.5,
        metadata={
            "help": "Leave out a question if it shares at least this fraction of the n-grams of "
            "the shorter of the two texts."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout is not None:
            find_style(self.layout)
        if (self.tokenizer is None) != (self.max_question_tokens is None):
            raise InputError(
                f"tokenizer is {self.tokenizer} and max_question_tokens is {self.max_question_tokens}: give both, or "
                "neither"
            )
        if self.is_generated:
            self._check_generated()
        elif self.num_trajectories:
            raise InputError(
                f"num_trajectories is {self.num_trajectories}, but only `arithmetic` and `arithmetic_mixed` generate "
                f"trajectories: leave it out to keep all those of {self.dataset_name}; train_sft chooses K of them"
            )

    @property
    def is_generated(self) -> bool:
        """Whether the questions are generated, and not read from a table."""
        return self.dataset_name in GENERATED

    def _check_generated(self) -> None:
        name = self.dataset_name
        if self.dataset_split not in SPLITS:
            raise InputError(f"{name} has no dataset_split {self.dataset_split!r}: choose {' or '.join(SPLITS)}")
        if self.num_questions is None:
            raise InputError(f"num_questions is missing: say how many questions {name} should generate")
        if name == arithmetic_mixed.NAME:
            return  # millions of questions, and any number of trajectories
        # Every split has more questions than `_FEW`; counting them takes a third of a second.
        if self.num_questions > _FEW and self.num_questions > (size := split_size(self.dataset_split)):
            raise InputError(
                f"num_questions is {self.num_questions}, but split {self.dataset_split} of arithmetic has only {size} "
                "different questions: ask for fewer"
            )
        if self.num_trajectories > MOST_TRAJECTORIES:
            raise InputError(
                f"num_trajectories is {self.num_trajectories}, but a question of arithmetic has at most "
                f"{MOST_TRAJECTORIES} different trajectories: ask for fewer"
            )
