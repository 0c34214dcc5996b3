"""The options that `train_sft` adds to those of TRL, checked before any work starts."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from trl import SFTConfig

from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import COUNT, Limits, check_settings
from raml_trl.sft.choosing import Choice, Order, QuestionWeight, parse_length_bin
from raml_trl.training.config import TrainArguments, check_device, use_new_names
from raml_trl.training.limits import SFT


@dataclass
class CheckedSFTConfig(SFTConfig):
    """TRL's `SFTConfig`, extended to refuse values that cannot work."""

    limits: ClassVar[Limits] = SFT

    def __post_init__(self) -> None:
        check_settings(self)
        check_device(self)
        use_new_names(self)
        super().__post_init__()


@dataclass(kw_only=True)
class SFTArguments(TrainArguments):
    """The options of `train_sft` that are not in TRL's `SFTConfig` and `ModelConfig`."""

    limits: ClassVar[Limits] = {"num_trajectories": COUNT}
    headings: ClassVar[Headings] = {"num_trajectories": "Choice of trajectories"}

    num_trajectories: int | None = field(
        default=None, metadata={"help": "K: distinct correct trajectories per question; None takes all."}
    )
    trajectory_order: Order = field(
        default="random",
        metadata={
            "help": "How to choose the K trajectories: see raml_trl.sft.choosing. Those for K = 2 are "
            "always among those for K = 4."
        },
    )
    length_bin: str | None = field(
        default=None,
        metadata={
            "help": "Take the K from one length bin of a question's correct trajectories: 1/3 is the shortest third, "
            "3/3 the longest. All bins have the same questions and the same number of examples."
        },
    )
    repeat_to_fill: bool = field(
        default=True,
        metadata={
            "help": "Repeat trajectories so that the number of training examples is the same for every K (the paper's "
            "control). Otherwise each chosen trajectory is one example."
        },
    )
    question_weight: QuestionWeight = field(
        default="correct",
        metadata={
            "help": "With repeat_to_fill, the number of examples of a question: `correct`: one for each of its correct "
            "trajectories (the paper's; easy questions weigh more); `equal`: the same for every question."
        },
    )
    overlong: Literal["drop", "cut"] = field(
        default="drop",
        metadata={
            "help": "If prompt and trajectory are longer than max_length: `drop` takes another trajectory instead, "
            "`cut` removes the end. Both are counted."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length_bin is not None:
            parse_length_bin(self.length_bin)

    def choice(self, config: SFTConfig) -> Choice:
        """Return the settings by which trajectories are chosen, from these options and the trainer's `config`."""
        return Choice(
            num_trajectories=self.num_trajectories,
            trajectory_order=self.trajectory_order,
            length_bin=self.length_bin,
            question_weight=self.question_weight,
            repeat_to_fill=self.repeat_to_fill,
            overlong=self.overlong,
            prompt_style=self.prompt_style,
            max_length=config.max_length,
            completion_only=config.completion_only_loss is not False,
            seed=config.seed,
        )
