"""Pushes the results of a training run to the Hub: the model, its checkpoints and its rollouts.

A checkpoint is pushed as a revision of the model, a branch such as `step-200`. No record is kept of past pushes,
because huggingface_hub compares local files with the repository and sends only the differences. So repeating a failed
push continues it, and repeating a complete push sends nothing.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import RepoUrl
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, SFTConfig

from raml_trl.hub.card_parts import CARD, recipe, write_card
from raml_trl.hub.client import check_hub_access, open_branch, push_dataset, push_folder
from raml_trl.hub.completion_card import ROLLOUTS, rollouts_card
from raml_trl.hub.model_card import is_complete_card, name_repo, note_step
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.sampling.loading import shown_name
from raml_trl.training.completeness import find_checkpoints, find_fault
from raml_trl.training.manifest import MANIFEST

logger = logging.getLogger(__name__)

# Files of a run that do not belong to the model: those that transformers does not push in training, and partial files.
_NOT_MODEL = ("_*", "checkpoint-*", ".*", "*.partial")
# Weight files. A push deletes those on the Hub that it does not replace, such as shards of an earlier, larger model.
_WEIGHTS = ("model*.safetensors*", "adapter_model*", "pytorch_model*")
# The files of a checkpoint to push: weights, configuration, tokenizer, card and log, but not the optimizer state.
_LOADABLE = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", CARD)
_NOT_LOADABLE = ("global_step*", "zero_to_fp32.py", MANIFEST, ".*")


def check_push(config: SFTConfig | GRPOConfig, *, revisions: bool) -> None:
    """Check before training that the results can be pushed to the Hub.

    Only the first process of a launch asks the Hub. If that process fails, the launcher ends the other processes.

    Args:
        config: the settings of the trainer.
        revisions: whether to push checkpoints as revisions.

    Raises:
        InputError: if the results cannot be pushed, or the settings contain an access token, which would be saved
            and pushed.
    """
    _refuse_tokens(config)
    if revisions and not config.push_to_hub:
        raise InputError(
            "hub_revisions is true but push_to_hub is false: set push_to_hub to true, since revisions belong to the "
            "repository of the model"
        )
    rollouts = _rollouts_id(config)
    if rollouts is not None and "/" not in rollouts:
        raise InputError(f"log_completions_hub_repo is {rollouts}: TRL needs the namespace too, as in USER/{rollouts}")
    if not is_first_process():
        return
    if rollouts is not None:
        check_hub_access(rollouts, private=config.hub_private_repo)
    if config.push_to_hub:
        _open_model(config)


def push_run(
    config: SFTConfig | GRPOConfig, record: Run, *, revisions: bool, choice: Mapping[str, object] | None = None
) -> list[str]:
    """Push to the Hub those results of a complete run that `config` asks to push.

    Args:
        config: the settings of the trainer.
        record: the record of the run.
        revisions: whether to push each checkpoint in the directory of the run as a revision.
        choice: the settings of the rollout selection, for the card of the rollouts.

    Returns:
        The URLs of the repositories.

    Raises:
        InputError: if a push fails. Running the same command again repeats the push. A failed push changes no local
            file, except that the model card may already name the repository.
    """
    _refuse_tokens(config)
    urls = []
    rollouts = _rollouts_id(config)
    if rollouts is not None and any((record.directory / "completions").glob(ROLLOUTS)):
        urls.append(_push_rollouts(rollouts, record, private=config.hub_private_repo, choice=choice or {}))
    if config.push_to_hub:
        url = _open_model(config)
        name_repo(record.directory / CARD, url.repo_id)  # first, because checkpoints may get a copy
        checkpoints = sorted(find_checkpoints(record.directory).items()) if revisions else []
        for step, checkpoint in checkpoints:
            fault = find_fault(checkpoint)
            if fault is None:
                push_checkpoint(checkpoint, url.repo_id, step)
            else:
                logger.warning("%s is incomplete (%s) and is not pushed", checkpoint, fault.text)
        push_folder(
            record.directory,
            url.repo_id,
            repo_type="model",
            ignored=_NOT_MODEL,
            replaced=_WEIGHTS,
            branch=config.hub_revision,
            message="End of training",
        )
        urls.append(str(url))
    return urls


def push_checkpoint(checkpoint: Path, repo_id: str, step: int) -> None:
    """Push a checkpoint as a revision of its model: the files that `from_pretrained` reads, and the card.

    Args:
        checkpoint: the directory of the checkpoint.
        repo_id: the repository of the model, with its namespace.
        step: the optimizer step of the checkpoint.

    Raises:
        InputError: if the push fails, or the checkpoint has no weights that `from_pretrained` could load.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise InputError(
            f"{checkpoint} has no weights that can be loaded, only the shards of each process: have the launcher save "
            "the full state, as in accelerate_configs/, or set hub_revisions to false"
        )
    if is_complete_card(checkpoint / CARD):
        name_repo(checkpoint / CARD, repo_id)
    else:  # the run was killed after it had saved the checkpoint, or was not pushed before its end
        _add_card(checkpoint)
        note_step(checkpoint / CARD, step)
    branch = revision(step)
    open_branch(repo_id, branch)
    push_folder(
        checkpoint,
        repo_id,
        repo_type="model",
        patterns=_LOADABLE,
        ignored=_NOT_LOADABLE,
        replaced=["*"],
        branch=branch,
        message=f"Step {step}",
    )


