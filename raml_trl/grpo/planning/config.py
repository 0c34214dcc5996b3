"""The dataclass of `plan`. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field

from raml_trl.grpo.planning.memory import Sharding
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least, check_types


@dataclass
class PlanConfig:
    """`plan`: what a step of a GRPO recipe will cost for several m."""

    output_dir: str
    recipe: str = field(metadata={"help": "YAML file of train_grpo."})
    prompt_length: int = field(metadata={"help": "Tokens of a prompt, padded: the longest of a micro-batch."})
    num_processes: int = field(default=1, metadata={"help": "Of the launch."})
    num_generations_update: list[int] | None = field(
        default=None, metadata={"help": "Each m to predict; None takes 1, 2, 4, ... and G, where the recipe allows."}
    )
    run: str | None = field(
        default=None,
        metadata={"help": "Directory of a run of train_grpo, with any m, that says where the seconds of a step go."},
    )
    seconds_generating: float | None = field(
        default=None, metadata={"help": "Instead of `run`: of a step, all that does not shrink with m."}
    )
    seconds_updating: float | None = field(default=None, metadata={"help": "Of a step of TRL's trainer on all G."})
    lengths: str | None = field(
        default=None,
        metadata={
            "help": "Completion lengths in tokens: directory of a run of train_grpo, a JSON list, or a Parquet file "
            "with a column num_tokens. None: those of `run`."
        },
    )
    length_median: float | None = field(
        default=None, metadata={"help": "Instead of `lengths`: of a log-normal, cut at max_completion_length."}
    )
    length_sigma: float | None = field(default=None, metadata={"help": "Of the natural logarithm of the length."})
    dead_groups: float | None = field(
        default=None,
        metadata={"help": "Share of groups expected all right or all wrong. None: what `run` skipped, else 0."},
    )
    sharding: Sharding = field(
        default="none", metadata={"help": "optimizer: ZeRO-1; gradients: ZeRO-2; full: ZeRO-3 or FSDP."}
    )
    model_config: str | None = field(
        default=None, metadata={"help": "Directory of the model's config.json; None reads the recipe's model."}
    )
    seed: int = field(default=0, metadata={"help": "Of the lengths drawn."})

    def __post_init__(self) -> None:
        check_types(self, PlanConfig)
        check_at_least(self, prompt_length=1, num_processes=1, seconds_generating=0, length_sigma=0)
        for name in ("seconds_updating", "length_median"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be more than 0, got {value}")
        if self.dead_groups is not None and not 0 <= self.dead_groups <= 1:
            raise InputError(f"dead_groups must lie between 0 and 1, got {self.dead_groups}")
        if self.num_generations_update == []:
            raise InputError("num_generations_update is an empty list: name at least one m, or leave it out")
        self._check_choice("run", "seconds_generating", "seconds_updating")
        chosen = (self.lengths, self.length_median, self.length_sigma)
        if self.run is None or any(value is not None for value in chosen):
            self._check_choice("lengths", "length_median", "length_sigma")

    def _check_choice(self, one: str, *others: str) -> None:
        given = [getattr(self, other) is not None for other in others]
        if any(given) != all(given) or (getattr(self, one) is None) != all(given):
            raise InputError(f"give either {one}, or {' and '.join(others)}")
