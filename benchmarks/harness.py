"""Shared parts of the benchmarks: models with random weights, rollouts of given lengths, timed trainers, records.

TRL's `GRPOTrainer` and ours are compared in pairs. In a pair both train one after the other on the same rollouts in one
process; the order alternates from pair to pair. The result is the ratio of the two times in a pair.
"""

import argparse
import json
import logging
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from raml_trl import SubsetGRPOConfig, SubsetGRPOTrainer
from raml_trl.build_model import arithmetic_tokenizer

RESULTS = Path(__file__).parent / "results"
WARM_UP_STEPS = 1
_QUIETLY = {"logging_steps": 10**6, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}

_ATTENTION = {"vocab_size": 151_936, "rope_theta": 1e6, "max_position_embeddings": 32_768}
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
        **{"intermediate_size": 384, "vocab_size": 1024, "max_position_embeddings": 4096},
    },
    "vocabulary 512": {
        **{"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
        **{"intermediate_size": 384, "vocab_size": 512, "max_position_embeddings": 8192},
    },
    "vocabulary 32,000": {
        **{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
        **{"intermediate_size": 768, "vocab_size": 32_000, "max_position_embeddings": 8192},
        "tie_word_embeddings": True,
    },
    # Qwen2.5, with the sizes of its config.json
    "0.5b": {
        **{"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
        **{"intermediate_size": 4864, "tie_word_embeddings": True, **_ATTENTION},
    },
    "1.5b": {
        **{"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
        **{"intermediate_size": 8960, "tie_word_embeddings": True, **_ATTENTION},
    },
    "7b": {
        **{"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
        **{"intermediate_size": 18_944, "tie_word_embeddings": False, **_ATTENTION},
    },
}


@dataclass(frozen=True)
class Workload:
    """The load of a step: `questions` groups of `num_generations` rollouts, `micro_batch` of them per micro-batch."""

    questions: int = 8
    num_generations: int = 8
    micro_batch: int = 8
    prompt_length: int = 16
    completion_length: int = 128  # median; exact if sigma is 0
    sigma: float = 0.0  # standard deviation of the log length
    max_length: int = 128
    dead_groups: int = 0  # number of groups whose rewards are all equal
    seed: int = 0

    @property
    def rollouts(self) -> int:
        return self.questions * self.num_generations

    def lengths(self, step: int) -> np.ndarray:
        """Return completion lengths in tokens, `(questions * num_generations,)`."""
        rng = np.random.default_rng([self.seed, step])
        drawn = self.completion_length * np.exp(self.sigma * rng.standard_normal(self.rollouts))
        return np.clip(drawn, 2, self.max_length).astype(int)

    def prompts(self, step: int) -> list[list[int]]:
        """Return the tokens of the prompt of every rollout; each question has another prompt."""
        numbers = [[8 + question % 10, 8 + question // 10] for question in range(self.questions)]
        return [[*number, *[9] * (self.prompt_length - 2)] for number in numbers for _ in range(self.num_generations)]

    def rewards(self, step: int) -> np.ndarray:
        """Return rewards, `(questions * num_generations,)`: different within a group, but all equal in a dead group."""
        rng = np.random.default_rng([self.seed, step, 1])
        rewards = rng.permuted(np.tile(np.linspace(0, 1, self.num_generations), (self.questions, 1)), axis=1)
        rewards[: self.dead_groups] = 1.0
        return rewards.ravel()


@dataclass(frozen=True)
class Device:
    """Device and model of a benchmark."""

    device: str = "cpu"
    model: str = "tiny"

    def settings(self) -> dict[str, Any]:
        """Return the trainer settings for this device."""
        if self.device == "cpu":
            return {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        return {"bf16": True, "gradient_checkpointing": True}

    def build(self) -> Qwen2ForCausalLM:
        """Build the model with random weights from a fixed seed."""
        torch.manual_seed(0)
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        with torch.device(self.device):
            return Qwen2ForCausalLM(Qwen2Config(**MODELS[self.model])).to(dtype)


class _Clock(TrainerCallback):
    """Times every optimizer step from its first micro-batch to its end, without the seconds of generating."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = self.trainer.now()
        self.trainer.generating.append(0.0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.updating.append(self.trainer.now() - self.started - self.trainer.generating[-1])


class Timed:
    """Mixin that records the `generating` and `updating` seconds of every optimizer step.

    Generating covers sampling rollouts and calling the reward function. Updating is the rest, for both trainers alike:
    preparing, old log-probabilities, selection, batching, forward, backward, clipping, metrics and the optimizer.
    On a CPU, seconds are of process time, so that other programs on the machine do not count.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        self.generating: list[float] = []
        self.updating: list[float] = []
        super().__init__(*args, **named)
        self.add_callback(_Clock(self))  # type: ignore[attr-defined]

    def now(self) -> float:
        if not torch.cuda.is_available():
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _generate(self, *args: Any, **named: Any) -> Any:
        started = self.now()
        generated = super()._generate(*args, **named)  # type: ignore[misc]
        self.generating[-1] += self.now() - started
        return generated

    def _calculate_rewards(self, *args: Any, **named: Any) -> Any:
        started = self.now()
        rewards = super()._calculate_rewards(*args, **named)  # type: ignore[misc]
        self.generating[-1] += self.now() - started
        return rewards


class TimedStock(Timed, GRPOTrainer):
    """TRL's trainer, timed."""


class TimedSubset(Timed, SubsetGRPOTrainer):
    """Our trainer, timed."""


def make_trainer(
    workload: Workload, device: Device, directory: str, *, steps: int, selected: int | None, **settings: Any
) -> Any:
    """Build a trainer for `steps` optimizer steps; `selected` is m, or None for TRL's own trainer."""
    tokenizer = arithmetic_tokenizer()
    eos = tokenizer.eos_token_id
    tokens = list(range(8, 18)) * (workload.max_length // 10 + 2)
    drawn, rewarded = count(), count()

    def rollout(_prompts: Sequence[str], _trainer: Any) -> dict[str, Any]:
        step = next(drawn)
        lengths = workload.lengths(step).tolist()
        return {
            "prompt_ids": workload.prompts(step),
            "completion_ids": [[*tokens[row % 10 : row % 10 + length - 1], eos] for row, length in enumerate(lengths)],
            "logprobs": [[0.0] * length for length in lengths],
        }

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return workload.rewards(next(rewarded)).tolist()

    real_generation = settings.pop("real_generation", False)
    stock = selected is None
    arguments = (GRPOConfig if stock else SubsetGRPOConfig)(
        output_dir=directory,
        per_device_train_batch_size=workload.micro_batch,
        gradient_accumulation_steps=workload.rollouts // workload.micro_batch,
        num_generations=workload.num_generations,
        max_completion_length=workload.max_length,
        max_steps=steps,
        learning_rate=1e-5,
        **({} if stock else {"num_generations_update": selected}),
        **(_QUIETLY | device.settings() | settings),
    )
    trainer = (TimedStock if stock else TimedSubset)(
        device.build(),
        reward,
        arguments,
        train_dataset=Dataset.from_dict({"prompt": ["1" * workload.prompt_length] * (workload.questions * 64)}),
        processing_class=tokenizer,
        **({} if real_generation else {"rollout_func": rollout}),
    )
    trainer.pop_callback(PrinterCallback)
    return trainer


def run(workload: Workload, device: Device, *, steps: int, selected: int | None, **settings: Any) -> Any:
    """Train for `steps` steps after the warm-up and return the trainer."""
    with tempfile.TemporaryDirectory() as directory, quiet():
        trainer = make_trainer(workload, device, directory, steps=steps + WARM_UP_STEPS, selected=selected, **settings)
        trainer.train()
        return trainer


def seconds_of(trainer: Any) -> dict[str, float]:
    """Return the median seconds per step after the warm-up, for generating and for updating."""
    return {phase: float(np.median(getattr(trainer, phase)[WARM_UP_STEPS:])) for phase in ("generating", "updating")}


def measure_pairs(
    workload: Workload, device: Device, selections: Sequence[int], *, pairs: int, steps: int, **settings: Any
) -> Iterator[dict[str, Any]]:
    """Yield, for every pair, the seconds of TRL's trainer (key "stock") and of ours for each m (key: m as a string).

    `selections` are the values of m. All trainers of a pair have the same `settings` and rollouts; the rollouts differ
    from pair to pair.
    """
    for pair in range(pairs):
        of_pair = replace(workload, seed=workload.seed + pair)
        order: list[int | None] = [None, *selections] if pair % 2 == 0 else [*reversed(selections), None]
        taken = {}
        for selected in order:
            trainer = run(of_pair, device, steps=steps, selected=selected, **settings)
            taken["stock" if selected is None else str(selected)] = seconds_of(trainer)
        yield taken


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles and extremes."""
    low, quarter, median, three_quarters, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    names = ("median", "quarter", "three_quarters", "low", "high")
    return {
        name: round(value, 4) for name, value in zip(names, (median, quarter, three_quarters, low, high), strict=True)
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and the final log line of the trainers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def machine() -> dict[str, Any]:
    """Return the hardware and the library versions that the numbers depend on."""
    described = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        described = names[0] if names else described
    return {
        "cpu": described,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "trl", "transformers", "accelerate", "raml_trl")},
    }


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags, and keeps the lines of the description."""


def parse(description: str, **defaults: Any) -> argparse.Namespace:
    """Parse the command line of a benchmark, with a flag for each default and common flags."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_Help)
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=tuple(MODELS), default="tiny")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--threads", type=int, default=1, help="More threads are slower on small matrices.")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def write(directory: Path, name: str, settings: Mapping[str, Any], results: Any, figure: str | None = None) -> None:
    """Write settings, machine and results to `NAME.json`, and the figure to `NAME.svg` if there is one."""
    directory.mkdir(parents=True, exist_ok=True)
    record = {"settings": dict(settings), "machine": machine(), "results": results}
    (directory / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if figure is not None:
        (directory / f"{name}.svg").write_text(figure, encoding="utf-8")


def describe(workload: Workload) -> dict[str, Any]:
    """Return the workload as a dictionary, to be written as JSON."""
    return asdict(workload)
