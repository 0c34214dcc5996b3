"""Settings of the three analysis commands. Values that cannot work raise `InputError` before any work starts."""

from dataclasses import dataclass, field
from typing import ClassVar

from raml_trl.analysis.landscape.directions import Normalisation
from raml_trl.analysis.landscape.surface import Axes, axis_to_one, centred_axis
from raml_trl.analysis.probes import TOKENS_PER_PASS
from raml_trl.analysis.pruning.config import WHOLE, Method, parse_method
from raml_trl.grading.boxes import opens_box
from raml_trl.prompts import NO_THINKING, find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import COUNT, PATH, Each, Limits, above, whole
from raml_trl.sampling.config import SamplingArguments


@dataclass(kw_only=True)
class AnalysisArguments(SamplingArguments):
    """Settings that all analyses share: the model, the questions and the trajectories.

    `pseudo_gradient` and `trajectory_pruning` read the trajectories from the dataset. If no question of the dataset has
    a trajectory, the model samples them. `loss_landscape` never samples.
    """

    limits: ClassVar[Limits] = {"num_questions": COUNT, "num_trajectories": whole(1, 10**6), "tokens_per_pass": COUNT}

    num_questions: int | None = field(
        default=8, metadata={"help": "Number of questions, from the first on; None takes all."}
    )
    num_trajectories: int = field(default=4, metadata={"help": "Trajectories per question, from the first on."})
    stub: str | None = field(
        default=None,
        metadata={"help": "Text between a trajectory and its answer; None takes the stub of the prompt style."},
    )
    tokens_per_pass: int = field(
        default=TOKENS_PER_PASS, metadata={"help": "Tokens per forward pass; a lower number takes less memory."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stub == "":
            raise InputError(
                "stub is empty: give the text between trajectory and answer, or leave stub out to use the style's"
            )

    @property
    def answer_stub(self) -> str:
        """The text that introduces the answer after a trajectory: `stub`, or if unset, that of the prompt style."""
        return find_style(self.prompt_style).stub if self.stub is None else self.stub


@dataclass(kw_only=True)
class PseudoGradientConfig(AnalysisArguments):
    """Settings of `pseudo_gradient`, which measures how likely the answer is after every token of a trajectory."""

    limits: ClassVar[Limits] = {"window": whole(1, 10**6), "num_shown": whole(1, 10**6)}

    no_thinking: str = field(
        default="none",
        metadata={
            "help": f"Also sample trajectories without thinking, by this opening: {', '.join(NO_THINKING)}; or none."
        },
    )
    window: int = field(
        default=4, metadata={"help": "Tokens over which the effect of a token is measured, counted from the token."}
    )
    num_shown: int = field(default=24, metadata={"help": "Trajectories shown on the page."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_thinking not in ("none", *NO_THINKING):
            raise InputError(f"no_thinking {self.no_thinking!r} is unknown: use none, {', '.join(NO_THINKING)}")
        if self.no_thinking != "none" and self.engine != "transformers":
            raise InputError(
                f"no_thinking starts completions with a given text, which engine {self.engine} cannot do: "
                "use engine transformers"
            )


@dataclass(kw_only=True)
class LossLandscapeConfig(AnalysisArguments):
    """Settings of `loss_landscape`, which moves the weights of a model and measures the loss of the reference answers.

    The weights are moved to the points of a grid, along one or two axes in weight space.
    """

    limits: ClassVar[Limits] = {
        "towards": Each(PATH),
        "steps": Each(whole(1, 1001)),
        "span": Each(above(0, 10**6)),
        "radius": above(0, 10**6),
    }

    num_questions: int | None = field(
        default=32, metadata={"help": "Number of questions, from the first on; None takes all."}
    )
    towards: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or two other checkpoints of the model. One axis leads to each, which lies at 1. Without any, "
            "the axes are random directions, along which a step of 1 is as long as the weights."
        },
    )
    steps: list[int] = field(
        default_factory=lambda: [21, 21],
        metadata={"help": "Number of points on each axis, odd so that the model is one of them; one number: a curve."},
    )
    span: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={
            "help": "Reach of each axis in both directions; one number holds for all axes. With towards: the "
            "approximate reach beyond the model and beyond the other checkpoint."
        },
    )
    normalisation: Normalisation = field(
        default="filter",
        metadata={
            "help": "Part of the weights to whose norm random directions are scaled: filter (each output row), "
            "tensor (each tensor) or global (all weights together)."
        },
    )
    move_embeddings: bool = field(
        default=False, metadata={"help": "Let random directions move input and output embeddings too."}
    )
    after_thinking: bool = field(
        default=False,
        metadata={
            "help": "Put the thinking of each question's first right trajectory before the stub, and leave out "
            "questions without one."
        },
    )
    radius: float | None = field(
        default=None,
        metadata={"help": "Radius around the model in which sharpness takes the worst loss; None: one grid step."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine != "transformers":
            raise InputError(f"engine {self.engine} gives no access to the weights: use engine transformers")
        if len(self.steps) not in (1, 2):
            raise InputError(f"steps must be one number or two, got {self.steps}")
        if len(self.span) not in (1, len(self.steps)):
            raise InputError(f"span must be one number, or one for each of steps, got {self.span} for {self.steps}")
        if self.towards and len(self.towards) != len(self.steps):
            raise InputError(
                f"towards names {len(self.towards)} checkpoints, but steps has {len(self.steps)} axes: "
                "give one number of steps for each checkpoint"
            )
        if self.towards and (self.normalisation != "filter" or self.move_embeddings):
            raise InputError("normalisation and move_embeddings apply to random directions only: drop them or towards")
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
        """The coordinates of the grid points: for each axis, one tuple of increasing numbers."""
        spans = self.span * len(self.steps) if len(self.span) == 1 else self.span
        make = axis_to_one if self.towards else centred_axis
        return tuple(make(steps, span) for steps, span in zip(self.steps, spans, strict=True))

    @property
    def reach(self) -> float:
        """Radius around the unchanged model within which sharpness (the greatest rise of the loss) is measured.

        It is in the unit of the axes: `radius` or, if `radius` is not set, the distance between neighbouring grid
        points. If this distance differs between two axes, it is the larger one.
        """
        return max(axis[1] - axis[0] for axis in self.axes) if self.radius is None else self.radius


@dataclass(kw_only=True)
class TrajectoryPruningConfig(AnalysisArguments):
    """Settings of `trajectory_pruning`, which measures how much of a trajectory a model needs to give the answer."""

    limits: ClassVar[Limits] = {
        "max_answer_length": whole(1, 10**6),
        "max_drops": COUNT,
        "summariser": PATH,
        "max_summary_length": whole(1, 10**7),
        "max_summary_input": whole(1, 10**7),
    }

    methods: list[str] = field(
        default_factory=lambda: [
            *("none", "no_thinking", "budget:0.25", "budget:0.5", "budget:0.75", "curve:0.1", "drop_sentence:0.1")
        ],
        metadata={
            "help": "Ways to shorten a trajectory. budget:X keeps the first tokens, a share or a number of them; "
            "curve:X cuts where the answer's loss stays below X nats; drop_sentence:X drops sentences as long as the "
            "loss rises by at most X nats; summary; no_thinking; none, the reference, is always added."
        },
    )
    max_answer_length: int = field(default=64, metadata={"help": "Tokens of a forced answer."})
    max_drops: int | None = field(
        default=None,
        metadata={"help": "Sentences that drop_sentence may drop; each drop scores every remaining sentence."},
    )
    summariser: str | None = field(
        default=None, metadata={"help": "Model that writes summaries, run by the engine above; None: the model itself."}
    )
    max_summary_length: int = field(default=8192, metadata={"help": "Tokens of a summary."})
    max_summary_input: int = field(
        default=24576, metadata={"help": "Tokens of thinking that the summariser reads; the rest is cut off."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        methods = [parse_method(name) for name in self.methods]
        for name, method in zip(self.methods, methods, strict=True):
            if methods.count(method) > 1:
                raise InputError(f"methods names {name} twice: once is enough")
        if self.summariser is not None and Method("summary") not in methods:
            raise InputError(
                f"summariser is {self.summariser}, but methods has no summary: add the method or drop the summariser"
            )
        if not opens_box(self.answer_stub):
            raise InputError(f"stub {self.answer_stub!r} must end inside an open box, such as \\boxed{{")

    @property
    def parsed_methods(self) -> list[Method]:
        """The pruning methods that the setting `methods` names, parsed, with `none` first even if it is not named.

        `none` leaves nothing out. The other methods are compared with it.
        """
        methods = [parse_method(name) for name in self.methods]
        return [Method(WHOLE), *(method for method in methods if method.kind != WHOLE)]
