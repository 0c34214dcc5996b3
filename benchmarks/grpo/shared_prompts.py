"""Measures time and peak memory of an update that runs each prompt once, relative to TRL's trainer on all rollouts.

    python -m benchmarks.grpo.shared_prompts
    python -m benchmarks.grpo.shared_prompts --cells "256 tokens, vocabulary 512"

A cell is a prompt length, a model, and gradient checkpointing on or off. The results are written after every pair of a
cell. A command that was interrupted goes on where it stopped, and cells that have all their pairs are not measured
again.

Each ratio of times has a limit: the tokens that our model runs, divided by the cells (tokens and padding) that TRL's
model runs. Both numbers are counted where the models embed their input. The time of a token is not the same for both
trainers: attention within shorter rows and a head that scores completions only can lower the ratio below its limit,
and what does not depend on the number of tokens, such as the optimizer, raises it.

Every training has a process of its own, so its peak memory is measured too. Its first step is short, to warm up.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.harness import (
    RESULTS,
    WARM_UP_STEPS,
    Device,
    Workload,
    describe,
    machine,
    make_trainer,
    quiet,
    run,
    seconds_of,
    spread,
    write,
)
from benchmarks.plots import shared_prompts_figure

NAME = "shared_prompts"
_WARM_UP_TOKENS = 8  # of the prompts and completions of the first step


@dataclass(frozen=True)
class ShortStart(Workload):
    """A workload whose first step has short prompts and completions."""

    def lengths(self, step: int) -> np.ndarray:
        """Return completion lengths in tokens, `(questions * num_generations,)`."""
        lengths = super().lengths(step)
        return lengths if step >= WARM_UP_STEPS else np.full_like(lengths, _WARM_UP_TOKENS)

    def prompts(self, step: int) -> list[list[int]]:
        """Return the tokens of the prompt of every rollout; each question has another prompt."""
        prompts = super().prompts(step)
        return prompts if step >= WARM_UP_STEPS else [prompt[:_WARM_UP_TOKENS] for prompt in prompts]


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: a workload, a model of `harness.MODELS`, and the values of m."""

    workload: Workload
    model: str
    checkpointing: bool = False
    selections: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 1  # measured steps of a training
    pairs: int = 7
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name of the cell in the results."""
        checkpointing = ", checkpointing" if self.checkpointing else ""
        return f"{self.workload.prompt_length:,} tokens, {self.model}{checkpointing}"


def _cell(prompt_length: int, model: str, **others: Any) -> Cell:
    lengths = {"prompt_length": prompt_length, "completion_length": 128, "sigma": 0.5, "max_length": 512}
    small = model == "vocabulary 512"
    workload = ShortStart(questions=2 if small and prompt_length <= 1024 else 1, **lengths)
    return Cell(workload, model, steps=2 if small and prompt_length <= 256 else 1, **others)


_LARGEST = Cell(
    ShortStart(questions=1, num_generations=4, micro_batch=4, prompt_length=256, completion_length=64, sigma=0.5),
    "0.5b",
    checkpointing=True,
    selections=(1, 2, 4),
    pairs=1,  # a pair takes minutes
    settings=(("optim", "sgd"),),  # AdamW would need 4 GB more
)
CELLS = {
    cell.name: cell
    for cell in (
        *(_cell(length, "vocabulary 512") for length in (256, 64, 1024, 768)),
        *(_cell(length, "vocabulary 512", checkpointing=True) for length in (256, 1024, 64)),
        *(_cell(length, "vocabulary 32,000") for length in (256, 64, 1024)),
        _LARGEST,
        _cell(4096, "vocabulary 512"),
        *(_cell(length, "vocabulary 32,000", checkpointing=True) for length in (256, 1024, 64)),
        _cell(4096, "vocabulary 512", checkpointing=True),
        *(_cell(4096, "vocabulary 32,000", checkpointing=on) for on in (False, True)),
    )
}
"""The cells by name, the most important first."""


class _CellCounter(TrainerCallback):
    """Counts the tokens and the padding that a model embeds in the steps after the warm-up."""

    def __init__(self, model: Any) -> None:
        self.cells = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor], _output: Any) -> None:
        self.cells += inputs[0].numel()

    def on_step_begin(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == WARM_UP_STEPS:
            self.cells = 0


def measure_training(cell: Cell, seed: int, selected: int | None) -> dict[str, float]:
    """Train in this process, and return the `seconds` and `cells` of a step, and the `mebibytes` of its peak memory.

    Peak memory is the growth of the largest resident set from the creation of the trainer to the end of training.

    Args:
        cell: what to train.
        seed: added to the seed of the workload.
        selected: m; None for TRL's trainer.
    """
    workload, device = replace(cell.workload, seed=cell.workload.seed + seed), Device(model=cell.model)
    settings = dict(cell.settings) | {"gradient_checkpointing": cell.checkpointing}
    with tempfile.TemporaryDirectory() as directory, quiet():
        trainer = make_trainer(
            workload, device, directory, steps=cell.steps + WARM_UP_STEPS, selected=selected, **settings
        )
        counter = _CellCounter(trainer.model)
        trainer.add_callback(counter)
        before = _peak_kibibytes()
        trainer.train()
    return {
        "seconds": round(seconds_of(trainer)["updating"], 4),
        "cells": counter.cells // cell.steps,
        "mebibytes": round((_peak_kibibytes() - before) / 1024, 1),
    }


def _peak_kibibytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, computed in a copy of this process, which ends afterwards."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)


def measure_pair(cell: Cell, pair: int) -> dict[str, dict[str, float]]:
    """Measure TRL's trainer (key "stock") and ours for each m (key: m as a string) on the same rollouts.

    Every second pair is measured in the opposite order. The rollouts differ from pair to pair.
    """
    order: list[int | None] = [None, *cell.selections]
    return {
        "stock" if selected is None else str(selected): in_child(measure_training, cell, pair, selected)
        for selected in (order if pair % 2 == 0 else reversed(order))
    }


def summarise(cell: Cell, pairs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return the results of a cell: of time, memory and the limit, the spread of the ratios within the pairs, by m."""

    def ratios(of: Callable[[Mapping[str, float], Mapping[str, float]], float]) -> dict[str, dict[str, float]]:
        return {str(m): spread([of(pair[str(m)], pair["stock"]) for pair in pairs]) for m in cell.selections}

    return {
        "workload": describe(cell.workload),
        "model": cell.model,
        "checkpointing": cell.checkpointing,
        "settings": dict(cell.settings),
        "ratio": ratios(lambda ours, stock: ours["seconds"] / stock["seconds"]),
        "limit": ratios(lambda ours, stock: ours["cells"] / stock["cells"]),
        "of_limit": ratios(lambda ours, stock: ours["seconds"] / stock["seconds"] * stock["cells"] / ours["cells"]),
        "memory": ratios(lambda ours, stock: ours["mebibytes"] / stock["mebibytes"]),
        "pairs": list(pairs),
    }


