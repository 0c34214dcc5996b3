"""The dataclass of `report`. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_at_least, check_types


@dataclass
class ReportConfig:
    """`report`: runs, evaluations and sweeps to one page."""

    output_dir: str
    evaluations: list[str] = field(
        default_factory=list, metadata={"help": "stage=DIR for each evaluation, in the order of the table."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "stage=DIR for each training run to draw; several of one stage are its seeds."},
    )
    sweeps: list[str] = field(
        default_factory=list, metadata={"help": "name=DIR for each directory of `sweep`, complete or not."}
    )
    baselines: list[str] = field(
        default_factory=list,
        metadata={
            "help": "sweep=PARAMETER=VALUE,... for each sweep whose combinations are to be compared with another one "
            "than that of the largest m, or the first where m was not swept."
        },
    )
    title: str = "RaML on TRL"
    lead: str = field(default="", metadata={"help": "A sentence or two under the title."})
    seed: int = field(default=0, metadata={"help": "Of the resampling behind intervals and p-values of differences."})

    def __post_init__(self) -> None:
        check_types(self, ReportConfig)
        check_at_least(self, seed=0)
        for value in (*self.evaluations, *self.runs, *self.sweeps):
            name, _, directory = value.partition("=")
            if not name or not directory:
                raise InputError(f"{value!r} must have the form stage=DIR")
        if not (self.evaluations or self.runs or self.sweeps):
            raise InputError("there is nothing to report: name evaluations, runs or sweeps")
        for kind, values in (("evaluations", self.evaluations), ("sweeps", self.sweeps), ("baselines", self.baselines)):
            names = [value.partition("=")[0] for value in values]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise InputError(f"{kind} names {twice[0]!r} twice: a name stands for one")
        swept = [value.partition("=")[0] for value in self.sweeps]
        for value in self.baselines:
            name, _, combination = value.partition("=")
            if name not in swept or "=" not in combination:
                raise InputError(
                    f"baseline {value!r} must have the form sweep=PARAMETER=VALUE,... with one of sweeps: "
                    f"{', '.join(swept) or 'there is none'}"
                )
