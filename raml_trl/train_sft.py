r"""Supervised fine-tuning on K trajectories per question, with TRL's `SFTTrainer`.

    python -m raml_trl.train_sft --config recipes/tiny/sft.yaml
    accelerate launch --config_file accelerate_configs/zero3.yaml \
        -m raml_trl.train_sft --config recipes/qwen2.5-7b/sft.yaml

Every field of TRL's `SFTConfig` and `ModelConfig` can stand in the recipe and on the command line. The loss is taken
on the completion only. Started again, it carries on from its last checkpoint.
"""

import logging

from trl import ModelConfig, SFTConfig, SFTTrainer

from raml_trl.arguments import SFTArguments
from raml_trl.command_line import run
from raml_trl.data import choose_trajectories, load_trajectories, sft_rows
from raml_trl.lifecycle import train
from raml_trl.models import check_model
from raml_trl.runs import Run

logger = logging.getLogger(__name__)


def main(data: SFTArguments, config: SFTConfig, model: ModelConfig, record: Run) -> None:
    """Choose the trajectories and train."""
    check_model(model.model_name_or_path)
    questions, trajectories = load_trajectories(data.dataset_name, config=data.dataset_config, split=data.dataset_split)
    chosen = choose_trajectories(questions, trajectories, data.num_trajectories, config.seed)
    logger.info(
        "%d questions, of which %d have a correct trajectory: %d examples of %d distinct trajectories",
        len(questions),
        len({question.id for question, _ in chosen}),
        len(chosen),
        len({(question.id, trajectory.text) for question, trajectory in chosen}),
    )
    train(SFTTrainer, config, model, record, train_dataset=sft_rows(chosen, data.prompt_style))


if __name__ == "__main__":
    run(main, SFTArguments, SFTConfig, ModelConfig, distributed=True)
