"""The options of `train_sft` beside those of TRL."""

from dataclasses import dataclass, field
from typing import Literal

from raml_trl.runtime.validation import check_at_least, check_types
from raml_trl.sft.choosing import Order, QuestionWeight, parse_length_bin
from raml_trl.training.config import TrainArguments


@dataclass(kw_only=True)
class SFTArguments(TrainArguments):
    """`train_sft`, beside TRL's `SFTConfig` and `ModelConfig`."""

    num_trajectories: int | None = field(
        default=None, metadata={"help": "K: distinct correct trajectories per question; None takes all."}
    )
    trajectory_order: Order = field(
        default="random",
        metadata={
            "help": "Which K: see raml_trl.sft.choosing. Those for K = 4 contain those for K = 2, whatever the order."
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
