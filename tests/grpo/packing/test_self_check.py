"""A model whose results packed rows would change trains on plain rows, with the weights of `shared_prompts: off`."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel

from raml_trl.grpo.packing.layout import is_layout
from raml_trl.grpo.packing.self_check import take_gradient
from raml_trl.runtime.errors import InputError
from tests.grpo.packing.test_architectures import packing_of, results, rollouts, with_head
from tests.helpers.architectures import ROTARY, SUPPORTED
from tests.helpers.trainers import fixed_rollouts, make_trainer, weights


class IgnoresTheMask(LlamaAttention):
    """Attends to all earlier tokens if it does not know the mask."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if is_layout(kwargs["attention_mask"]):
            kwargs["attention_mask"] = None
        return super().forward(hidden_states, *args, **kwargs)


class RejectsTheMask(LlamaAttention):
    """Raises an error on a mask of integers."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"a mask of {mask.dtype}")
        return super().forward(hidden_states, *args, **kwargs)


class ForgetsTheMask(LlamaAttention):
    """Knows the mask only until the forward pass of the model ends, so that checkpointing runs it without."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if is_layout(kwargs["attention_mask"]) and not self.runs[0]:
            kwargs["attention_mask"] = None
        return super().forward(hidden_states, *args, **kwargs)


class AddsTheIndex(LlamaModel):
    """Adds a learned vector for the index of each token in its row, without padding."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        index = torch.arange(input_ids.size(1))
        if attention_mask.ndim == 2:
            index = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        embeds = self.embed_tokens(input_ids) + self.bias(index)
        return super().forward(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)


def build(kind: str, vocab_size: int) -> LlamaForCausalLM:
    """Return a Llama of one of the kinds above; its weights are the same in every call."""
    torch.manual_seed(0)
    config = LlamaConfig(**(ROTARY | {"vocab_size": vocab_size}), pad_token_id=0, bos_token_id=None, eos_token_id=1)
    model = LlamaForCausalLM(config)
    if kind == "AddsTheIndex":
        model.model.bias = nn.Embedding(256, config.hidden_size)
        model.model.__class__ = AddsTheIndex
    elif kind != "Llama":
        runs = [False]
        for layer in model.model.layers:
            layer.self_attn.__class__ = globals()[kind]
            layer.self_attn.runs = runs
        model.model.register_forward_pre_hook(lambda *_: runs.__setitem__(0, True))
        model.model.register_forward_hook(lambda *_: runs.__setitem__(0, False))
    return model


REASONS = {
    "IgnoresTheMask": "packed rows change the results of this model: log-probs differ by ",
    "AddsTheIndex": "packed rows change the results of this model: log-probs differ by ",
    "ForgetsTheMask": "the model does not run on packed rows: CheckpointError: ",
    "RejectsTheMask": "the model does not run on packed rows: TypeError: a mask of torch.int32",
}


def train(kind: str, model_dir: str, directory: Path, **settings: Any) -> tuple[dict[str, Tensor], str | None]:
    """Train a model, and return its weights, and the reason why rows were not packed in the end."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    trainer, _ = make_trainer(
        build(kind, len(tokenizer)),
        directory,
        processing_class=tokenizer,
        rollout_func=fixed_rollouts,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        **({"max_steps": 2} | settings),
    )
    trainer.train()
    return weights(trainer), trainer.packing.obstacle


@pytest.mark.long
@pytest.mark.parametrize("kind", REASONS)
def test_a_model_that_cannot_be_trusted_trains_on_plain_rows(
    kind: str, model_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointing = {"gradient_checkpointing": kind == "ForgetsTheMask"}
    expected, _ = train(kind, model_dir, tmp_path, shared_prompts="off", **checkpointing)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="raml_trl"):
        found, _ = train(kind, model_dir, tmp_path, **checkpointing)
    lines = [record.message for record in caplog.records if record.name.startswith("raml_trl")]
    assert len(lines) == 1
    assert lines[0].startswith(f"shared_prompts: off, because {REASONS[kind]}")
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


@pytest.mark.long
def test_settings_that_need_packed_rows_are_refused(model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^shared_prompts is 'sdpa', but packed rows change .*: set it to auto or off$"
    ):
        train("IgnoresTheMask", model_dir, tmp_path, shared_prompts="sdpa")
    with pytest.raises(InputError, match=r"^max_tokens_per_micro_batch needs packed rows, but packed rows change "):
        train("IgnoresTheMask", model_dir, tmp_path, max_tokens_per_micro_batch=100)


@pytest.mark.long
def test_without_checkpointing_a_forgotten_mask_does_no_harm(model_dir: str, tmp_path: Path) -> None:
    _, obstacle = train("ForgetsTheMask", model_dir, tmp_path, max_steps=1)
    assert obstacle == "training has ended"


def test_an_error_because_memory_is_short_is_raised() -> None:
    model = with_head(SUPPORTED["Llama"])
    packing = packing_of(model, SUPPORTED["Llama"])

    def fail(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if is_layout(kwargs["attention_mask"]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    model.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        results(packing.wrap(model), model)


def test_the_check_keeps_the_gradients() -> None:
    """A check in the middle of an optimizer step leaves the gradients of earlier micro-batches as they are."""
    model = with_head(SUPPORTED["Llama"])
    results(model, model)
    first, *others = model.parameters()
    first.grad = None
    kept = [parameter.grad.clone() for parameter in others]
    packing = packing_of(model, SUPPORTED["Llama"])
    packing.wrap(model)(**rollouts())
    assert packing.obstacle is None
    assert packing._checked == {True}
    assert first.grad is None
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(others, kept, strict=True))


def test_gradients_are_taken_once() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    (parameters[0] * torch.tensor([1.0, 2.0])).sum().backward()
    assert take_gradient(parameters, torch.device("cpu")).tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]
    assert parameters[0].grad is None