def _add_card(checkpoint: Path) -> None:
    """Copy the card of the run into one of its checkpoints."""
    with whole_file(checkpoint / CARD) as partial:
        partial.write_bytes((checkpoint.parent / CARD).read_bytes())


def revision(step: int) -> str:
    """Return the name of the revision that holds the checkpoint of a step."""
    return f"step-{step}"


class RevisionPusher(TrainerCallback):
    """Pushes every checkpoint as a revision when it is saved, before `save_total_limit` removes it.

    If a push fails, a warning is logged. The push is tried again when the next checkpoint is saved, and once more by
    `push_run` at the end of the run, provided that the checkpoint still exists.
    """

    def __init__(self, repo_id: str | None) -> None:
        self.repo_id = repo_id  # None on the processes that do not push
        self.pushed: set[int] = set()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.repo_id is None:
            return
        directory, current = Path(str(args.output_dir)), state.global_step
        checkpoints = find_checkpoints(directory)
        _add_card(checkpoints[current])
        # The current checkpoint may lack files that other processes are still writing. Such files are never pushed.
        complete = {step for step, path in checkpoints.items() if step == current or find_fault(path) is None}
        for step in sorted(complete - self.pushed):
            try:
                push_checkpoint(checkpoints[step], self.repo_id, step)
            except InputError as error:
                logger.warning("%s is not pushed yet: %s", checkpoints[step], error)
                return  # the next push would fail too
            self.pushed.add(step)


def _open_model(config: SFTConfig | GRPOConfig) -> RepoUrl:
    # Without `hub_model_id`, use the name of the output directory, as transformers does.
    url = check_hub_access(
        config.hub_model_id or Path(str(config.output_dir)).absolute().name,
        private=config.hub_private_repo,
        repo_type="model",
    )
    if config.hub_revision is not None:
        open_branch(url.repo_id, config.hub_revision)
    return url


def _push_rollouts(name: str, record: Run, *, private: bool | None, choice: Mapping[str, object]) -> str:
    directory, settings = record.directory / "completions", record.record["settings"]
    repo_id = check_hub_access(name, private=private).repo_id
    model = shown_name(str(settings.get("model_name_or_path")))
    made_by = recipe(record.record["command"], settings)
    write_card(directory / CARD, rollouts_card(repo_id, directory, model=model, settings=choice, recipe=made_by))
    return push_dataset(directory, repo_id, private=private, patterns=[CARD, ROLLOUTS], message="End of training")


def _rollouts_id(config: SFTConfig | GRPOConfig) -> str | None:
    """Return the name of the dataset repository to which TRL pushes the rollouts that it logs; None if it is unset."""
    return config.log_completions_hub_repo if isinstance(config, GRPOConfig) else None


def _refuse_tokens(config: SFTConfig | GRPOConfig) -> None:
    # transformers saves all settings in training_args.bin, which it pushes with the model.
    model_init_kwargs = config.model_init_kwargs
    for name, value in (
        ("hub_token", config.hub_token),
        ("token in model_init_kwargs", model_init_kwargs.get("token") if isinstance(model_init_kwargs, dict) else None),
    ):
        if isinstance(value, str):
            raise InputError(
                f"{name} is set, and all settings are saved and pushed with the model: remove it, and log in with "
                "`hf auth login` or set HF_TOKEN"
            )
