"""The tables of docs/logging.md name exactly the metrics that are logged, and state what each one covers."""

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig
from trl.trainer import grpo_trainer

from raml_trl.data.records import Question
from raml_trl.grading.grader import Outcome
from raml_trl.grpo import dataset as grpo_dataset
from raml_trl.grpo.rewards import make_reward
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sft import examples as sft_examples
from raml_trl.sft.trainer import TrajectorySFTTrainer, take_prepared
from raml_trl.training.evaluation import Evaluation
from tests.helpers import REPOSITORY
from tests.helpers.trainers import Recorder, fixed_rollouts, make_trainer, questions

PAGE = REPOSITORY / "docs" / "logging.md"
PLACEHOLDERS = {"REWARD": r"\w+", "K": r"\d+", "TAU": r"[\d.]+"}


def rows(section: str) -> list[list[str]]:
    """Return the cells of the table under a heading of the page, row by row."""
    body = PAGE.read_text().split(f"\n### {section}\n")[1].split("\n### ")[0]
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def documented(section: str) -> dict[str, str]:
    """Return the metrics in a table by name, each with its entry in the column `over`."""
    return {name: cells[2] for cells in rows(section) for name in re.findall(r"`([^`]+)`", cells[0])}


def matches(pattern: str, name: str) -> bool:
    parts = re.split(f"({'|'.join(PLACEHOLDERS)})", pattern)
    return re.fullmatch("".join(PLACEHOLDERS.get(part, re.escape(part)) for part in parts), name) is not None


def compare(logged: set[str], documented: set[str]) -> tuple[list[str], list[str]]:
    """Return the logged names that are not documented, and the documented names that were not logged."""
    unknown = [name for name in logged if not any(matches(pattern, name) for pattern in documented)]
    unseen = [pattern for pattern in documented if not any(matches(pattern, name) for name in logged)]
    return sorted(unknown), sorted(unseen)


def names(recorder: Recorder) -> set[str]:
    return {name for logs in recorder.logs for name in logs}


def train(model_dir: str, tmp_path: Path, **settings: Any) -> Recorder:
    reward = settings.pop("reward", None) or make_reward("bare")
    trainer, recorder = make_trainer(
        model_dir, tmp_path, rollout_func=fixed_rollouts, max_steps=1, reward=reward, **settings
    )
    trainer.train()
    return recorder


@pytest.fixture
def evaluation() -> Evaluation:
    settings = SamplingSettings(2, 6, temperature=1.0, top_p=1.0, top_k=0)
    return Evaluation((Question("1", "a=1+2,b=3", "6", "test"),), "bare", settings, (1, 2), batch_size=2, seed=0)


def test_grpo(model_dir: str, tmp_path: Path) -> None:
    assert compare(names(train(model_dir, tmp_path, num_generations_update=2)), set(documented("GRPO"))) == ([], [])


@pytest.mark.long
def test_grpo_with_some_settings(model_dir: str, tmp_path: Path) -> None:
    logged = set()
    for settings in (
        {"beta": 0.1},
        {"entropy_coef": 0.1},
        {"loss_type": "cispo"},
        {"loss_type": "vespo"},
        {"refill": 1},
    ):
        logged |= names(train(model_dir, tmp_path, num_generations_update=2, **settings))
    section, always = documented("GRPO, with some settings"), documented("GRPO")
    unknown, rest = compare(logged, set(always) | set(section))
    assert unknown == []
    assert set(get_args(Outcome)) - {"correct", "wrong", "no answer"} <= set(always) & logged
    # A short run on this machine cannot log the remaining names, so find them in TRL's code.
    code = inspect.getsource(grpo_trainer)
    assert all(f'["{name}"].append' in code for name in rest)
    parts = {cells[0]: cells[3] for cells in rows("GRPO, with some settings")}
    assert {part for cell, part in parts.items() if any(f"`{name}`" in cell for name in rest)} == {
        *("a mixture of experts", "tools", "vLLM")
    }


def test_nothing_of_the_generation_is_forgotten() -> None:
    """Every name of a metric in the code of TRL's trainer is documented."""
    code = inspect.getsource(grpo_trainer)
    theirs = set(re.findall(r'_metrics\[(?:mode|"train")\]\["([^"]+)"\]', code))
    assert len(theirs) > 30
    unknown, _ = compare(theirs, set(documented("GRPO")) | set(documented("GRPO, with some settings")))
    assert unknown == []


