"""The options of `sample_trajectories` and `evaluate`. Invalid values are rejected before any work is done."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from raml_trl.data.config import DatasetArguments
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.help_page import Headings
from raml_trl.runtime.limits import COUNT, PATH, PROCESSES, SEED, SHARE, TOP_P, Each, Limits, Number, above, whole
from raml_trl.runtime.runs import process_share
from raml_trl.runtime.trackers import PROJECT, Tracker


@dataclass(kw_only=True)
class SamplingArguments(DatasetArguments):
    """The options that `sample_trajectories` and `evaluate` share: questions, model, sampling settings and engine."""

    limits: ClassVar[Limits] = {
        "model_name_or_path": PATH,
        "output_dir": PATH,
        "num_questions": COUNT,
        "max_completion_length": whole(1, 10**7),
        "temperature": Number(0, 1000),
        "top_p": TOP_P,
        "top_k": whole(0, 10**9),
        "seed": SEED,
        "batch_size": whole(1, 2**20),
        "tensor_parallel_size": PROCESSES,
        "gpu_memory_utilization": above(0, 1),
        "max_model_length": COUNT,
        "max_requests": whole(1, 2**16),
        "questions_per_shard": COUNT,
        "num_graders": PROCESSES,
    }
    headings: ClassVar[Headings] = {
        "num_questions": "Sampling",
        "engine": "Engine",
        "questions_per_shard": "Shards and grading",
        "push_to_hub": "The Hub",
    }

    model_name_or_path: str = field(metadata={"help": "Directory or Hub name; with a server, its name there."})
    output_dir: str = field(metadata={"help": "Shared by all processes and machines of the launch."})
    num_questions: int | None = field(default=None, metadata={"help": "Take the first N questions; None takes all."})
    max_completion_length: int = field(default=16384, metadata={"help": "Maximum tokens of a sample."})
    temperature: float = field(default=1.0, metadata={"help": "0 decodes greedily."})
    top_p: float = 1.0
    top_k: int = field(default=0, metadata={"help": "0 keeps the whole vocabulary."})
    seed: int = 0

    engine: Literal["transformers", "vllm", "server"] = field(
        default="transformers",
        metadata={"help": "The model in this process, vLLM in this process, or an OpenAI-compatible server."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = field(default=64, metadata={"help": "transformers: samples generated at a time."})
    all_devices: bool = field(
        default=False, metadata={"help": "transformers: spread one model over all devices; start a single process."}
    )
    tensor_parallel_size: int = field(default=1, metadata={"help": "vllm: devices per process of the launch."})
    gpu_memory_utilization: float = field(default=0.9, metadata={"help": "vllm: share of a device's memory to use."})
    max_model_length: int | None = field(default=None, metadata={"help": "vllm: maximum tokens of prompt and sample."})
    server_url: str | None = field(default=None, metadata={"help": "server: such as http://host:8000/v1."})
    api_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "server: environment variable with the API key, if it needs one."}
    )
    max_requests: int = field(default=64, metadata={"help": "server: requests in flight, per process."})

    questions_per_shard: int = field(
        default=64, metadata={"help": "A killed run loses at most one unfinished shard per process."}
    )
    num_graders: int = field(default=2, metadata={"help": "Grading processes for each sampling process."})

    push_to_hub: bool = field(default=False, metadata={"help": "Push the result as a dataset with a card."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Hub dataset to push to, such as USER/NAME."})
    hub_private: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push_to_hub != (self.hub_dataset_id is not None):
            raise InputError(
                f"push_to_hub is {self.push_to_hub} and hub_dataset_id is {self.hub_dataset_id}: each needs the other"
            )
        num_processes = process_share()[1]
        if self.all_devices and (self.engine != "transformers" or num_processes > 1):
            raise InputError(
                f"all_devices needs engine transformers and one process, got engine {self.engine} and {num_processes} "
                "processes: change them, or leave all_devices out"
            )
        if (self.engine == "server") != (self.server_url is not None):
            raise InputError(f"engine is {self.engine} and server_url is {self.server_url}: each needs the other")

    def check_number(self, name: str, number: int) -> None:
        """Reject more than one sample per question at temperature 0, because greedy samples would all be the same.

        Args:
            name: the field that gives the number of samples per question, for the error message.
            number: the number of samples per question.

        Raises:
            InputError: if the temperature is 0 and the number is more than 1.
        """
        if self.temperature == 0 and number > 1:
            raise InputError(
                f"temperature 0 gives {number} times the same sample: set {name} to 1, or raise the temperature"
            )


@dataclass(kw_only=True)
class SampleTrajectoriesConfig(SamplingArguments):
    """The options of `sample_trajectories`, which draws n trajectories of a teacher per question and grades them."""

    limits: ClassVar[Limits] = {"num_trajectories": whole(1, 10**6)}
    headings: ClassVar[Headings] = {"num_trajectories": "Sampling"}

    num_trajectories: int = field(default=64, metadata={"help": "n: trajectories per question."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("num_trajectories", self.num_trajectories)


@dataclass(kw_only=True)
class EvaluateConfig(SamplingArguments):
    """The options of `evaluate`, which draws n samples per question, grades them and computes metrics."""

    limits: ClassVar[Limits] = {
        "num_samples": whole(1, 10**6),
        "k": Each(whole(1, 10**6)),
        "g_pass_thresholds": Each(SHARE),
        "models": Each(PATH),
        "from_samples": PATH,
    }
    headings: ClassVar[Headings] = {"num_samples": "Samples and metrics", "models": "Models and results"}

    num_samples: int = field(default=32, metadata={"help": "n: samples per question."})
    k: list[int] = field(
        default_factory=lambda: [1, 8], metadata={"help": "k of Pass@k and maj@k, and of mG-Pass@k where k is even."}
    )
    g_pass_thresholds: list[float] = field(
        default_factory=list,
        metadata={"help": "Thresholds from 0 to 1. Each adds G-Pass@k at this threshold for every k."},
    )

    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further models to evaluate with the same settings, each in its own directory below output_dir, "
            "and compared with the first."
        },
    )
    report_to: Tracker = field(default="none", metadata={"help": "Dashboard that receives the metrics."})
    project: str = field(default=PROJECT, metadata={"help": "Project on the dashboard."})
    update_card: bool = field(
        default=False, metadata={"help": "Write the metrics into the card of the model, if it is a directory."}
    )
    from_samples: str | None = field(
        default=None, metadata={"help": "Evaluate the samples in this samples.parquet instead of drawing new ones."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("num_samples", self.num_samples)
        if self.push_to_hub and (self.from_samples is not None or self.models):
            raise InputError("push_to_hub needs an evaluation of one model that draws its samples: leave it out")
        if self.from_samples is not None and self.models:
            raise InputError("from_samples counts the samples of one model: leave models out")
        for k in self.k:
            if not 1 <= k <= self.num_samples:
                raise InputError(f"k = {k} needs at least {k} samples per question; num_samples is {self.num_samples}")
