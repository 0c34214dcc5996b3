"""TRL's `SFTTrainer` on examples that are tokenised already; a run that is cut off logs what the whole run logs.

Nothing of its loss or its steps is changed.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTConfig, SFTTrainer

from raml_trl.hub.trajectory_card import PAPER
from raml_trl.runtime.errors import InputError
from raml_trl.sft.examples import Choice
from raml_trl.training.checkpoints import log_state, read_progress, restore_log, write_progress
from raml_trl.training.evaluation import SampledEvaluation
from raml_trl.training.hub_mixin import HubTrainer


def check_sft(config: SFTConfig) -> None:
    """Refuse what would train on something else than the examples chosen.

    Raises:
        InputError: naming the field and what to choose instead.
    """
    if config.packing and config.packing_strategy == "wrapped":
        raise InputError(
            "packing_strategy wrapped lets a trajectory attend to its neighbours: choose bfd, which keeps them apart"
        )
    if config.packing and config.max_length is None:
        raise InputError("packing needs max_length: the tokens of a pack")
    if config.assistant_only_loss:
        raise InputError("assistant_only_loss is on, but the loss is on the completion already: turn it off")
    template = config.chat_template_path
    if template is not None and not (Path(template).is_file() and template.endswith((".jinja", ".j2"))):
        raise InputError(f"chat_template_path {template} must be a .jinja file that is there")


def take_prepared(config: SFTConfig) -> None:
    """Have TRL take the examples as they are: tokenised, and none longer than `max_length`."""
    # RaML: TRL need not read them all again; to pack them it does, and then `max_length` is that of a pack.
    given: Any = config.dataset_kwargs or {}
    config.dataset_kwargs = given | {"skip_prepare_dataset": not config.packing}
    if not config.packing:
        config.max_length = None


class TrajectorySFTTrainer(HubTrainer, SampledEvaluation, SFTTrainer):
    """`SFTTrainer`, of which a checkpoint keeps what is not yet logged; `choice` of trajectories is for the card."""

    _tag_names = ["trl", "sft", "raml"]
    _name = "Trajectory SFT"
    _paper = PAPER

    def __init__(self, *args: Any, choice: Choice | None = None, **named: Any) -> None:
        self._choice = choice
        super().__init__(*args, **named)

    @property
    def choice(self) -> dict[str, object]:
        return {} if self._choice is None else asdict(self._choice)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "length" not in columns:
            # RaML: so that batches by length find it, instead of decoding the whole data set to measure it.
            columns.append("length")

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[Any] | None:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, BatchRebalanceSampler):
            # RaML: transformers leaves it at a constant, so that all seeds would see the data in one order.
            sampler.seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return sampler

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # RaML: written by every process, and before the file that marks a checkpoint whole.
        progress = {"num_processes": self.accelerator.num_processes, "tokens": self._total_train_tokens}
        write_progress(Path(output_dir), progress | log_state(self), self.accelerator.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        process: Any = self.accelerator
        progress = read_progress(Path(checkpoint), process.process_index, process.num_processes)
        if progress is not None:
            self._total_train_tokens = progress["tokens"]
            restore_log(self, progress)
