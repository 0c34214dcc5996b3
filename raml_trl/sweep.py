r"""Runs all trials of a sweep file in the format of Weights & Biases (W&B), without W&B.

    raml-trl sweep recipes/sweeps/grpo_selection.yaml --devices 0 1 2 3
    raml-trl sweep recipes/tiny/sweeps/grpo_selection.yaml --agents 2

A trial runs the command of the sweep file with one combination of the swept parameters, in a process of its own.
Several trials can run at a time.

Writes `sweep.json`, `sweep.md` and `sweep.svg` to `output_dir`. The directory of each trial is in `trials/`, and the
output of its command in `logs/`. After an interruption, the same command resumes the sweep and its interrupted trials,
and runs failed trials once more. The command can be started several times at once, on one machine or on machines that
share the file system: the trials are then divided among the started commands.
"""

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from tqdm import tqdm

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError, InputErrors
from raml_trl.runtime.limits import PATH, PROCESSES, SEED, Limits, check_settings, whole
from raml_trl.runtime.recipes import find_recipe, recipes_root
from raml_trl.runtime.runs import Run, is_complete
from raml_trl.runtime.trackers import Tracker
from raml_trl.sweeps.agents import run_trials, trial_environment
from raml_trl.sweeps.results import best_setting, means_over_seeds, means_table, write_results
from raml_trl.sweeps.study import draw_trials, open_study
from raml_trl.sweeps.sweep_file import SEED as SEED_PARAMETER
from raml_trl.sweeps.sweep_file import Scalar, Settings, Sweep, expand, read_sweep

logger = logging.getLogger(__name__)

_WORDS = r"(?:[^;&|`<>()$\n]|\$\w|\$\{|\$\(\([^()$`]*\)\))*"  # variables and arithmetic, but no second command
_ONE_COMMAND = re.compile(rf'(?:\w+={_WORDS}; *)*exec (?P<command>{_WORDS}) "\$@"')
"""A shell script that sets variables, and then replaces itself by a command that gets the script's arguments."""

_OUR_COMMAND = re.compile(
    r"(?:raml-trl |(?:python3?|accelerate launch(?: --(?:config_file|num_processes|main_process_port)[ =]\S+)*)"
    r" -m raml_trl\.)\w"
)
"""The start of a command of this package. Further options of `accelerate launch` might not end before `-m`."""

_MOST_CHECKED = 10
"""The most trials that a dry run checks. Each takes some seconds."""


@dataclass
class SweepConfig:
    """Settings of the command `sweep`. The sweep file may also be given as the first argument, without `--sweep`."""

    limits: ClassVar[Limits] = {
        "sweep": PATH,
        "output_dir": PATH,
        "count": whole(1, 10**6),
        "agents": PROCESSES,
        "seed": SEED,
    }

    sweep: str = field(metadata={"help": "Sweep file in the format of W&B, with method grid or random."})
    output_dir: str = field(
        default="", metadata={"help": "Default: runs/sweeps/ followed by the path of the sweep file below recipes/."}
    )
    count: int | None = field(
        default=None,
        metadata={"help": "Number of trials. Default: run_cap of the file, else a full grid. Random search needs it."},
    )
    agents: int | None = field(default=None, metadata={"help": "Trials at a time. Default: one, or one per device."})
    devices: list[str] = field(
        default_factory=list,
        metadata={"help": "CUDA_VISIBLE_DEVICES of each agent, such as 0 1, or 0,1 2,3 for two GPUs each."},
    )
    report_to: Tracker = field(
        default="none", metadata={"help": "Tracker of the trials; overrides the one in their recipe."}
    )
    seed: int = field(
        default=0, metadata={"help": "Seed that shuffles the order of a grid and draws the values of a random search."}
    )

    def __post_init__(self) -> None:
        check_settings(self)
        sweep = read_sweep(find_recipe(self.sweep))
        self.count = sweep.run_cap if self.count is None else self.count
        if self.count is None and sweep.method == "random":
            raise InputError(f"{sweep.path} is a random search: set count, or run_cap in the file")
        self.output_dir = self.output_dir or _default_directory(sweep.path)
        self.agents = self.agents or max(1, len(self.devices))
        if self.devices and len(self.devices) != self.agents:
            raise InputError(f"{self.agents} agents need as many devices, got {len(self.devices)}: {self.devices}")


def _default_directory(path: Path) -> str:
    """Return `runs/sweeps/x` for `recipes/sweeps/x.yaml`, `runs/tiny/sweeps/x` for `recipes/tiny/sweeps/x.yaml`."""
    packaged = path.is_relative_to(recipes_root())
    parts = ("recipes", *path.relative_to(recipes_root()).parts) if packaged else path.parts
    parts = Path(*parts).with_suffix("").parts
    below = parts[parts.index("recipes") + 1 :] if "recipes" in parts else ("sweeps", path.stem)
    return str(Path("runs", *below))


