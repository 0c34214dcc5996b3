"""Calls a model with packed rows in place of the padded batch that TRL passes to it.

TRL's method that computes log-probabilities calls a function instead of the model, and gets what the model would have
returned. Rows are packed only while this is exact: `support.find_obstacle` lists the models for which it is not. Three
checks compute the same rows with and without packing: on a few rows before training, on the first batch with gradient,
and on the first batch without gradient. If the results of a check differ by more than rounding, rows are no longer
packed.

Shapes: N rows padded to S tokens; T tokens in the packed row, of which L are in branches.
"""

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, is_peft_model
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from transformers import PreTrainedModel

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.model_traits import padded_rows
from raml_trl.grpo.packing.attention import choose_backend, find_backend_obstacle, register
from raml_trl.grpo.packing.layout import Layout, PackedRows, is_layout, pack_rows
from raml_trl.grpo.packing.self_check import FAILED, Difference, measure_difference
from raml_trl.grpo.packing.support import find_obstacle
from raml_trl.grpo.row_rules import ModelTraits
from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

# What a model raises on a mask that it does not expect. If the reason is another, the plain rows raise it again.
_ERRORS_OF_MODELS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_INPUTS = {"input_ids", "attention_mask", "labels", "fused_lm_head"}


class PackedModel:
    """Packs the rows of every batch, if that is exact, and runs a model on the packed row.

    Attributes:
        obstacle: the reason why rows are not packed; None if they are packed.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.obstacle: str | None = "training has not begun"
        self._restore: list[Callable[[], None]] = []
        self._dtype = torch.float32
        self._checked: set[bool] = set()  # with and without gradient

    def start(self, model: nn.Module, ref_model: nn.Module | None, args: SubsetGRPOConfig, traits: ModelTraits) -> None:
        """Begin to pack rows, unless the settings, the model or its traits forbid it.

        Args:
            model: the model that trains.
            ref_model: the reference model if it is separate from `model`, otherwise None.
            args: the config of the trainer.
            traits: the traits of the model that trains.

        Raises:
            InputError: if rows cannot be packed, but `shared_prompts` names a backend, or `max_tokens_per_micro_batch`
                is set.
        """
        self.stop("shared_prompts is off")
        setting = args.shared_prompts
        if setting == "off":
            return
        models = [self._unwrap(each) for each in (model, ref_model) if each is not None]
        obstacle = find_obstacle(models[0], traits)
        if obstacle is not None:
            check_wish(args, obstacle)
            self._log(f"shared_prompts: off, because {obstacle}")
            self.obstacle = obstacle
            return
        device = self.accelerator.device
        self._dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else models[0].dtype
        backend = choose_backend(device, self._dtype) if setting == "auto" else setting
        obstacle = find_backend_obstacle(backend, device, self._dtype)
        if obstacle is not None:
            check_wish(args, obstacle)
        for each in models:
            ordinary = str(each.config._attn_implementation)
            each.set_attn_implementation(register(backend, ordinary))
            hook = each.base_model.register_forward_hook(_keep_branches, with_kwargs=True)
            self._restore += [hook.remove, partial(each.set_attn_implementation, ordinary)]
        if device.type == "cpu":
            # RaML: smaller tiles of the logits are faster on a CPU, and take less memory. The backward pass reads the
            # size again, so it is set while rows are packed.
            head: Any = import_module("trl.kernels.chunked_logprob")
            self._restore.append(partial(setattr, head, "TOKEN_CHUNK_SIZE", head.TOKEN_CHUNK_SIZE))
            head.TOKEN_CHUNK_SIZE = cpu_tile(models[0].config.get_text_config().vocab_size)
        self.obstacle, self._checked = None, set()
        self._log(f"shared_prompts: each prompt runs once per micro-batch, without padding (attention: {backend})")

    def stop(self, obstacle: str) -> None:
        """Stop packing rows, for the reason `obstacle`, and undo the changes that `start` made to the models."""
        self.obstacle = obstacle
        while self._restore:
            self._restore.pop()()

    def wrap(self, model: nn.Module) -> Any:
        """Return a function to call instead of the model, or the model itself if rows are not packed."""
        return model if self.obstacle else partial(self._call, model)

    def _call(self, model: nn.Module, **inputs: Any) -> Any:
        """Return the outputs `log_probs` and `entropy`, both `(N, S - 1)`, of `model(**inputs)`."""
        if set(inputs) != _INPUTS:
            return model(**inputs)
        packed = pack_rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        if self.obstacle is None and torch.is_grad_enabled() not in self._checked:
            tokens = self._check(model, packed, inputs)
            self._checked |= {torch.is_grad_enabled()} if tokens else set()
        if packed is None or self.obstacle is not None:
            return model(**inputs)
        return _run(model, packed, inputs["input_ids"])

    def probe(self, model: nn.Module, tokenizer: Any, args: SubsetGRPOConfig) -> None:
        """Stop packing if it changes the results of a model on a few short rows.

        This check runs before rows are assigned to micro-batches for the first time. The rows of the first batch, which
        are longer, can still show differences that the short rows do not.

        Raises:
            InputError: if packing stops, but `shared_prompts` names a backend, or `max_tokens_per_micro_batch` is set.
        """
        if self.obstacle is None:
            ids, mask = padded_rows(tokenizer)[0]
            half = ids.size(1) // 2
            ids[1::2, :-half] = ids[::2, :-half]  # each prompt has two completions
            labels = ids.masked_fill(torch.arange(ids.size(1)) < ids.size(1) - half, -100)
            inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            inputs = {name: value.to(self.accelerator.device) for name, value in inputs.items()}
            with self.accelerator.autocast():
                self._check(model, pack_rows(**inputs), inputs | {"fused_lm_head": True})
            if self.obstacle is not None:
                check_wish(args, self.obstacle)

    def _check(self, model: nn.Module, packed: PackedRows | None, inputs: dict[str, Any]) -> int:
        """Compare packed rows with plain rows, and stop packing if they differ by more than rounding, or do not run.

        The processes decide alike.

        Returns:
            The largest number of tokens that a process has compared. If it is 0, nothing was decided.
        """

        def run(model: nn.Module) -> Any:
            return model(**inputs) if packed is None else _run(model, packed, inputs["input_ids"])

        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        failure = None
        try:
            difference = measure_difference(self.accelerator.unwrap_model(model), inputs, run, sharded=sharded)
        except _ERRORS_OF_MODELS as error:
            if should_reduce_batch_size(error):
                raise  # memory is short
            difference, failure = FAILED, f"the model does not run on packed rows: {type(error).__name__}: {error}"
        values = torch.tensor(difference, device=self.accelerator.device)[None]
        difference = Difference(*self.accelerator.gather(values).max(dim=0).values.tolist())
        if not difference.is_rounding(self._dtype):
            self.stop(failure or f"packed rows change the results of this model: {difference}")
            self._log(f"shared_prompts: off, because {self.obstacle}", logging.WARNING)
        return int(difference.tokens)

    def _unwrap(self, model: nn.Module) -> PreTrainedModel:
        """Return the model without the wrappers of accelerate and PEFT."""
        inner: Any = self.accelerator.unwrap_model(model)
        unwrapped: PreTrainedModel = inner.get_base_model() if is_peft_model(inner) else inner
        return unwrapped

    def _log(self, line: str, level: int = logging.INFO) -> None:
        if self.accelerator.is_main_process:
            logger.log(level, "%s", line)


def cpu_tile(vocabulary: int) -> int:
    """Return the number of tokens per tile of the logits at which TRL's fused head is fastest on a CPU.

    `vocabulary` is the number of entries of the vocabulary. Measurements with 512 to 151,936 entries showed that fewer
    than 128 tokens are slower, because every tile reads and writes the whole gradient of the head.
    """
    return min(512, max(128, 2**22 // vocabulary))


def check_wish(args: SubsetGRPOConfig, obstacle: str) -> None:
    """Check that the settings do not require packed rows, which are impossible for the reason `obstacle`.

    Raises:
        InputError: if `shared_prompts` is not `auto`, or `max_tokens_per_micro_batch` is set.
    """
    if args.shared_prompts != "auto":
        raise InputError(f"shared_prompts is {args.shared_prompts!r}, but {obstacle}: set it to auto or off")
    if args.max_tokens_per_micro_batch is not None:
        raise InputError(f"max_tokens_per_micro_batch needs packed rows, but {obstacle}: leave it out")


def _run(model: nn.Module, packed: PackedRows, input_ids: Tensor) -> Any:
    """Run a model with TRL's fused head on a packed row, and return its outputs in the places of the batch."""
    output = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=packed.layout.encode(input_ids.device),
        shift_labels=packed.targets,
        fused_lm_head=True,
    )
    for name in ("log_probs", "entropy"):
        values = getattr(output, name)
        if values is not None:
            spread = values.new_zeros(input_ids.numel()).index_put((packed.places,), values[0])
            setattr(output, name, spread.view_as(input_ids)[:, 1:])
    return output


def _keep_branches(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Keep only the hidden states of branches, so that the head runs on no other position."""
    mask = kwargs.get("attention_mask")
    if is_layout(mask):
        tokens = torch.from_numpy(Layout.decode(mask).branch_tokens).to(mask.device)
        output.last_hidden_state = output.last_hidden_state[:, tokens]
    return output
