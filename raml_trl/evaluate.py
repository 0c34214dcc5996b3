r"""Draw n samples per question, grade them, and count: Pass@k and mG-Pass@k with intervals.

    python -m raml_trl.evaluate --config recipes/tiny/eval.yaml \
        --model_name_or_path runs/demo/sft --output_dir runs/demo/eval_sft

`output_dir` gets `samples.parquet`, every sample with its grade, and `metrics.json`, which follows from it.
"""

import logging
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raml_trl.arguments import EvaluateConfig
from raml_trl.command_line import run
from raml_trl.data import Question, load_questions
from raml_trl.files import write_json, write_rows
from raml_trl.grading import grade
from raml_trl.metrics import summarise
from raml_trl.models import check_model, load_model
from raml_trl.prompts import prompt_messages
from raml_trl.runs import Run
from raml_trl.sampling import SamplingSettings
from raml_trl.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)

SAMPLE_SCHEMA = pa.schema(
    {
        "question_id": pa.string(),
        "sample": pa.int32(),
        "text": pa.string(),
        "correct": pa.bool_(),
        "formatted": pa.bool_(),
        "num_tokens": pa.int32(),
    }
)


def main(config: EvaluateConfig, record: Run) -> None:
    """Sample, grade, count, write."""
    started = time.monotonic()
    check_model(config.model_name_or_path)
    questions = load_questions(config.dataset_name, config=config.dataset_config, split=config.dataset_split)
    questions = questions[: config.num_questions]
    model, tokenizer = load_model(config.model_name_or_path, dtype=config.dtype)
    samples = draw_samples(config, questions, model, tokenizer)
    metrics = count_samples(config, questions, samples)
    write_rows(record.directory / "samples.parquet", samples, SAMPLE_SCHEMA)
    write_json(record.directory / "metrics.json", metrics)
    record.finish(time.monotonic() - started, metrics)
    for name, value in metrics["metrics"].items():
        logger.info("%-12s %.3f [%.3f, %.3f]", name, value["mean"], value["low"], value["high"])


def draw_samples(
    config: EvaluateConfig,
    questions: list[Question],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Rows of `SAMPLE_SCHEMA`, by question and sample."""
    prompts = [prompt_messages(question.question, config.prompt_style) for question in questions]
    settings = SamplingSettings(
        num_samples=config.num_samples,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
    )
    completions = TransformersEngine(model, tokenizer, config.batch_size).sample(prompts, settings, seed=config.seed)
    rows = []
    for completion in tqdm(completions, desc="sampling", unit="sample", total=len(questions) * config.num_samples):
        question = questions[completion.prompt]
        rows.append(
            {
                "question_id": question.id,
                "sample": completion.sample,
                "text": completion.text,
                "num_tokens": completion.num_tokens,
                **asdict(grade(completion.text, question.answer, style=config.prompt_style)),
                "prompt": completion.prompt,
            }
        )
    return sorted(rows, key=lambda row: (row.pop("prompt"), row["sample"]))


def count_samples(config: EvaluateConfig, questions: list[Question], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` holds: a function of the samples and of the seed of the bootstrap."""
    correct = Counter(sample["question_id"] for sample in samples if sample["correct"])
    counts = [correct[question.id] for question in questions]
    return {
        "questions": len(questions),
        "samples_per_question": config.num_samples,
        "formatted": float(np.mean([sample["formatted"] for sample in samples])),
        "mean_tokens": float(np.mean([sample["num_tokens"] for sample in samples])),
        "metrics": summarise(counts, config.num_samples, config.k, np.random.default_rng(config.seed)),
    }


if __name__ == "__main__":
    run(main, EvaluateConfig)