def measure(cells: Iterable[Cell], directory: Path) -> dict[str, Any]:
    """Measure the pairs that the results in `directory` lack, write the results after each pair, and return them."""
    path = directory / f"{NAME}.json"
    results: dict[str, Any] = {}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["machine"] != machine():
            sys.exit(f"{path} was measured on another machine or with other versions: use another --output_dir")
        results = record["results"]
    for cell in cells:
        taken = results[cell.name]["pairs"] if cell.name in results else []
        for pair in range(len(taken), cell.pairs):
            taken = [*taken, measure_pair(cell, pair)]
            results[cell.name] = summarise(cell, taken)
            write(directory, NAME, {}, results, shared_prompts_figure(results))
            medians = {m: value["median"] for m, value in results[cell.name]["ratio"].items()}
            sys.stdout.write(f"{cell.name}: pair {pair + 1} of {cell.pairs}, update time / TRL's: {medians}\n")
            sys.stdout.flush()
    return results


def main() -> None:
    """Measure the chosen cells, and write the results and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    parser.add_argument("--cells", nargs="+", choices=tuple(CELLS), default=tuple(CELLS), metavar="NAME")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(Workload(questions=1, completion_length=8, max_length=8), Device(), steps=0, selected=None)  # loads all modules
    measure([CELLS[name] for name in given.cells], given.output_dir)


if __name__ == "__main__":
    main()
