"""What a training run sends to the Hub: its model, its checkpoints as revisions, its rollouts.

Nothing is kept of what was sent. huggingface_hub compares what is here with what is there, and sends what differs; so
a push that failed is carried on by doing it again, and one that is whole sends nothing.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import RepoUrl
from trl import GRPOConfig, SFTConfig

from raml_trl.hub.client import check_hub_access, open_branch, push_dataset, push_folder
from raml_trl.hub.completion_card import ROLLOUTS, rollouts_card
from raml_trl.hub.model_card import CARD, name_repo
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import whole_file
from raml_trl.runtime.runs import Run, is_first_process
from raml_trl.sampling.loading import shown_name
from raml_trl.training.checkpoints import find_checkpoints, find_fault

logger = logging.getLogger(__name__)

# As transformers pushes in training; and files that are not whole.
_NOT_MODEL = ("_*", "checkpoint-*", ".*", "*.partial")
# Weights of an earlier model, in other shards, must not stay beside these.
_WEIGHTS = ("model*.safetensors*", "adapter_model*", "pytorch_model*")
# Of a checkpoint: weights, configuration, tokenizer, card, log; not what only serves to train on.
_LOADABLE = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", CARD)
_NOT_LOADABLE = ("global_step*", "zero_to_fp32.py", ".*")


def check_push(config: SFTConfig | GRPOConfig, *, revisions: bool) -> None:
    """Find out before training whether its results can be pushed.

    Of the processes of a launch the first asks; if it is refused, the launcher ends the others.

    Args:
        revisions: whether checkpoints are to be revisions.

    Raises:
        InputError: if they cannot be, or a token stands in the settings, from where it would be saved and pushed.
    """
    _refuse_tokens(config)
    if revisions and not config.push_to_hub:
        raise InputError("hub_revisions is on and push_to_hub is not: revisions are of the repository of the model")
    rollouts = _rollouts_id(config)
    if rollouts is not None and "/" not in rollouts:
        raise InputError(f"log_completions_hub_repo is {rollouts}: TRL needs it with its namespace, as USER/{rollouts}")
    if not is_first_process():
        return
    if rollouts is not None:
        check_hub_access(rollouts, private=config.hub_private_repo)
    if config.push_to_hub:
        _open_model(config)


def push_run(
    config: SFTConfig | GRPOConfig, record: Run, *, revisions: bool, choice: Mapping[str, object] | None = None
) -> list[str]:
    """Push what a complete run has made, as far as `config` asks for it.

    Args:
        revisions: whether every checkpoint that is here is to be one.
        choice: how rollouts were chosen, by name, for their card.

    Returns:
        The URLs of where it is.

    Raises:
        InputError: if it cannot be pushed; of the run at most the card has changed, which names the repository by then,
            and the same command tries again.
    """
    _refuse_tokens(config)
    urls = []
    rollouts = _rollouts_id(config)
    if rollouts is not None and any((record.directory / "completions").glob(ROLLOUTS)):
        urls.append(_push_rollouts(rollouts, record, private=config.hub_private_repo, choice=choice or {}))
    if config.push_to_hub:
        url = _open_model(config)
        checkpoints = sorted(find_checkpoints(record.directory).items()) if revisions else []
        for step, checkpoint in checkpoints:
            fault = find_fault(checkpoint)
            if fault is None:
                push_checkpoint(checkpoint, url.repo_id, step)
            else:
                logger.warning("%s is not pushed: it was cut short (%s)", checkpoint, fault)
        name_repo(record.directory / CARD, url.repo_id)
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
    """Make a checkpoint a revision of the repository of its model: what `from_pretrained` takes, and its card.

    Args:
        repo_id: with its namespace.
        step: that the checkpoint is of.

    Raises:
        InputError: if it cannot be pushed, or holds no weights that `from_pretrained` could take.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise InputError(
            f"{checkpoint} has no weights that can be loaded, only the parts of each process: have the launcher save "
            "the full state, as in accelerate_configs/, or set hub_revisions to false"
        )
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


def revision(step: int) -> str:
    """The name of the revision that holds the checkpoint of a step."""
    return f"step-{step}"


def _open_model(config: SFTConfig | GRPOConfig) -> RepoUrl:
    # The name that transformers takes where none is given.
    url = check_hub_access(
        config.hub_model_id or Path(str(config.output_dir)).absolute().name,
        private=config.hub_private_repo,
        repo_type="model",
    )
    if config.hub_revision is not None:
        open_branch(url.repo_id, config.hub_revision)
    return url


def _push_rollouts(name: str, record: Run, *, private: bool | None, choice: Mapping[str, object]) -> str:
    directory, model = record.directory / "completions", str(record.record["settings"].get("model_name_or_path"))
    repo_id = check_hub_access(name, private=private).repo_id
    card = rollouts_card(repo_id, directory, model=shown_name(model), settings=choice, record=record.record)
    with whole_file(directory / CARD) as partial:
        partial.write_text(card, encoding="utf-8")
    return push_dataset(directory, repo_id, private=private, patterns=[CARD, ROLLOUTS], message="End of training")


def _rollouts_id(config: SFTConfig | GRPOConfig) -> str | None:
    """Where TRL, too, pushes the completions that it logs."""
    return config.log_completions_hub_repo if isinstance(config, GRPOConfig) else None


def _refuse_tokens(config: SFTConfig | GRPOConfig) -> None:
    # transformers keeps all settings in training_args.bin, and pushes that with the model.
    given = config.model_init_kwargs
    for name, value in (
        ("hub_token", config.hub_token),
        ("token in model_init_kwargs", given.get("token") if isinstance(given, dict) else None),
    ):
        if isinstance(value, str):
            raise InputError(
                f"{name} stands in the settings, which are saved and pushed with the model: leave it out, and log in "
                "with `hf auth login` or set HF_TOKEN"
            )