def test_what_is_over_all_rollouts_does_not_depend_on_m(model_dir: str, tmp_path: Path) -> None:
    """The first generation is the same for every m, so only metrics over the m, and timings, may differ."""

    def answer_reward(completions: list[Any], log_metric: Any, log_extra: Any, **_: Any) -> list[float]:
        texts = [completion[-1]["content"] for completion in completions]
        bits = {"correct": ["3" in text for text in texts], "formatted": ["5" in text for text in texts]}
        for name, values in bits.items():
            log_metric(name, sum(values) / len(values))
            log_extra(name, values)
        return [float(right) + len(text) / 50 for right, text in zip(bits["correct"], texts, strict=True)]

    whole, half = (
        train(model_dir, tmp_path, num_generations_update=m, reward=answer_reward, beta=0.1).logs[0] for m in (8, 1)
    )
    tables = documented("GRPO") | documented("GRPO, with some settings")
    over = {name: next(scope for known, scope in tables.items() if matches(known, name)) for name in whole}
    clocks = ("seconds/", "speedup/", "step_time")
    differing = {name for name in whole if whole[name] != half[name] and not name.startswith(clocks)}
    assert {over[name] for name in differing} <= {"the m", "both"}
    trained = {"loss", "grad_norm", "entropy", "rows/selected", "rows/trained", "tokens/scored", "tokens/trained"}
    assert differing >= trained | {"selected/mixed"}
    assert {name for name in whole if over[name] == "all G"} >= {"reward", "correct", "groups/mixed"}


def test_sft_and_evaluation_in_training(model_dir: str, tmp_path: Path, evaluation: Evaluation) -> None:
    config = SFTConfig(
        str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, logging_steps=1,
        save_strategy="no", gradient_checkpointing=False, eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    take_prepared(config)
    rows = [{"input_ids": [4, 5, 6, 7], "labels": [-100, 5, 6, 7]}] * 8
    recorder = Recorder()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    trainer = TrajectorySFTTrainer(
        model_dir,
        args=config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=sft_examples.evaluation_rows(evaluation.questions, evaluation.prompt_style, tokenizer),
        sampled_evaluation=evaluation,
        callbacks=[recorder],
    )
    trainer.train()
    logged, evaluated = (
        {name for logs in recorder.logs if ("eval_pass@1" in logs) is of_evaluation for name in logs}
        for of_evaluation in (False, True)
    )
    assert compare(logged, set(documented("SFT"))) == ([], [])
    assert compare(evaluated, set(documented("Evaluation in training"))) == ([], [])


def test_evaluation_in_grpo(model_dir: str, tmp_path: Path, evaluation: Evaluation) -> None:
    parts = {"sampled_evaluation": evaluation}
    parts["eval_dataset"] = grpo_dataset.evaluation_rows(evaluation.questions, evaluation.prompt_style)
    recorder = train(model_dir, tmp_path, num_generations_update=2, eval_strategy="steps", eval_steps=1, **parts)
    evaluated = {name for logs in recorder.logs if "eval_pass@1" in logs for name in logs}
    assert compare(evaluated, set(documented("Evaluation in training"))) == ([], [])


def test_the_evaluation_of_trl_logs_its_names(model_dir: str, tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 16}
    recorder = train(model_dir, tmp_path, eval_dataset=questions(2), **settings)
    evaluated = {name.removeprefix("eval_") for logs in recorder.logs if "eval_loss" in logs for name in logs}
    unknown, _ = compare(evaluated, set(documented("GRPO")))
    assert unknown == ["runtime", "samples_per_second", "steps_per_second"]


def test_the_table_of_rollouts(model_dir: str, tmp_path: Path) -> None:
    import pandas as pd

    train(model_dir, tmp_path, num_generations_update=2, log_completions=True)
    [path] = (tmp_path / "completions").iterdir()
    columns = {name for cells in rows("The table of rollouts") for name in re.findall(r"`([^`]+)`", cells[0])}
    assert set(pd.read_parquet(path).columns) == columns
