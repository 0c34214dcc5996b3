"""Finds out how a model reacts if rows move or padding is trimmed, by running it on a few tokens before training.

The results are called traits; `micro_batches` decides from them whether rows may move. The model runs through the
method that computes TRL's log-probabilities, so an override of this method is taken into account, for example one that
passes position ids. No list of model names is used.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from raml_trl.grpo.row_rules import ModelTraits

logger = logging.getLogger(__name__)

_ROWS, _TOKENS, _PADDING = 8, 8, 5
# Largest differences of log-probabilities, relative to their standard deviation, that count as rounding. Among 28
# architectures with random weights in float32 and bfloat16, rounding gave at most 0.05 for the second token and 0.01
# for the median, and positions that depend on padding gave at least 0.1 for the second token.
_MAX_DIFFERENCE_OF_SECOND_TOKEN, _MAX_MEDIAN_DIFFERENCE = 0.07, 0.04

LogProbs = Callable[[Tensor, Tensor, int], Tensor]
"""Maps `input_ids` `(R, L)`, `attention_mask` `(R, L)` and a number C to log-probs `(R, C)` of the last C tokens."""


class TraitsReader(TrainerCallback):
    """Callback that runs the model on a few tokens when training begins, and passes its traits to the trainer.

    From these traits the trainer decides whether rows may move between micro-batches or be skipped. The callback also
    starts the packing of rows. Nothing is done if no setting needs the traits. When training ends, packing stops.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        trainer = self.trainer
        if not trainer.args.needs_model_traits:
            return
        traits = read_traits(trainer)
        trainer.packing.start(trainer.model, trainer.ref_model, trainer.args, traits)
        with _kept_modes(trainer.model), _kept_random_states(trainer.accelerator.device):
            trainer.model.train()
            trainer.packing.probe(trainer.model, trainer.processing_class, trainer.args)
        for module in trainer.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a forward pass without a backward pass leaves some parameters whole
        trainer.set_model_traits(traits)
        if trainer.accelerator.is_main_process:
            for remark in trainer.args.row_remarks(traits):
                logger.warning("%s", remark)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.trainer.packing.stop("training has ended")


def read_traits(trainer: GRPOTrainer) -> ModelTraits:
    """Return the properties of the trainer's model that decide how its batches may be changed.

    They decide whether rows may move between micro-batches, and whether the padding of a batch may be trimmed. They are
    equal on every process. The model runs on a few tokens; neither its weights nor the state of the random generators
    change.
    """
    accelerator: Accelerator = trainer.accelerator
    model: Any = trainer.model

    def log_probs(input_ids: Tensor, attention_mask: Tensor, num_tokens: int) -> Tensor:
        ids, mask = input_ids.to(accelerator.device), attention_mask.to(accelerator.device)
        logps: Tensor = trainer._get_per_token_logps_and_entropies(model, ids, mask, num_tokens)[0]
        return logps.float().cpu()

    left, right = padded_rows(trainer.processing_class)
    kwargs: Any = trainer.args.gradient_checkpointing_kwargs
    with (
        torch.no_grad(),
        disable_gradient_checkpointing(model, kwargs),
        _kept_modes(model),
        _kept_random_states(accelerator.device),
    ):
        model.train()
        noise = draws_random_numbers(lambda: log_probs(*left, 1), accelerator.device)
        model.eval()
        padding = depends_on_padding(log_probs, left, right)
    prompt_learning = any(part.is_prompt_learning for part in getattr(model, "peft_config", {}).values())
    # Processes can differ by rounding, but must decide alike.
    found = torch.tensor([noise, padding or prompt_learning], device=accelerator.device)
    noise, padding = (accelerator.gather(found.long()).view(-1, 2) > 0).any(dim=0).tolist()
    config = accelerator.unwrap_model(model).config.get_text_config()
    return ModelTraits(
        router_loss=trainer.aux_loss_enabled,
        noise=noise,
        padding=padding,
        width_limit=width_limit(config.to_dict()),
    )


def padded_rows(tokenizer: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the same rows padded on the left, and padded on the right: each time `input_ids` and the attention mask.

    All tensors are `(8, 13)`: 8 rows with 8 tokens and 5 padding tokens each.
    """
    tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer.tokenizer
    special = {*tokenizer.all_special_ids, tokenizer.pad_token_id}
    plain = [token for token in range(len(tokenizer)) if token not in special][: _ROWS * _TOKENS]
    rows = torch.tensor(list(islice(cycle(plain), _ROWS * _TOKENS))).view(_ROWS, _TOKENS)

    def pad(before: int, after: int) -> tuple[Tensor, Tensor]:
        ids = nn.functional.pad(rows, (before, after), value=tokenizer.pad_token_id)
        return ids, nn.functional.pad(torch.ones_like(rows), (before, after))

    return pad(_PADDING, 0), pad(0, _PADDING)


def depends_on_padding(log_probs: LogProbs, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> bool:
    """Return whether padding changes log-probabilities by more than rounding.

    `log_probs` runs the model. `left` and `right` are the same rows with padding on the left and on the right, from
    `padded_rows`. Two differences are checked: the median over all tokens, and the largest over the second tokens of
    the rows. The second token is predicted from the first, which attends only to itself, so rotary positions do not
    influence its log-probability and cause no rounding there.
    """
    ids, mask = (torch.cat(pair) for pair in zip(left, right, strict=True))
    logps = log_probs(ids, mask, ids.size(1) - 1)  # (2 * 8, 12)
    padded, plain = logps[:_ROWS, _PADDING:], logps[_ROWS:, : _TOKENS - 1]
    differences = (padded - plain).abs() / plain.std().clamp_min(torch.finfo(torch.float32).tiny)
    second, median = differences[:, 0].max(), differences.median()
    return bool(second > _MAX_DIFFERENCE_OF_SECOND_TOKEN or median > _MAX_MEDIAN_DIFFERENCE)


def draws_random_numbers(run: Callable[[], object], device: torch.device) -> bool:
    """Return whether `run` draws from torch's generators of the CPU or of `device`."""
    before = _random_states(device)
    run()
    return not all(torch.equal(old, new) for old, new in zip(before, _random_states(device), strict=True))


def width_limit(config: Mapping[str, Any]) -> int | None:
    """Return the width of a batch, in tokens, above which positions depend on padding; None if there is no such width.

    Three ways to extend the context have such a width. With the rotary scalings "dynamic" and "longrope", the
    frequencies depend on the width of the batch once it exceeds a limit. Llama 4 and Ministral 3 scale attention by the
    absolute position.

    Args:
        config: the model's text config as a dictionary.
    """
    rope = config.get("rope_parameters") or {}
    by_layer = [part for part in rope.values() if isinstance(part, Mapping)]
    limits = []
    for part in by_layer or [rope]:
        kind = str(part.get("rope_type", "default"))
        if "dynamic" in kind:
            limits.append(config["max_position_embeddings"])
        if kind == "longrope" or "llama_4_scaling_beta" in part:
            limits.append(part["original_max_position_embeddings"])
    if config.get("attn_temperature_tuning"):
        limits.append(int(config["floor_scale"]))
    return min(limits, default=None)


@contextmanager
def _kept_modes(model: nn.Module) -> Iterator[None]:
    """Restore the training mode of every module after the `with` block."""
    modes = [(module, module.training) for module in model.modules()]
    yield
    for module, training in modes:
        module.training = training


@contextmanager
def _kept_random_states(device: torch.device) -> Iterator[None]:
    """Restore torch's generators of the CPU and of `device` after the `with` block."""
    states = _random_states(device)
    yield
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]
