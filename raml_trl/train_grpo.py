r"""Trains with GRPO on m of G rollouts per question, with `SubsetGRPOTrainer`.

    raml-trl train_grpo recipes/tiny/demo/grpo.yaml
    accelerate launch --config_file accelerate_configs/zero3.yaml \
        -m raml_trl.train_grpo --config recipes/qwen2.5-7b/grpo.yaml

The recipe and the command line accept every field of TRL's `GRPOConfig` and `ModelConfig`. The same command resumes an
interrupted run from its last checkpoint. If `push_to_hub` is true and the run is complete, the command pushes the files
that the Hub does not have yet.

The reward is the paper's (eq. 21), unless `reward_funcs` names other functions.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl import ModelConfig

from raml_trl.data.reading import open_data, question_texts
from raml_trl.data.tables import DataTable
from raml_trl.grpo.config import CheckedGRPOConfig, SubsetGRPOConfig
from raml_trl.grpo.dataset import GRPOArguments, check_number, evaluation_rows, grpo_rows
from raml_trl.grpo.ledger import summary_lines
from raml_trl.grpo.rewards import checked_reward, find_rewards, make_reward
from raml_trl.grpo.trainer import SubsetGRPOTrainer
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import Problems, count_of
from raml_trl.runtime.files import write_json
from raml_trl.runtime.history import RunSummary
from raml_trl.runtime.runs import Run, process_share
from raml_trl.sampling.loading import check_chat, check_model, check_text_model, load_tokenizer
from raml_trl.sampling.lost_characters import warn_of_lost_characters
from raml_trl.sampling.preview import describe_inputs
from raml_trl.sampling.vllm_engine import check_vllm
from raml_trl.training.adapters import check_adapter
from raml_trl.training.config import CheckedModelConfig
from raml_trl.training.dashboards import check_dashboards
from raml_trl.training.evaluation import Evaluation, read_evaluation
from raml_trl.training.publishing import check_push, push_run
from raml_trl.training.run import describe_length, train

logger = logging.getLogger(__name__)


def main(data: GRPOArguments, config: SubsetGRPOConfig, model: ModelConfig, record: Run) -> None:
    """Read the questions and train. `record` is the run in `output_dir`."""
    name, tokenizer, table, evaluation = open_inputs(data, config, model)
    check_push(config, revisions=data.hub_revisions)
    warn_of_lost_characters(tokenizer, question_texts(table), data.prompt_style, model=name)
    rows = grpo_rows(table, data.prompt_style)
    check_number(rows, config, table.name)
    train(
        SubsetGRPOTrainer,
        config,
        model,
        record,
        starting_adapter=data.starting_adapter,
        revisions=data.hub_revisions,
        summarize=summarize,
        reward_funcs=[
            make_reward(data.prompt_style) if function is None else checked_reward(name, function)
            for name, function in find_rewards(data.reward_funcs, config.reward_weights).items()
        ],
        train_dataset=rows,
        # `SampledEvaluation` does not read this, but transformers refuses to evaluate without an eval_dataset.
        eval_dataset=evaluation and evaluation_rows(evaluation.questions, evaluation.prompt_style),
        sampled_evaluation=evaluation,
    )


def open_inputs(
    data: GRPOArguments, config: SubsetGRPOConfig, model: ModelConfig
) -> tuple[str, PreTrainedTokenizerBase, DataTable, Evaluation | None]:
    """Return the name of the model, its tokenizer, the questions to train on, and the evaluation during training.

    Raises:
        InputErrors: if the model, the data or the settings of the evaluation cannot be used, or vLLM or a dashboard is
            missing. It holds all problems that were found.
    """
    problems = Problems()
    with problems.collected():
        if config.use_vllm:
            check_vllm("use_vllm: false")
    with problems.collected():
        find_rewards(data.reward_funcs, config.reward_weights)
    with problems.collected():
        table = open_data(data)
    with problems.collected():
        evaluation = read_evaluation(data, config, config.max_completion_length)
    with problems.collected():
        check_dashboards(config)
    with problems.collected():
        name = check_model(model.model_name_or_path)
        check_adapter(name, data.starting_adapter, use_peft=model.use_peft)
        tokenizer = check_chat(load_tokenizer(name, revision=model.model_revision), data.prompt_style, name)
        if data.eval_data is not None:
            check_text_model(name, "eval_data")
    problems.check()
    return name, tokenizer, table, evaluation


def preview(data: GRPOArguments, config: SubsetGRPOConfig, model: ModelConfig) -> Iterator[dict[str, str]]:
    """Check the inputs as `open_inputs` does, and yield texts that describe the training, by label, for a dry run.

    Whether the results can be pushed to the Hub is not checked.
    """
    rollouts, group = config.generation_batch_size, config.num_generations
    assert rollouts is not None  # set by TRL
    assert group is not None
    selected = config.num_generations_update or group
    processes = process_share()[1]
    weights = config.reward_weights or [1.0] * len(data.reward_funcs)
    questions = count_of(rollouts // group, "question")
    yield {
        "generation": f"{rollouts} rollouts, {group} for each of {questions}, processes: {processes}",
        "update": f"{selected} of {group} rollouts, selection {config.selection}, loss {config.loss_type}",
        "reward": ", ".join(f"{weight:g} x {name}" for name, weight in zip(data.reward_funcs, weights, strict=False)),
        "length": describe_length(config),
    }
    name, tokenizer, table, evaluation = open_inputs(data, config, model)
    evaluated = "none" if evaluation is None else f"{data.eval_data}, {count_of(len(evaluation.questions), 'question')}"
    yield {**describe_inputs(name, tokenizer, table, data.prompt_style), "evaluation": evaluated}


def summarize(trainer: SubsetGRPOTrainer) -> RunSummary:
    """Log the time, rollouts and tokens that the run spent, and return them for `summary.json`.

    If the setting `question_selection` or `refill` chose questions, write statistics of each question to
    `questions.json`.
    """
    table = trainer.question_table
    spent = trainer.summary()
    if trainer.is_world_process_zero():
        if table is not None:
            write_json(Path(str(trainer.args.output_dir)) / "questions.json", table)
        logger.info("%s", summary_lines(spent))
    return spent


def publish(data: GRPOArguments, config: SubsetGRPOConfig, model: ModelConfig, record: Run) -> list[str]:
    """Push the model of a finished run to the Hub if the settings ask for it, and return the URLs of the pushes."""
    return push_run(config, record, revisions=data.hub_revisions, choice=config.choice)


if __name__ == "__main__":
    run(main, GRPOArguments, CheckedGRPOConfig, CheckedModelConfig, distributed=True, publish=publish, preview=preview)
