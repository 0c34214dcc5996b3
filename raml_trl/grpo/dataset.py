"""Builds the dataset that TRL's `GRPOTrainer` reads, and defines the options of the command `train_grpo`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar

from datasets import Dataset, Features, List, Value

from raml_trl.data.reading import stream_questions
from raml_trl.data.records import Question
from raml_trl.data.tables import DataTable, cached_rows
from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.rewards import ANSWER
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.help_page import Headings
from raml_trl.training.config import TrainArguments

_FEATURES = Features({"prompt": List({"role": Value("string"), "content": Value("string")}), "answer": Value("string")})


@dataclass(kw_only=True)
class GRPOArguments(TrainArguments):
    """Options of the command `train_grpo` that are in neither `SubsetGRPOConfig` nor TRL's `ModelConfig`."""

    headings: ClassVar[Headings] = {"reward_funcs": "Reward"}

    reward_funcs: list[str] = field(
        default_factory=lambda: [ANSWER],
        metadata={
            "help": "`answer`, the paper's reward (eq. 21), or paths of your own functions such as my_rewards:brevity, "
            "which TRL calls; their sum, weighed by reward_weights, is the reward."
        },
    )


def grpo_rows(table: DataTable, style: str) -> Dataset:
    """Return one row per question of `table`: the prompt as chat messages, and the answer for the reward function.

    `style` is the style of the prompt, a key of `prompts.STYLES`. The rows are cached on disk.

    Raises:
        InputError: if the table cannot be read or has images, or the grader cannot read an answer.
    """
    for row in islice(table.read(), 1):
        column = next((name for name in ("image", "images") if isinstance(row, dict) and row.get(name)), None)
        if column is not None:
            raise InputError(
                f"{table.name} has the column {column!r}, but train_grpo reads text only: remove the column to train "
                "without images, or train with SubsetGRPOTrainer in Python, see docs/images.md"
            )
    return cached_rows(_stream_rows, table, _FEATURES, key={"style": style}, style=style)


def check_number(rows: Dataset, config: SubsetGRPOConfig, name: str) -> None:
    """Check that there are enough questions for one generation. With fewer, TRL would train for 0 steps.

    Args:
        rows: one row per question.
        config: the trainer's config.
        name: the name of the dataset, for the message.

    Raises:
        InputError: if there are too few.
    """
    group, rollouts = config.num_generations, config.generation_batch_size
    assert group is not None
    assert rollouts is not None  # set by TRL
    needed = rollouts // group
    if len(rows) < needed:
        raise InputError(
            f"dataset_name {name} has {len(rows)} questions, but one generation needs {needed}: "
            f"per_device_train_batch_size x steps_per_generation x processes is {rollouts} rollouts, in groups of "
            f"num_generations = {group}; add questions, or let that product be at most {len(rows) * group}"
        )


def evaluation_rows(questions: Iterable[Question], style: str) -> Dataset:
    """Return rows like those of `grpo_rows` for a few questions, without a cache on disk."""
    return Dataset.from_list([_row(question, style) for question in questions], features=_FEATURES)


def _stream_rows(tables: list[DataTable], style: str) -> Iterator[dict[str, object]]:
    for table in tables:
        for question in stream_questions(table):
            yield _row(question, style)


def _row(question: Question, style: str) -> dict[str, object]:
    return {"prompt": prompt_messages(question.question, style), "answer": question.answer}
