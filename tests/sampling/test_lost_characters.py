"""A start and a dry run name the characters of prompts that the tokenizer cannot represent."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from raml_trl import evaluate, train_grpo, train_sft
from raml_trl.grpo.config import CheckedGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments
from raml_trl.runtime.cli import run
from raml_trl.sampling.config import EvaluateConfig
from raml_trl.sampling.loading import load_tokenizer
from raml_trl.sampling.lost_characters import lost_characters, warn_of_lost_characters
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.training.config import CheckedModelConfig

DIGITS, WORDS = "a=3+4,b=1+1", "a=3+4, what is b?"


def test_characters_of_the_question_and_of_the_style(model_dir: str) -> None:
    tokenizer = load_tokenizer(model_dir)
    assert lost_characters(tokenizer, DIGITS, "bare") == []
    assert "".join(lost_characters(tokenizer, WORDS, "bare")) == "whtis?"
    assert lost_characters(tokenizer, DIGITS, "boxed")[:2] == ["R", "s"]  # Reason step by step


def test_the_warning_counts_prompts(
    model_dir: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warnings(*questions: str) -> list[str]:
        caplog.clear()
        warn_of_lost_characters(load_tokenizer(model_dir), questions, "bare", model="m")
        return caplog.messages

    lost = "lose characters, because the tokenizer of m cannot represent"
    assert warnings(*[DIGITS] * 100, WORDS) == []  # only the first 100 are read
    assert warnings(DIGITS, WORDS, "?") == [f"2 of the first 3 prompts {lost} 'whtis?'"]
    assert warnings(*map(chr, range(0x4E00, 0x4E00 + 40))) == [
        f"40 of the first 40 prompts {lost} {''.join(map(chr, range(0x4E00, 0x4E00 + 20)))!r}"
    ]
    monkeypatch.setenv("RANK", "1")
    assert warnings(WORDS) == []


@pytest.mark.parametrize(
    ("main", "classes", "settings"),
    [
        (evaluate.main, [EvaluateConfig], "--num_samples 2 --k 1 --max_completion_length 4"),
        (train_sft.main, [SFTArguments, CheckedSFTConfig, CheckedModelConfig], "--per_device_train_batch_size 2"),
        (
            train_grpo.main,
            [GRPOArguments, CheckedGRPOConfig, CheckedModelConfig],
            "--per_device_train_batch_size 2 --num_generations 2 --max_completion_length 4",
        ),
    ],
    ids=["evaluate", "train_sft", "train_grpo"],
)
def test_a_start_warns(
    model_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    main: Any,
    classes: list[type],
    settings: str,
) -> None:
    row = {"problem": WORDS, "answer": "2", "generations": ["<think>2</think>\\boxed{2}"], "labels": [1]}
    (tmp_path / "words.jsonl").write_text(json.dumps(row) + "\n")
    words = f"--model_name_or_path {model_dir} --dataset_name {tmp_path}/words.jsonl --output_dir {tmp_path}/out"
    training = (
        "" if main is evaluate.main else " --max_steps 1 --use_cpu --no_bf16 --report_to none --disable_tqdm true"
    )
    monkeypatch.setattr(sys, "argv", ["command", *f"{words}{training} --prompt_style bare {settings}".split()])
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as stop:
        run(main, *classes)
    assert not stop.value.code
    assert [message for message in caplog.messages if "lose characters" in message] == [
        f"1 of the first 1 prompts lose characters, because the tokenizer of {model_dir} cannot represent 'whtis?'"
    ]
