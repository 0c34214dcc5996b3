r"""Run a sweep file of Weights & Biases without W&B: every trial a process, in as many at once as there are agents.

    python -m raml_trl.sweep recipes/sweeps/grpo_selection.yaml --devices 0 1 2 3
    python -m raml_trl.sweep recipes/tiny/sweeps/grpo_selection.yaml --agents 2

`output_dir` gets `sweep.json`, `sweep.md` and `sweep.svg`, and for every trial its run in `trials/` and its output in
`logs/`. Interrupted or killed, the same command carries on, in the trials too; what had failed it tries once again.
Started several times, on one machine or on several that share the file system, it shares the trials out.
"""

import logging
import signal
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import Run
from raml_trl.runtime.trackers import Tracker
from raml_trl.runtime.validation import check_at_least, check_types
from raml_trl.sweeps.results import sweep_table, write_results
from raml_trl.sweeps.sweep_file import read_sweep

logger = logging.getLogger(__name__)


@dataclass
class SweepConfig:
    """`sweep`: the trials of a sweep file, which may stand before all options, without a name."""

    sweep: str = field(metadata={"help": "Sweep file in the format of W&B, with method grid or random."})
    output_dir: str = field(default="", metadata={"help": "By default runs/sweeps/ and the path below recipes."})
    count: int | None = field(
        default=None, metadata={"help": "Trials; None: run_cap of the file, else all of a grid. Random ones need it."}
    )
    agents: int | None = field(default=None, metadata={"help": "Trials at once; None: one, or one for each device."})
    devices: list[str] = field(
        default_factory=list,
        metadata={"help": "CUDA_VISIBLE_DEVICES of each agent, such as 0 1, or 0,1 2,3 for two GPUs each."},
    )
    report_to: Tracker = field(default="none", metadata={"help": "What the trials are told, whatever their recipe."})
    seed: int = field(default=0, metadata={"help": "Of the order of a grid, and of what is drawn at random."})

    def __post_init__(self) -> None:
        check_types(self, SweepConfig)
        check_at_least(self, count=1, agents=1, seed=0)
        if find_spec("optuna") is None:
            raise InputError("sweep needs Optuna, which is not installed: pip install raml_trl[sweep]")
        sweep = read_sweep(Path(self.sweep))
        self.count = sweep.run_cap if self.count is None else self.count
        if self.count is None and sweep.method == "random":
            raise InputError(f"{sweep.path} draws at random: say how many trials with count, or run_cap in the file")
        self.output_dir = self.output_dir or _default_directory(sweep.path)
        self.agents = self.agents or max(1, len(self.devices))
        if self.devices and len(self.devices) != self.agents:
            raise InputError(f"{self.agents} agents need as many devices, got {len(self.devices)}: {self.devices}")


def _default_directory(path: Path) -> str:
    """`runs/sweeps/x` for `recipes/sweeps/x.yaml`, `runs/tiny/sweeps/x` for `recipes/tiny/sweeps/x.yaml`."""
    parts = path.with_suffix("").parts
    below = parts[parts.index("recipes") + 1 :] if "recipes" in parts else ("sweeps", path.stem)
    return str(Path("runs", *below))


def main(config: SweepConfig, record: Run) -> None:
    """Draw the trials, run them, write what they found."""
    from raml_trl.sweeps.agents import Agents
    from raml_trl.sweeps.study import open_study  # Optuna is an extra: whether it is there is checked above

    started = time.monotonic()
    sweep = read_sweep(Path(config.sweep))
    study = open_study(record.directory, sweep, config.count, config.seed)
    agents = Agents(record.directory, sweep, study, extra={"report_to": config.report_to})
    outcomes = agents.outcomes()
    assert config.agents is not None
    devices: list[str | None] = [*config.devices] or [None] * config.agents
    with (
        ThreadPoolExecutor(len(devices)) as pool,
        tqdm(total=len(outcomes), desc="sweep", unit="trial") as bar,
    ):
        futures = [pool.submit(agents.work, device) for device in devices]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                outcomes = agents.outcomes()
                statuses = [one.status for one in outcomes]
                bar.set_postfix(failed=statuses.count("failed"), refresh=False)
                bar.update(len(statuses) - statuses.count("unfinished") - bar.n)
        finally:
            agents.stop.set()  # after an end, nobody is left to stop; after Ctrl-C or an error, all are
            record.save(record.seconds + time.monotonic() - started)
    results = write_results(record.directory, sweep, outcomes)
    sys.stdout.write(f"\n{sweep_table(sweep, results['means'])}\n")
    failed = [one for one in outcomes if one.status == "failed"]
    if failed:
        reasons = ", ".join(f"{one.log} ({one.reason})" for one in failed)
        raise InputError(
            f"{len(failed)} of {len(outcomes)} trials failed, which the same command tries once again: {reasons}"
        )
    record.finish(record.seconds, {name: results[name] for name in ("complete", "best")})


def _name_the_file(arguments: list[str]) -> list[str]:
    """`X.yaml …` as `--sweep X.yaml …`."""
    return ["--sweep", *arguments] if arguments and not arguments[0].startswith("-") else arguments


if __name__ == "__main__":
    # What a scheduler sends before it takes the machine away is to be as clean as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.argv[1:] = _name_the_file(sys.argv[1:])
    run(main, SweepConfig)
