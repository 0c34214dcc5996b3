"""Measures tokens per second of SFT with different ways to form micro-batches from the same examples, in TRL's trainer.

    python -m benchmarks.data.sft_throughput
    python -m benchmarks.data.sft_throughput --device cuda --model 0.5b --attention flash_attention_2

All methods train on the same examples, with log-normal lengths, and on about as many tokens per optimizer step. For
`packing`, the number of packs (rows of several examples) is chosen accordingly. `padding` is TRL's default. Padding
tokens do not count. Each round runs all methods in random order. The result is the tokens per second of a method
divided by those of `padding` in the same round.
"""

import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from benchmarks.harness import WARM_UP_STEPS, Device, parse, quiet, spread, write
from benchmarks.plots import throughput_figure
from raml_trl.build_model import arithmetic_tokenizer
from raml_trl.sft.trainer import TrajectorySFTTrainer, take_prepared

BATCH, MICRO_BATCH = 64, 8  # examples of an optimizer step, and of a micro-batch
METHODS: dict[str, dict[str, Any]] = {
    "padding": {},
    "padding, one micro-batch": {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "batch_rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "padding_free": {"padding_free": True},
    "packing": {"packing": True},
}


def make_examples(size: int, median: int, sigma: float, longest: int) -> Dataset:
    """Return examples of random tokens; a third of each is the prompt."""
    rng = np.random.default_rng(0)
    lengths = np.clip(median * np.exp(sigma * rng.standard_normal(size)), 8, longest).astype(int).tolist()
    ids = [rng.integers(8, 18, size=length).tolist() for length in lengths]
    labels = [[-100] * (len(row) // 3) + row[len(row) // 3 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


class _Clock(TrainerCallback):
    """Counts the seconds and the tokens, without padding, of the optimizer steps after the warm-up."""

    def __init__(self) -> None:
        self.seconds, self.tokens = 0.0, 0
        self.trainer: Any = None

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started, self.before = self.now(), self.trainer._total_train_tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= WARM_UP_STEPS:
            self.seconds += self.now() - self.started
            self.tokens += int(self.trainer._total_train_tokens - self.before)


def tokens_per_second(
    method: str, examples: Dataset, device: Device, *, steps: int, pack_length: int, attention: str
) -> float:
    """Return the tokens per second of one method over `steps` optimizer steps after the warm-up."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
        **METHODS[method],
    }
    if method == "packing":  # one pack per micro-batch, and as many packs as hold the tokens of a batch
        packs = max(1, round(BATCH * float(np.mean(examples["length"])) / pack_length))
        settings |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": packs}
    with tempfile.TemporaryDirectory() as directory, quiet():
        config = SFTConfig(
            output_dir=directory,
            max_steps=steps + WARM_UP_STEPS,
            max_length=pack_length,
            **device.settings(),
            **{"logging_steps": 10**6, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
            **settings,
        )
        take_prepared(config)
        clock = _Clock()
        model = device.build()
        model.set_attn_implementation(attention)
        trainer = TrajectorySFTTrainer(
            model, args=config, train_dataset=examples, processing_class=arithmetic_tokenizer(), callbacks=[clock]
        )
        clock.trainer = trainer
        trainer.pop_callback(PrinterCallback)
        trainer.train()
    return clock.tokens / clock.seconds


def main() -> None:
    """Run the benchmark, and write its results and the plot."""
    options = parse(
        str(__doc__), rounds=7, steps=3, median=128, sigma=0.6, longest=1_024, pack_length=1_024, attention="sdpa"
    )
    device = Device(options.device, options.model)
    examples = make_examples(
        BATCH * (options.steps + WARM_UP_STEPS + 4), options.median, options.sigma, options.longest
    )
    ratios: dict[str, list[float]] = {method: [] for method in METHODS}
    rates: dict[str, list[float]] = {method: [] for method in METHODS}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(options.rounds)):
        measured = {
            method: tokens_per_second(
                method,
                examples,
                device,
                steps=options.steps,
                pack_length=options.pack_length,
                attention=options.attention,
            )
            for method in rng.permutation(list(METHODS)).tolist()
        }
        for method, rate in measured.items():
            rates[method].append(rate)
            ratios[method].append(rate / measured["padding"])
    results = {
        method: {"tokens_per_second": spread(rates[method]), "ratio": spread(ratios[method])} for method in METHODS
    }
    settings = {key: value for key, value in vars(options).items() if key != "output_dir"}
    write(options.output_dir, "sft_throughput", settings, results, throughput_figure(results))


if __name__ == "__main__":
    main()
