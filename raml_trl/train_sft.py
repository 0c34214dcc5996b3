r"""Trains with supervised fine-tuning on K trajectories per question, with TRL's `SFTTrainer`.

    raml-trl train_sft recipes/tiny/demo/sft.yaml
    accelerate launch --config_file accelerate_configs/zero3.yaml \
        -m raml_trl.train_sft --config recipes/qwen2.5-7b/sft.yaml

The recipe and the command line accept every field of TRL's `SFTConfig` and `ModelConfig`. The loss is on the completion
only, unless `completion_only_loss` is false. The same command resumes an interrupted run from its last checkpoint. If
`push_to_hub` is true and the run is complete, the command pushes the files that the Hub does not have yet.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig

from raml_trl.data.reading import open_data, question_texts, stream_tasks
from raml_trl.data.tables import DataTable
from raml_trl.prompts import prompt_messages
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError, Problems, count_of
from raml_trl.runtime.runs import Run, process_share
from raml_trl.sampling.loading import check_chat, check_model, load_tokenizer
from raml_trl.sampling.lost_characters import warn_of_lost_characters
from raml_trl.sampling.preview import describe_inputs
from raml_trl.sft.config import CheckedSFTConfig, SFTArguments
from raml_trl.sft.examples import build_examples, describe, evaluation_rows
from raml_trl.sft.trainer import TrajectorySFTTrainer, check_sft, take_prepared
from raml_trl.training.adapters import check_adapter
from raml_trl.training.config import CheckedModelConfig
from raml_trl.training.dashboards import check_dashboards
from raml_trl.training.evaluation import Evaluation, read_evaluation
from raml_trl.training.publishing import check_push, push_run
from raml_trl.training.run import describe_length, train

logger = logging.getLogger(__name__)


def main(options: SFTArguments, config: SFTConfig, model: ModelConfig, record: Run) -> None:
    """Choose the trajectories and train. `record` is the run in `output_dir`."""
    name, tokenizer, table, evaluation = open_inputs(options, config, model)
    check_push(config, revisions=options.hub_revisions)
    warn_of_lost_characters(tokenizer, question_texts(table), options.prompt_style, model=name)
    choice = options.choice(config)
    examples, counts = build_examples(table, tokenizer, choice, num_proc=config.dataset_num_proc)
    logger.info("%s", describe(counts, choice))
    take_prepared(config)
    train(
        TrajectorySFTTrainer,
        config,
        model,
        record,
        starting_adapter=options.starting_adapter,
        revisions=options.hub_revisions,
        results={"data": asdict(counts)},
        choice=choice,
        example=prompt_messages(next(stream_tasks(table)).question.question, options.prompt_style),
        train_dataset=examples,
        # `SampledEvaluation` does not read this, but transformers refuses to evaluate without an eval_dataset.
        eval_dataset=evaluation and evaluation_rows(evaluation.questions, evaluation.prompt_style, tokenizer),
        sampled_evaluation=evaluation,
    )


def open_inputs(
    options: SFTArguments, config: SFTConfig, model: ModelConfig
) -> tuple[str, PreTrainedTokenizerBase, DataTable, Evaluation | None]:
    """Return the name of the model, its tokenizer, the trajectories to train on, and the evaluation during training.

    Raises:
        InputErrors: if the model, the data or the settings cannot be used, or a dashboard is missing. It holds all
            problems that were found.
    """
    problems = Problems()
    with problems.collected():
        check_sft(config)
    with problems.collected():
        table = open_data(options)
    with problems.collected():
        evaluation = read_evaluation(options, config)
    with problems.collected():
        check_dashboards(config)
    with problems.collected():
        name = check_model(model.model_name_or_path)
        check_adapter(name, options.starting_adapter, use_peft=model.use_peft)
        tokenizer = load_tokenizer(name, revision=model.model_revision)
        if config.chat_template_path is not None:
            tokenizer.chat_template = Path(config.chat_template_path).read_text(encoding="utf-8")
        if config.eos_token is not None:  # TRL sets it after the examples are tokenised
            if config.eos_token not in tokenizer.get_vocab():
                raise InputError(f"eos_token is {config.eos_token!r}, but the tokenizer of {name} has no such token")
            tokenizer.eos_token = config.eos_token
        check_chat(tokenizer, options.prompt_style, name)
    problems.check()
    return name, tokenizer, table, evaluation


def preview(options: SFTArguments, config: SFTConfig, model: ModelConfig) -> Iterator[dict[str, str]]:
    """Check the inputs as `open_inputs` does, and yield texts that describe the training, by label, for a dry run.

    Whether the results can be pushed to the Hub is not checked.
    """
    processes = process_share()[1]
    examples = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    number = options.num_trajectories
    yield {
        "trajectories": f"{'all' if number is None else f'at most {number}'} correct ones of a question",
        "step": f"{examples} examples of at most {config.max_length} tokens, processes: {processes}",
        "length": describe_length(config),
    }
    name, tokenizer, table, evaluation = open_inputs(options, config, model)
    evaluated = "none"
    if evaluation is not None:
        evaluated = f"{options.eval_data}, {count_of(len(evaluation.questions), 'question')}"
    yield {**describe_inputs(name, tokenizer, table, options.prompt_style, graded=False), "evaluation": evaluated}


def publish(options: SFTArguments, config: SFTConfig, model: ModelConfig, record: Run) -> list[str]:
    """Push the model of a finished run to the Hub if the settings ask for it, and return the URLs of the pushes."""
    return push_run(config, record, revisions=options.hub_revisions)


if __name__ == "__main__":
    run(main, SFTArguments, CheckedSFTConfig, CheckedModelConfig, distributed=True, publish=publish, preview=preview)
