"""Measures updates on one GPU in a few minutes: our trainer with each attention backend, beside TRL's trainer.

    python -m benchmarks.on_gpu --output on_gpu.jsonl
    python -m benchmarks.on_gpu --show on_gpu.jsonl
    python -m benchmarks.on_gpu --device cpu --model tiny --prompts 10 20 --completion_length 16 --max_length 32

The model has the sizes of Qwen2.5-1.5B and random weights; it trains in bfloat16, with gradient checkpointing and
AdamW. All trainers train on the same rollouts, with m = G and m = G/4; the first m of each group are selected. For each
training the output gets a line of JSON as soon as the training ends, so an interrupted run keeps its results. No
training starts that is not expected to end in time. At the end, or with `--show`, a table is printed.

It needs torch, transformers, trl, peft, their dependencies, and this checkout with its package's dependencies.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import numpy as np
import psutil
import torch
from transformers import TrainerCallback
from trl.trainer.utils import compute_flops_per_token, get_peak_flops

from benchmarks.harness import MODELS, Device, Workload, machine, make_trainer, quiet
from raml_trl.grpo.packing import packed_model

_FULL_STEPS = 2  # before the measured ones: for the self-check, and to compile for one length and for any length
_MEASURED_STEPS = 2
_EQUAL = ("loss", "grad_norm", "entropy")  # metrics of the first step that must be equal


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        prompt_length: tokens of a prompt.
        selected: m.
        shared_prompts: the setting of our trainer; None for TRL's trainer.
    """

    prompt_length: int
    selected: int
    shared_prompts: str | None

    @property
    def trainer(self) -> str:
        """The name of the trainer in the table."""
        return "TRL" if self.shared_prompts is None else f"ours, {self.shared_prompts}"


def cases(prompts: Sequence[int], num_generations: int, backends: Sequence[str]) -> list[Case]:
    """Return the trainings in running order, with the most important backend first."""
    fewer = num_generations // 4
    return [
        case
        for prompt_length in prompts
        for case in (
            Case(prompt_length, num_generations, None),
            *(Case(prompt_length, m, backend) for backend in backends for m in (num_generations, fewer)),
            Case(prompt_length, fewer, "off"),
        )
    ]


def backends_here(device: str) -> list[str]:
    """Return the attention backends that work on the device, the fastest first."""
    if device == "cpu":
        return ["sdpa"]
    return [*(["flash"] if find_spec("flash_attn") is not None else []), "flex", "sdpa"]


def needed_flops(config: Any, workload: Workload, step: int, selected: int) -> float:
    """Return the FLOPs of a step that runs every prompt once, no padding, and the head on completions only.

    Forward and backward passes count, recomputation by gradient checkpointing does not. Attention is causal.
    """
    heads = config.hidden_size * config.vocab_size
    head_flops, body_flops = 6 * heads, compute_flops_per_token(config, 0) - 6 * heads
    prefix = workload.prompt_length - 1
    branches = workload.lengths(step).reshape(workload.questions, -1)[:, :selected].astype(float)
    tokens = workload.questions * prefix + branches.sum()
    prefix_scores = workload.questions * prefix * (prefix + 1) / 2
    scores = prefix_scores + (branches * prefix + branches * (branches + 1) / 2).sum()
    score_flops = 12 * config.num_hidden_layers * config.hidden_size * scores
    return float(body_flops * tokens + head_flops * branches.sum() + score_flops)


class _Watch(TrainerCallback):
    """Ends the training after the deadline, and keeps the reason why rows are not packed in the latest step."""

    def __init__(self, trainer: Any, now: Callable[[], float], deadline: float) -> None:
        self.trainer, self.now, self.deadline = trainer, now, deadline
        self.obstacle: str | None = None

    def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
        packing = getattr(self.trainer, "packing", None)
        self.obstacle = packing.obstacle if packing is not None else None
        control.should_training_stop |= self.now() > self.deadline


