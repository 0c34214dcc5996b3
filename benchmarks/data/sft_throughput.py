"""Tokens per second of SFT: ways to cut the same examples into micro-batches, side by side, by TRL's own trainer.

    python -m benchmarks.data.sft_throughput
    python -m benchmarks.data.sft_throughput --device cuda --model 0.5b --attention flash_attention_2

Every way trains on examples of the same lengths (log-normal), as many tokens an optimizer step but for packs, which
are cut to be as many. `padding` is TRL's default. Tokens are real ones; what counts is the ratio to `padding` within a
round, in which the ways take turns.
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
WAYS: dict[str, dict[str, Any]] = {
    "padding": {},
    "padding, one micro-batch": {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "batch_rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "padding_free": {"padding_free": True},
    "packing": {"packing": True},
}


def make_examples(size: int, median: int, sigma: float, longest: int) -> Dataset:
    """Random tokens, a third of them prompt."""
    rng = np.random.default_rng(0)
    lengths = np.clip(median * np.exp(sigma * rng.standard_normal(size)), 8, longest).astype(int).tolist()
    ids = [rng.integers(8, 18, size=length).tolist() for length in lengths]
    labels = [[-100] * (len(one) // 3) + one[len(one) // 3 :] for one in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


class _Clock(TrainerCallback):
    """Seconds and real tokens of the optimizer steps after the warm-up."""

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
    way: str, examples: Dataset, device: Device, *, steps: int, pack_length: int, attention: str
) -> float:
    """Of one way, over `steps` optimizer steps after the warm-up."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
        **WAYS[way],
    }
    if way == "packing":  # one pack a micro-batch, and as many as hold the tokens of a batch
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
    """Measure, write, draw."""
    given = parse(
        str(__doc__), rounds=7, steps=3, median=128, sigma=0.6, longest=1_024, pack_length=1_024, attention="sdpa"
    )
    device = Device(given.device, given.model)
    examples = make_examples(BATCH * (given.steps + WARM_UP_STEPS + 4), given.median, given.sigma, given.longest)
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(given.rounds)):
        measured = {
            way: tokens_per_second(
                way, examples, device, steps=given.steps, pack_length=given.pack_length, attention=given.attention
            )
            for way in rng.permutation(list(WAYS)).tolist()
        }
        for way, rate in measured.items():
            rates[way].append(rate)
            ratios[way].append(rate / measured["padding"])
    results = {way: {"tokens_per_second": spread(rates[way]), "ratio": spread(ratios[way])} for way in WAYS}
    settings = {key: value for key, value in vars(given).items() if key != "output_dir"}
    write(given.output_dir, "sft_throughput", settings, results, throughput_figure(results))


if __name__ == "__main__":
    main()
