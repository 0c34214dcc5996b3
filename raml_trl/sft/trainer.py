"""Trains with TRL's `SFTTrainer` on examples that are already tokenised.

The loss and the optimizer steps are TRL's. A resumed run logs the same metrics as an uninterrupted one.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTConfig, SFTTrainer

from raml_trl.hub.card_parts import PAPER
from raml_trl.hub.model_card import Prompt
from raml_trl.runtime.errors import InputError
from raml_trl.sft.choosing import Choice
from raml_trl.training.checkpoints import ResumableTrainer
from raml_trl.training.completeness import Progress
from raml_trl.training.evaluation import SampledEvaluation
from raml_trl.training.hub_mixin import HubTrainer


def check_sft(config: SFTConfig) -> None:
    """Reject settings that would train on something other than the chosen examples.

    Raises:
        InputError: if there is such a setting. The message names the value to use instead.
    """
    if config.packing and config.packing_strategy == "wrapped":
        raise InputError(
            "packing_strategy wrapped lets a trajectory attend to others in its pack: use bfd, which separates them"
        )
    if config.packing and config.max_length is None:
        raise InputError("packing needs max_length, the number of tokens in a pack: set it")
    if config.assistant_only_loss:
        raise InputError("assistant_only_loss is on, but the loss is already on the completion only: turn it off")
    template = config.chat_template_path
    if template is not None and not (Path(template).is_file() and template.endswith((".jinja", ".j2"))):
        raise InputError(f"chat_template_path {template} must be an existing .jinja file")


def take_prepared(config: SFTConfig) -> None:
    """Change `config` so that TRL does not prepare our examples, which are tokenised and within `max_length` already.

    With `packing`, TRL still prepares them, because this step packs them.
    """
    # RaML: skip TRL's preparation, which reads all examples. Only packing needs it, with `max_length` tokens in a pack.
    options: Any = config.dataset_kwargs or {}
    config.dataset_kwargs = options | {"skip_prepare_dataset": not config.packing}
    if not config.packing:
        config.max_length = None


class TrajectorySFTTrainer(HubTrainer, SampledEvaluation, ResumableTrainer, SFTTrainer):
    """TRL's `SFTTrainer` with our evaluation on graded samples and our model card.

    Its checkpoints also hold the metrics that were gathered since the last log entry, so a resumed run logs the same
    metrics as an uninterrupted one.

    Args:
        choice: how the trajectories were chosen, for the model card.
        example: a prompt of the training data, for the model card.
    """

    _tag_names = ["trl", "sft", "raml"]
    _name = "Trajectory SFT"
    _paper = PAPER

    def __init__(self, *args: Any, choice: Choice | None = None, example: Prompt | None = None, **kwargs: Any) -> None:
        self._choice, self._example = choice, example
        super().__init__(*args, **kwargs)

    @property
    def choice(self) -> dict[str, object]:
        return {} if self._choice is None else asdict(self._choice)

    @property
    def longest_completion(self) -> int | None:
        """The most tokens of a trajectory with its prompt; None if there is no limit."""
        args: Any = self.args
        return args.max_length if self._choice is None else self._choice.max_length

    @property
    def example_prompt(self) -> Prompt | None:
        return self._example

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "length" not in columns:
            # RaML: samplers that group by length read this column, instead of decoding the complete dataset.
            columns.append("length")

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[Any] | None:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, BatchRebalanceSampler):
            # RaML: transformers uses a constant seed here, so every seed would see the data in the same order.
            sampler.seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return sampler

    def _progress(self) -> Progress:
        return super()._progress() | {"tokens": self._total_train_tokens}

    def _restore_progress(self, progress: Progress) -> None:
        super()._restore_progress(progress)
        self._total_train_tokens = progress["tokens"]