@contextmanager
def _recorded_checks() -> Iterator[list[dict[str, float]]]:
    """Yield a list that gets the results of the trainer's checks of packed rows against plain rows."""
    checks: list[dict[str, float]] = []
    measure = packed_model.measure_difference

    def measure_and_record(*args: Any, **named: Any) -> Any:
        difference = measure(*args, **named)
        checks.append(difference._asdict())
        return difference

    with patch.object(packed_model, "measure_difference", measure_and_record):
        yield checks


def train(
    case: Case,
    workload: Workload,
    device: Device,
    *,
    peak_flops: float | None,
    now: Callable[[], float],
    deadline: float,
) -> dict[str, Any]:
    """Train once, and return what was measured.

    Args:
        case: the training.
        workload: the rollouts of a step.
        device: device and model.
        peak_flops: FLOP/s of the device, for the utilisation (MFU).
        now: clock for the deadline.
        deadline: when to end the training early.
    """
    on_gpu = device.device == "cuda"
    ours = {} if case.shared_prompts is None else {"shared_prompts": case.shared_prompts, "selection": "first"}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as directory, quiet(), _recorded_checks() as checks:
        trainer = make_trainer(
            workload,
            device,
            directory,
            steps=_FULL_STEPS + _MEASURED_STEPS,
            selected=None if case.shared_prompts is None else case.selected,
            logging_steps=1,
            **ours,
        )
        watch = _Watch(trainer, now, deadline)
        trainer.add_callback(watch)
        trainer.train()
    seconds = trainer.updating[_FULL_STEPS:]
    flops = [
        needed_flops(trainer.model.config, workload, step, case.selected)
        for step in range(_FULL_STEPS, _FULL_STEPS + len(seconds))
    ]
    return {
        "seconds": [round(value, 4) for value in seconds],
        "gibibytes": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "mfu": round(sum(flops) / sum(seconds) / peak_flops, 4) if peak_flops and seconds else None,
        **{name: trainer.state.log_history[0][name] for name in _EQUAL},
        "check": {name: max(check[name] for check in checks) for name in checks[0]} if checks else None,
        "obstacle": watch.obstacle,
    }