def main(config: SweepConfig, record: Run) -> None:
    """Run the trials of the sweep and write their results. `record` is the run in `output_dir`.

    Raises:
        InputError: if trials failed. The message names their log files.
    """
    started = time.monotonic()
    sweep = read_sweep(find_recipe(config.sweep))
    study = open_study(record.directory, sweep, config.count, config.seed)
    assert config.agents is not None
    try:
        run_trials(study, config.devices or [None] * config.agents, {"report_to": config.report_to})
    finally:
        with study.locked():
            if not is_complete(record.directory):  # another start of this command may have completed it
                record.save(record.seconds + time.monotonic() - started)
    with study.locked():
        results = study.results()
        means = means_over_seeds(sweep, results)
        write_results(record.directory, sweep, results, means)
        if all(result.status == "complete" for result in results):
            best = best_setting(sweep, means)
            record.finish(record.seconds, {"complete": len(results), "best": best and asdict(best)})
    sys.stdout.write(f"\n{means_table(sweep, means)}\n")
    failed = [result for result in results if result.status == "failed"]
    if failed:
        reasons = ", ".join(f"{result.log} ({result.reason})" for result in failed)
        raise InputError(
            f"{len(failed)} of {len(results)} trials failed; the same command runs them once more: {reasons}"
        )
    if not record.complete:
        number = sum(result.status == "unfinished" for result in results)
        logger.info("another start of this command runs %d failed trials once more, and completes the sweep", number)


def preview(config: SweepConfig) -> Iterator[dict[str, str]]:
    """Yield texts that describe the sweep and its trials, by label, for a dry run.

    Raises:
        InputErrors: if trials would end with an error at their start. Only commands of this package are checked.
    """
    sweep = read_sweep(find_recipe(config.sweep))
    trials = draw_trials(sweep, config.count, config.seed)
    yield {
        "sweep": f"{sweep.path}, method {sweep.method}, metric {sweep.metric}",
        "trials": f"{len(trials)}, {config.agents} at a time",
        "first trial": ", ".join(f"{name}={value}" for name, value in trials[0].items()),
    }
    if not accepts_dry_run(sweep):
        yield {"checked": "no trial: it is not certain that the sweep's command passes --dry_run to raml_trl alone"}
        return
    chosen = _covering(sweep, trials)[:_MOST_CHECKED]
    _check_trials(sweep, chosen, {"report_to": config.report_to})
    yield {"checked": f"{len(chosen)} of {len(trials)} trials, by a dry run of each"}


def accepts_dry_run(sweep: Sweep) -> bool:
    """Return whether the command of a sweep certainly makes a dry run, and nothing else, with a last word `--dry_run`.

    The command must start one command of this package with Python or accelerate, and pass on its last words. It can be
    a shell script that sets variables and then only executes such a command. False if in doubt.
    """
    macros = {"${program}": sweep.program or "", "${interpreter}": "python"}
    words = [macros.get(word, word) for word in sweep.command if word not in ("${env}", "${args_no_hyphens}")]
    if words.pop() not in ("${args}", "${args_no_equals}", "${args_no_boolean_flags}"):
        return False
    if words[:2] in (["bash", "-c"], ["sh", "-c"]) and len(words) == 4:
        script = _ONE_COMMAND.fullmatch(words[2].strip())
        if script is None:
            return False
        words = script["command"].replace('"$0"', words[3]).split()
    return _OUR_COMMAND.match(" ".join(words)) is not None


def _covering(sweep: Sweep, trials: Sequence[Settings]) -> list[Settings]:
    """Return the first trials that together have all values of each parameter except the seed."""
    chosen: list[Settings] = []
    seen: set[tuple[str, Scalar]] = set()
    for settings in trials:
        values = {(name, settings[name]) for name in sweep.swept if name != SEED_PARAMETER}
        if not chosen or values - seen:
            chosen.append(settings)
            seen |= values
    return chosen


def _check_trials(sweep: Sweep, trials: Sequence[Settings], extra: Mapping[str, str]) -> None:
    """Run the command of each trial with `--dry_run` and the further arguments `extra`.

    Raises:
        InputErrors: if a command ends with an error. Each message names the first trial that has this error.
    """
    environment = trial_environment()
    found: dict[str, str] = {}
    with TemporaryDirectory() as directory:
        for settings in tqdm(trials, desc="checking trials", unit="trial"):
            name = sweep.trial_name(settings)
            arguments = {**settings, "output_dir": str(Path(directory, name)), **extra}
            command = [*expand(sweep, arguments, Path(directory, "settings.json"), environment), "--dry_run"]
            ended = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            lines = ended.stderr.splitlines() if ended.returncode else []
            for line in [line for line in lines if line.startswith("raml-trl ")] or lines[-1:]:
                found.setdefault(line.removeprefix("raml-trl "), name)
    if found:
        raise InputErrors([f"trial {name}: {message}" for message, name in found.items()])


def name_the_file(arguments: list[str]) -> list[str]:
    """Return `arguments` with `--sweep` in front if the first one is no option, such as `X.yaml --agents 2`."""
    return ["--sweep", *arguments] if arguments and not arguments[0].startswith("-") else arguments


if __name__ == "__main__":
    sys.argv[1:] = name_the_file(sys.argv[1:])
    run(main, SweepConfig, shared=True, preview=preview)
