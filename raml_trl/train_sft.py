r"""Supervised fine-tuning on K trajectories per question, with TRL's `SFTTrainer`.

    python -m raml_trl.train_sft --config recipes/tiny/demo/sft.yaml
    accelerate launch --config_file accelerate_configs/zero3.yaml \
        -m raml_trl.train_sft --config recipes/qwen2.5-7b/sft.yaml

Every field of TRL's `SFTConfig` and `ModelConfig` can stand in the recipe and on the command line. The loss is taken
on the completion only, unless `completion_only_loss` is turned off. Started again, it carries on from its last
checkpoint; complete, it is pushed if `push_to_hub` says so and the Hub has not all of it.
"""

import logging
from dataclasses import asdict
from pathlib import Path

from trl import ModelConfig, SFTConfig

from raml_trl.data.reading import open_data
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import Run
from raml_trl.sampling.loading import check_model, load_tokenizer
from raml_trl.sft.config import SFTArguments
from raml_trl.sft.examples import Choice, build_examples, describe, evaluation_rows
from raml_trl.sft.trainer import TrajectorySFTTrainer, check_sft, take_prepared
from raml_trl.training.dashboards import check_dashboards
from raml_trl.training.evaluation import read_evaluation
from raml_trl.training.publishing import check_push, push_run
from raml_trl.training.run import train

logger = logging.getLogger(__name__)


def main(data: SFTArguments, config: SFTConfig, model: ModelConfig, record: Run) -> None:
    """Choose the trajectories and train."""
    check_sft(config)
    check_dashboards(config)
    check_push(config, revisions=data.hub_revisions)
    evaluation = read_evaluation(data, config)
    tokenizer = load_tokenizer(check_model(model.model_name_or_path), revision=model.model_revision)
    if config.chat_template_path is not None:
        tokenizer.chat_template = Path(config.chat_template_path).read_text(encoding="utf-8")
    table = open_data(data)
    choice = Choice(
        num_trajectories=data.num_trajectories,
        trajectory_order=data.trajectory_order,
        length_bin=data.length_bin,
        question_weight=data.question_weight,
        repeat_to_fill=data.repeat_to_fill,
        overlong=data.overlong,
        prompt_style=data.prompt_style,
        max_length=config.max_length,
        completion_only=config.completion_only_loss is not False,
        seed=config.seed,
    )
    examples, counts = build_examples(table, tokenizer, choice, num_proc=config.dataset_num_proc)
    logger.info("%s", describe(counts, choice))
    take_prepared(config)
    train(
        TrajectorySFTTrainer,
        config,
        model,
        record,
        revisions=data.hub_revisions,
        results={"data": asdict(counts)},
        choice=choice,
        train_dataset=examples,
        # Not read by `SampledEvaluation`, but transformers refuses to evaluate without an eval_dataset.
        eval_dataset=evaluation and evaluation_rows(evaluation.questions, evaluation.prompt_style, tokenizer),
        sampled_evaluation=evaluation,
    )


def publish(data: SFTArguments, config: SFTConfig, model: ModelConfig, record: Run) -> list[str]:
    """Push the complete run, if asked to."""
    return push_run(config, record, revisions=data.hub_revisions)


if __name__ == "__main__":
    run(main, SFTArguments, SFTConfig, ModelConfig, distributed=True, publish=publish)