def measure(
    chosen: Sequence[Case],
    make_workload: Callable[[int], Workload],
    device: Device,
    output: TextIO,
    *,
    peak_flops: float | None,
    now: Callable[[], float],
    deadline: float,
) -> list[dict[str, Any]]:
    """Run the trainings, write a line of JSON after each, and return the lines.

    A training that fails, or that is not expected to end before the deadline, has a line that says so.

    Args:
        chosen: the trainings.
        make_workload: returns the rollouts of a step for a prompt length.
        device: device and model.
        output: file for the lines.
        peak_flops: FLOP/s of the device.
        now: clock.
        deadline: when to be done.
    """
    lines = []
    latest: dict[str | None, tuple[float, float]] = {}  # cells and seconds of the latest training of each trainer
    for case in chosen:
        workload = make_workload(case.prompt_length)
        share = case.selected / workload.num_generations
        cells = workload.rollouts * (workload.prompt_length + workload.max_length) * share
        before, seconds = latest.get(case.shared_prompts) or latest.get(None) or (cells, 0.0)
        started = now()
        if started + seconds * max(1.0, cells / before) > deadline:
            result: dict[str, Any] = {"failed": "not run: no time left"}
        else:
            try:
                result = train(case, workload, device, peak_flops=peak_flops, now=now, deadline=deadline)
            except RuntimeError as error:  # out of memory, or a kernel that does not compile on this GPU
                reason = str(error).strip().partition("\n")[0]
                result = {"failed": f"{type(error).__name__}: {reason[:200]}"}
            gc.collect()
            torch.cuda.empty_cache()
            latest[case.shared_prompts] = cells, now() - started
        lines.append(asdict(case) | result)
        output.write(json.dumps(lines[-1]) + "\n")
        output.flush()
        sys.stdout.write(f"{case.prompt_length:,} tokens, m = {case.selected}, {case.trainer}: {result}\n")
        sys.stdout.flush()
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Make the table of the results: one row per training.

    Loss, norm of the gradient and entropy of the first step are compared with TRL's trainer if m = G, otherwise with
    our trainer on plain rows. The cell has their largest relative difference.
    """
    by_case = {(line["prompt_length"], line["selected"], line["shared_prompts"]): line for line in lines}
    rows = [
        "| prompt | m | trainer | seconds | / TRL's | peak GiB | MFU | differs from plain rows by | self-check |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (prompt_length, selected, setting), line in by_case.items():
        trainer = Case(prompt_length, selected, setting).trainer
        head = f"| {prompt_length:,} | {selected} | {trainer} |"
        if line.get("failed") or not line["seconds"]:
            rows.append(f"{head} {line.get('failed') or 'no time left'} | | | | | |")
            continue
        stock = next((other for key, other in by_case.items() if key[0] == prompt_length and key[2] is None), {})
        plain = by_case.get((prompt_length, selected, "off")) or (stock if stock.get("selected") == selected else {})
        seconds = float(np.mean(line["seconds"]))
        ratio = f"{seconds / np.mean(stock['seconds']):.3f}" if stock.get("seconds") else "-"
        check = line["check"]
        cells = [
            f"{seconds:.3f}",
            ratio,
            "-" if line["gibibytes"] is None else f"{line['gibibytes']:.1f}",
            "-" if line["mfu"] is None else f"{line['mfu']:.1%}",
            "-" if line is plain or "loss" not in plain else f"{_difference(line, plain):.1e}",
            "-" if check is None else f"log-probs {check['logps']:.1e}, gradient {check['gradient']:.1e}",
        ]
        if setting not in (None, "off") and line["obstacle"]:
            cells[-1] += f"; not packed: {line['obstacle']}"
        rows.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(rows)


def _difference(line: Mapping[str, Any], plain: Mapping[str, Any]) -> float:
    """Return the largest relative difference of the metrics that must be equal."""
    return max(abs(line[name] - plain[name]) / max(abs(plain[name]), 1e-6) for name in _EQUAL)


def main() -> None:
    """Measure and print the table, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("on_gpu.jsonl"), help="file for the results")
    parser.add_argument("--show", type=Path, help="print the table of this file instead")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything, from the start of Python")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=tuple(MODELS), default="1.5b")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 150, 4000])
    parser.add_argument("--questions", type=int, default=4, help="groups of 8 in a step")
    parser.add_argument("--completion_length", type=int, default=512, help="median; the lengths are log-normal")
    parser.add_argument("--max_length", type=int, default=1024, help="of a completion")
    parser.add_argument("--backends", nargs="+", choices=("sdpa", "flex", "flash"))
    parser.add_argument("--peak_tflops", type=float, help="of the GPU in bfloat16; default: TRL's table of GPUs")
    given = parser.parse_args()
    if given.show is not None:
        lines = [json.loads(line) for line in given.show.read_text(encoding="utf-8").splitlines()]
        sys.stdout.write(table([line for line in lines if "prompt_length" in line]) + "\n")
        return

    def workload(prompt_length: int) -> Workload:
        return Workload(
            questions=given.questions,
            prompt_length=prompt_length,
            completion_length=given.completion_length,
            sigma=0.5,
            max_length=given.max_length,
        )

    started = psutil.Process().create_time()
    peak = given.peak_tflops * 1e12 if given.peak_tflops else None
    if peak is None and given.device == "cuda":
        peak = get_peak_flops(torch.cuda.get_device_name(), "bfloat16")
    chosen = cases(given.prompts, workload(1).num_generations, given.backends or backends_here(given.device))
    with given.output.open("w", encoding="utf-8") as output:
        settings = {name: str(value) for name, value in vars(given).items()}
        output.write(json.dumps({"settings": settings, "machine": machine()}) + "\n")
        output.flush()
        lines = measure(
            chosen,
            workload,
            Device(given.device, given.model),
            output,
            peak_flops=peak,
            now=time.time,
            deadline=started + 60 * given.minutes,
        )
    sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main()
