"""Calls a model with packed rows in place of the padded batch that TRL passes to it.

TRL's method that computes log-probabilities calls `PackedModel.call` instead of the model, and gets what the model
would have returned. Rows are packed only while this is exact: `support.find_obstacle` lists the models for which it is
not, and the first batch of a run is also computed the plain way. If the results differ by more than rounding, rows are
no longer packed.

Shapes: N rows padded to S tokens; T tokens in the packed row, of which L are in branches.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel

from raml_trl.grpo.micro_batches import ModelTraits
from raml_trl.grpo.packing.attention import choose_backend, register
from raml_trl.grpo.packing.layout import Layout, PackedRows, is_layout, pack_rows
from raml_trl.grpo.packing.self_check import Difference, measure_difference
from raml_trl.grpo.packing.support import SharedPrompts, find_obstacle
from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

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
        self._checked = False

    def start(
        self, models: Sequence[PreTrainedModel], setting: SharedPrompts, traits: ModelTraits, dtype: torch.dtype
    ) -> None:
        """Begin to pack rows, unless the setting, the models or their traits forbid it.

        Args:
            models: the models that run on packed rows, without wrappers such as DDP's and PEFT's.
            setting: `shared_prompts` of the config.
            traits: the traits of the model that trains.
            dtype: the type in which the models compute.

        Raises:
            InputError: if the setting is a backend, but rows cannot be packed.
        """
        self.stop("shared_prompts is off")
        if setting == "off":
            return
        obstacle = find_obstacle(models[0], traits)
        if obstacle is not None:
            if setting != "auto":
                raise InputError(f"shared_prompts is {setting!r}, but {obstacle}: set it to auto or off")
            self._log(f"shared_prompts: off, because {obstacle}")
            self.obstacle = obstacle
            return
        backend = choose_backend(self.accelerator.device, dtype) if setting == "auto" else setting
        for model in models:
            ordinary = model.config._attn_implementation
            model.set_attn_implementation(register(backend, ordinary))
            hook = model.base_model.register_forward_hook(_keep_branches, with_kwargs=True)
            self._restore += [hook.remove, lambda model=model, name=ordinary: model.set_attn_implementation(name)]
        self.obstacle, self._checked, self._dtype = None, False, dtype
        self._log(f"shared_prompts: each prompt runs once per micro-batch, without padding (attention: {backend})")

    def stop(self, obstacle: str) -> None:
        """Stop packing rows, for the reason `obstacle`, and restore the models."""
        self.obstacle = obstacle
        while self._restore:
            self._restore.pop()()

    def call(self, model: nn.Module, **inputs: Any) -> Any:
        """Return the outputs `log_probs` and `entropy`, both `(N, S - 1)`, of `model(**inputs)`."""
        if self.obstacle is not None or set(inputs) != _INPUTS:
            return model(**inputs)
        packed = pack_rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        if packed is not None and not self._checked:
            self._check(model, packed, inputs)
        if packed is None or self.obstacle is not None:
            return model(**inputs)
        return _run(model, packed, inputs["input_ids"])

    def _check(self, model: nn.Module, packed: PackedRows, inputs: dict[str, Any]) -> None:
        """Compare packed rows with plain rows, and stop packing if they differ by more than rounding.

        The processes decide alike. A batch without tokens to predict on any process decides nothing.
        """
        difference = measure_difference(
            self.accelerator.unwrap_model(model),
            inputs,
            lambda model: _run(model, packed, inputs["input_ids"]),
            sharded=self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED),
        )
        values = torch.tensor(difference, device=self.accelerator.device)[None]
        difference = Difference(*self.accelerator.gather(values).max(dim=0).values.tolist())
        self._checked = difference.tokens > 0
        if not difference.is_rounding(self._dtype):
            self.stop(f"packed rows change the results of this model: {difference}")
            self._log(f"shared_prompts: off, because {self.obstacle}", logging.WARNING)

    def _log(self, line: str, level: int = logging.INFO) -> None:
        if self.accelerator.is_main_process:
            logger.log(level, "%s", line)


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
