"""Packed rows give the log-probabilities and the gradient of plain rows for each architecture, or are refused."""

import re
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer import utils

from raml_trl import SubsetGRPOConfig
from raml_trl.grpo.packing.packed_model import PackedModel
from raml_trl.grpo.packing.support import find_obstacle
from raml_trl.runtime.errors import InputError
from tests.helpers import REPOSITORY
from tests.helpers.architectures import SUPPORTED, UNSUPPORTED, Architecture
from tests.helpers.vision import LAYOUTS

pytestmark = pytest.mark.skipif(not hasattr(utils, "FusedCausalLMOutput"), reason="TRL has no fused LM head")
# Prompts and completions of these lengths, some with the same prompt; most are longer than a sliding window.
LENGTHS = [(7, 6), (7, 3), (3, 9), (7, 0), (3, 2), (1, 4)]
CHECKPOINTING: list[dict[str, Any] | None] = [None, {"use_reentrant": False}, {"use_reentrant": True}]


def rollouts() -> dict[str, Any]:
    """Return a padded batch as TRL passes it to a model, of rollouts of random tokens."""
    generator = torch.Generator().manual_seed(0)
    before, after = (max(lengths) for lengths in zip(*LENGTHS, strict=True))
    prompts = {length: torch.randint(8, 64, (length,), generator=generator) for length, _ in LENGTHS}
    ids = torch.zeros(len(LENGTHS), before + after, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, completion) in enumerate(LENGTHS):
        tokens = torch.randint(8, 64, (completion,), generator=generator)
        place = slice(before - prompt, before + completion)
        ids[row, place], mask[row, place] = torch.cat([prompts[prompt], tokens]), 1
        labels[row, before : before + completion] = tokens
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}


def packing_of(model: nn.Module, architecture: Architecture, setting: Any = "auto") -> PackedModel:
    """Begin to pack the rows of a model, without a trainer."""
    args = SubsetGRPOConfig(output_dir="unused", shared_prompts=setting, use_cpu=True, bf16=False, report_to="none")
    packing = PackedModel(Accelerator(cpu=True))
    packing.start(model, None, args, architecture.traits)
    return packing


def results(call: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the log-probs `(tokens,)` of a call of a model, and the gradient of all parameters."""
    inputs = rollouts()
    mask = inputs["labels"][:, 1:] != -100
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    model.zero_grad(set_to_none=True)
    log_probs = call(**inputs).log_probs
    (log_probs * weights).sum().backward()
    gradients = [
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    return log_probs.detach()[mask], torch.cat(gradients)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).double().norm() / expected.double().norm())


def with_head(architecture: Architecture) -> PreTrainedModel:
    model = architecture.build()
    utils.add_fused_lm_head(model)
    return model


def marked(architectures: dict[str, Architecture]) -> list[Any]:
    marks = {True: pytest.mark.long, False: pytest.mark.slow}
    return [pytest.param(each, id=name, marks=marks[each.quick]) for name, each in architectures.items()]


@pytest.mark.parametrize("architecture", marked(SUPPORTED))
def test_packed_rows_equal_plain_rows(architecture: Architecture) -> None:
    model = with_head(architecture)
    expected = results(model, model)
    assert expected[1].norm() > 0
    packing = packing_of(model, architecture)
    for kwargs in CHECKPOINTING:
        if kwargs is not None:
            model.gradient_checkpointing_enable(kwargs)
        packing._checked.clear()
        found = results(packing.wrap(model), model)
        assert packing.obstacle is None
        for one, other in zip(found, expected, strict=True):
            assert distance(one, other) < 1e-5


@pytest.mark.parametrize("architecture", marked(SUPPORTED))
def test_rounding_in_bfloat16_passes_the_check(architecture: Architecture) -> None:
    model = with_head(architecture).bfloat16()
    packing = packing_of(model, architecture)
    results(packing.wrap(model), model)
    assert packing.obstacle is None


@pytest.mark.long
@pytest.mark.parametrize("kwargs", CHECKPOINTING)
def test_packed_rows_equal_plain_rows_with_an_adapter(kwargs: dict[str, Any] | None) -> None:
    architecture = SUPPORTED["Qwen3"]
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    base = with_head(architecture)
    model = get_peft_model(base, adapter)
    if kwargs is not None:
        base.gradient_checkpointing_enable(kwargs)
        base.enable_input_require_grads()
    expected = results(model, model)
    packing = packing_of(model, architecture)
    found = results(packing.wrap(model), model)
    assert packing.obstacle is None
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("architecture", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_obstacles_are_found_before_the_model_runs(architecture: Architecture) -> None:
    model = architecture.build()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model runs"))
    assert find_obstacle(model, architecture.traits) == architecture.obstacle
    packing = packing_of(model, architecture)
    assert packing.obstacle == architecture.obstacle
    assert packing.wrap(model) is model
    message = f"shared_prompts is 'sdpa', but {architecture.obstacle}: set it to auto or off"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        packing_of(model, architecture, "sdpa")


@pytest.mark.long
def test_a_multimodal_model_is_refused() -> None:
    model, _ = next(iter(LAYOUTS.values()))()
    assert find_obstacle(model, SUPPORTED["Llama"].traits) == "the model is multimodal"


@pytest.mark.parametrize("backend", ["flex", "flash"])
def test_backends_for_gpus_are_refused_without_one(backend: str) -> None:
    with pytest.raises(InputError, match=f"shared_prompts is '{backend}', but {backend} attention needs a GPU"):
        packing_of(with_head(SUPPORTED["Llama"]), SUPPORTED["Llama"], backend)


def test_the_page_lists_the_architectures() -> None:
    page = (REPOSITORY / "docs" / "shared_prompts.md").read_text()
    for heading, architectures in (
        ("| packed |\n|---|\n", SUPPORTED),
        ("| not packed | because |\n|---|---|\n", UNSUPPORTED),
    ):
        table = page.split(heading)[1].split("\n\n")[0].splitlines()
        rows = {
            cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("| ").split(" | ")] for row in table)
        }
        rows.pop("a model with images or other inputs than text", None)
        assert rows == {name: [each.obstacle] if each.obstacle else [] for name, each in architectures.items()}


HIDDEN = ["Qwen2-MoE"]


@pytest.mark.long
@pytest.mark.parametrize("name", HIDDEN)
def test_windows_that_only_the_mask_knows_are_refused(name: str) -> None:
    """The layers of the model do not pass their window to the attention function, so packed rows would ignore it."""
    config = type(SUPPORTED[name].config).from_dict(SUPPORTED[name].config.to_dict())
    config.update({"sliding_window": 64, "use_sliding_window": True})  # longer than the rows of the check
    if getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention", "full_attention"]
    architecture = Architecture(config)
    model = with_head(architecture)
    packing = packing_of(model, architecture)
    results(packing.wrap(model), model)
    assert packing.obstacle is not None
    assert packing.obstacle.startswith("the model does not run on packed rows: ValueError: ")
    assert "has a sliding window in its config or in its attention, but not both" in packing.obstacle
