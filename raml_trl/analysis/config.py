"""The dataclasses of the commands that look inside a model. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field

from raml_trl.analysis.landscape.directions import Normalisation
from raml_trl.analysis.landscape.surface import Axes, axis_to_one, centred_axis
from raml_trl.analysis.pruning.config import WHOLE, Method, parse_method
from raml_trl.grading.boxes import opens_box
from raml_trl.prompts import NO_THINKING, find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least, check_types
from raml_trl.sampling.config import SamplingArguments


@dataclass(kw_only=True)
class AnalysisArguments(SamplingArguments):
    """Which model to look into, at which questions and trajectories: what all analyses have in common.

    Trajectories are those of the data set, if it holds any, and are sampled otherwise.
    """

    num_questions: int | None = field(default=8, metadata={"help": "Take the first this many; None takes all."})
    num_trajectories: int = field(default=4, metadata={"help": "Per question, the first this many."})
    stub: str | None = field(
        default=None, metadata={"help": "What leads from a trajectory to its answer; None: what the prompt style has."}
    )
    tokens_per_pass: int = field(default=16384, metadata={"help": "Of a forward pass; less takes less memory."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, AnalysisArguments)
        check_at_least(self, num_trajectories=1, tokens_per_pass=1)
        if self.stub == "":
            raise InputError("stub is empty: name what leads to the answer, or leave it out for the style's own")

    @property
    def answer_stub(self) -> str:
        """What leads from a trajectory to its answer."""
        return find_style(self.prompt_style).stub if self.stub is None else self.stub


@dataclass(kw_only=True)
class PseudoGradientConfig(AnalysisArguments):
    """`pseudo_gradient`: the answer's likelihood along trajectories."""

    no_thinking: str = field(
        default="none",
        metadata={"help": f"Also trajectories drawn without thinking: {', '.join(NO_THINKING)}; or none."},
    )
    window: int = field(default=4, metadata={"help": "Tokens, from the first of a word, its effect is taken over."})
    num_shown: int = field(default=24, metadata={"help": "Trajectories on the page."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, PseudoGradientConfig)
        check_at_least(self, window=1, num_shown=1)
        if self.no_thinking not in ("none", *NO_THINKING):
            raise InputError(f"no_thinking {self.no_thinking!r} is unknown: none, {', '.join(NO_THINKING)}")
        if self.no_thinking != "none" and self.engine != "transformers":
            raise InputError(f"no_thinking goes on from a text, which engine {self.engine} does not: use transformers")


@dataclass(kw_only=True)
class LossLandscapeConfig(AnalysisArguments):
    """`loss_landscape`: the loss of the answers where the weights are moved along one or two axes."""

    num_questions: int | None = field(default=32, metadata={"help": "Take the first this many; None takes all."})
    towards: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or two other checkpoints of the model: an axis leads to each, and reaches it at 1. Without "
            "any, the axes are random directions, on which a step of 1 is as long as the weights."
        },
    )
    steps: list[int] = field(
        default_factory=lambda: [21, 21],
        metadata={"help": "Points of each axis, odd: the model itself is one of them. One number draws a curve."},
    )
    span: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={
            "help": "How far each axis goes to both sides; one number holds for all. With towards, about how far it "
            "goes on beyond the model and the other checkpoint."
        },
    )
    normalisation: Normalisation = field(
        default="filter",
        metadata={"help": "What of a random direction is scaled to the weights: output rows, tensors or all at once."},
    )
    move_embeddings: bool = field(
        default=False, metadata={"help": "Random directions move input and output embeddings too."}
    )
    after_thinking: bool = field(
        default=False,
        metadata={
            "help": "Put the thinking of each question's first right trajectory before the stub; questions of the "
            "data set without one are left out."
        },
    )
    radius: float | None = field(
        default=None,
        metadata={"help": "Around the model, within which the worst loss is sought; None: one step of every axis."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, LossLandscapeConfig)
        if self.engine != "transformers":
            raise InputError(f"engine {self.engine} does not let its weights be moved: use transformers")
        if len(self.steps) not in (1, 2):
            raise InputError(f"steps must be one number or two, got {self.steps}")
        if len(self.span) not in (1, len(self.steps)):
            raise InputError(f"span must be one number, or one for each of steps, got {self.span} for {self.steps}")
        if self.towards and len(self.towards) != len(self.steps):
            raise InputError(
                f"towards names {len(self.towards)} checkpoints, and steps has {len(self.steps)} axes: "
                "give as many numbers of steps as checkpoints, one or two"
            )
        if self.towards and (self.normalisation != "filter" or self.move_embeddings):
            raise InputError("normalisation and move_embeddings are of random directions: leave them out with towards")
        names = (self.model_name_or_path, *self.towards)
        if len(set(names)) < len(names):
            raise InputError(f"model_name_or_path and towards must be different models, got {', '.join(names)}")
        try:
            axes = self.axes
        except ValueError as error:
            raise InputError(str(error)) from error
        nearest = min(axis[1] - axis[0] for axis in axes)
        if self.reach < nearest * (1 - 1e-9):
            raise InputError(f"radius {self.radius} reaches no point of the grid: raise it to {nearest:g} or more")

    @property
    def axes(self) -> Axes:
        """The coordinates of the points, for each axis."""
        spans = self.span * len(self.steps) if len(self.span) == 1 else self.span
        make = axis_to_one if self.towards else centred_axis
        return tuple(make(steps, span) for steps, span in zip(self.steps, spans, strict=True))

    @property
    def reach(self) -> float:
        """The radius within which the worst loss is sought."""
        return max(axis[1] - axis[0] for axis in self.axes) if self.radius is None else self.radius


@dataclass(kw_only=True)
class TrajectoryPruningConfig(AnalysisArguments):
    """`trajectory_pruning`: how much of its trajectories a model needs."""

    methods: list[str] = field(
        default_factory=lambda: [
            *("none", "no_thinking", "budget:0.25", "budget:0.5", "budget:0.75", "curve:0.1", "drop_sentence:0.1")
        ],
        metadata={
            "help": "budget: keeps the first tokens, a share or a number of them; curve: cuts where the answer's loss "
            "stays below so many nats; drop_sentence: drops sentences while it rises by no more; summary; no_thinking; "
            "none, the reference, is always among them."
        },
    )
    max_answer_length: int = field(default=64, metadata={"help": "Tokens of an answer that is forced."})
    max_drops: int | None = field(
        default=None, metadata={"help": "Sentences that drop_sentence may drop; before each, every one left is tried."}
    )
    summariser: str | None = field(
        default=None, metadata={"help": "Model that summarises, by the engine named above; None: the model itself."}
    )
    max_summary_length: int = field(default=8192, metadata={"help": "Tokens of a summary."})
    max_summary_input: int = field(default=24576, metadata={"help": "Tokens of thinking that are summarised."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_types(self, TrajectoryPruningConfig)
        check_at_least(self, max_answer_length=1, max_drops=1, max_summary_length=1, max_summary_input=1)
        kinds = [method.kind for method in self.parsed_methods]
        for name in self.methods:
            if [parse_method(one) for one in self.methods].count(parse_method(name)) > 1:
                raise InputError(f"methods names {name} twice: once is enough")
        if self.summariser is not None and "summary" not in kinds:
            raise InputError(f"summariser is {self.summariser} and methods does not name summary: each needs the other")
        if not opens_box(self.answer_stub):
            raise InputError(f"stub {self.answer_stub!r} does not end in an open box, such as \\boxed{{")

    @property
    def parsed_methods(self) -> list[Method]:
        """The methods, the reference first."""
        methods = [parse_method(name) for name in self.methods]
        return [Method(WHOLE), *(method for method in methods if method.kind != WHOLE)]
