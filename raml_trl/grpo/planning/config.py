"""The options of the command `plan`. Invalid values are rejected before any work starts."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import PATH, SEED, SHARE, Each, Limits, Number, above, check_settings, whole

Sharding = Literal["none", "optimizer", "gradients", "full"]
"""The part of the training state that is sharded over processes.

`none`: nothing; `optimizer`: optimizer states (ZeRO-1); `gradients`: also gradients (ZeRO-2); `full`: also weights
(ZeRO-3, FSDP).
"""


@dataclass
class PlanConfig:
    """Options of the command `plan`, which predicts the cost of an optimizer step of a GRPO recipe.

    It does so for several m, the number of rollouts per group that are trained on.
    """

    limits: ClassVar[Limits] = {
        "output_dir": PATH,
        "recipe": PATH,
        "prompt_length": whole(1, 10**7),
        "num_processes": whole(1, 10**6),
        "num_generations_update": Each(whole(1, 2**20)),
        "run": PATH,
        "seconds_generating": Number(0, 10**9),
        "seconds_updating": above(0, 10**9),
        "lengths": PATH,
        "length_median": above(0, 10**7),
        "length_sigma": Number(0, 10),
        "dead_groups": SHARE,
        "device_memory": above(0, 10**6),
        "model_config": PATH,
        "seed": SEED,
    }

    output_dir: str
    recipe: str = field(metadata={"help": "YAML file of train_grpo."})
    prompt_length: int = field(
        metadata={"help": "Tokens of the longest prompt of a micro-batch, to which the others are padded."}
    )
    num_processes: int = field(default=1, metadata={"help": "Number of processes that train."})
    num_generations_update: list[int] | None = field(
        default=None, metadata={"help": "Each m to predict; None takes 1, 2, 4, ... and G if the recipe allows."}
    )
    run: str | None = field(
        default=None,
        metadata={"help": "Directory of a run of train_grpo with any m: the source of the seconds of each phase."},
    )
    seconds_generating: float | None = field(
        default=None, metadata={"help": "Instead of `run`: seconds of a step that do not depend on m."}
    )
    seconds_updating: float | None = field(
        default=None,
        metadata={
            "help": "Instead of `run`: seconds per step that TRL's trainer needs for the update on all G rollouts."
        },
    )
    lengths: str | None = field(
        default=None,
        metadata={
            "help": "Completion lengths in tokens: directory of a run of train_grpo, a JSON list, or a Parquet file "
            "with a column num_tokens. None takes them from `run`."
        },
    )
    length_median: float | None = field(
        default=None, metadata={"help": "Instead of `lengths`: median of a log-normal, cut at max_completion_length."}
    )
    length_sigma: float | None = field(
        default=None, metadata={"help": "Instead of `lengths`: standard deviation of the natural logarithm."}
    )
    dead_groups: float | None = field(
        default=None,
        metadata={"help": "Expected share of groups without a signal. None: the share of rows that `run` skipped."},
    )
    sharding: Sharding = field(
        default="none", metadata={"help": "optimizer means ZeRO-1, gradients ZeRO-2, full ZeRO-3 or FSDP."}
    )
    device_memory: float | None = field(
        default=None,
        metadata={"help": "GiB of a device, to propose max_tokens_per_micro_batch for it; None proposes nothing."},
    )
    model_config: str | None = field(
        default=None, metadata={"help": "Directory of the model's config.json; None takes the recipe's model."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawn lengths."})

    def __post_init__(self) -> None:
        check_settings(self)
        if self.num_generations_update == []:
            raise InputError("num_generations_update is an empty list: name at least one m, or leave it out")
        self._check_alternatives("run", "seconds_generating", "seconds_updating")
        lengths = (self.lengths, self.length_median, self.length_sigma)
        if self.run is None or any(value is not None for value in lengths):
            self._check_alternatives("lengths", "length_median", "length_sigma")

    def _check_alternatives(self, name: str, *alternatives: str) -> None:
        given = [getattr(self, alternative) is not None for alternative in alternatives]
        if any(given) != all(given) or (getattr(self, name) is None) != all(given):
            raise InputError(f"set either {name}, or {' and '.join(alternatives)}")
