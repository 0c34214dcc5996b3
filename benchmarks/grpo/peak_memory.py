"""Measures the peak memory of an optimizer step. Each setting is measured in a separate process.

    python -m benchmarks.grpo.peak_memory

The result is how much the peak memory grows from the creation of the trainer to the end of training. On a CPU the peak
memory is the largest resident set of the process, on a GPU it is `torch.cuda.max_memory_allocated`.
"""

import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.grpo.update_time import workloads
from benchmarks.harness import Device, Workload, make_trainer, parse, quiet, spread, write
from benchmarks.plots import memory_figure

SETTINGS: dict[str, dict[str, Any]] = {
    "TRL, all of 8": {"selected": None},
    "drop, all of 8": {"selected": 8},
    "drop, 2 of 8": {"selected": 2},
    "mask, 2 of 8": {"selected": 2, "subset_mode": "mask"},
}


def peak(device: Device) -> int:
    """Return the peak memory of this process so far, in bytes."""
    if device.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_here(workload: Workload, device: Device, settings: dict[str, Any]) -> int:
    """Return by how many bytes two optimizer steps raise the peak memory."""
    with tempfile.TemporaryDirectory() as directory, quiet():
        trainer = make_trainer(workload, device, directory, steps=2, **settings)
        before = peak(device)
        trainer.train()
    return peak(device) - before


def main() -> None:
    """Measure each setting in a child process, and write the results and the figure."""
    given = parse(str(__doc__), repeats=3, completion_length=256, max_length=1024, child="")
    device = Device(given.device, given.model)
    loads = {name: load for name, (load, _) in workloads(given.completion_length, given.max_length).items()}
    if given.child:
        load, setting = given.child.split("/")
        sys.stdout.write(json.dumps(measure_here(loads[load], device, SETTINGS[setting])) + "\n")
        return
    results: dict[str, Any] = {}
    jobs = [(load, setting) for load in list(loads)[:2] for setting in SETTINGS]
    for load, setting in tqdm(jobs):
        flags = [word for key, value in vars(given).items() if key != "child" for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "benchmarks.grpo.peak_memory", *flags, "--child", f"{load}/{setting}"]
        lines = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            for _ in range(given.repeats)
        ]
        results.setdefault(load, {})[setting] = spread([json.loads(line) / 2**20 for line in lines])
    settings = {key: value for key, value in vars(given).items() if key not in ("output_dir", "child")}
    write(given.output_dir, "peak_memory", settings, results, memory_figure(results))


if __name__ == "__main__":
    main()
