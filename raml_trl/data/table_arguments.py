"""The dataclasses that say where rows come from. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field

from raml_trl.data.columns import AnswerForm, Columns, Reading
from raml_trl.prompts import find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_types


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
