"""Predicted bytes match calculations by hand, and the memory that autograd uses."""

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from raml_trl.grpo.planning.memory import (
    PRECISIONS,
    Shape,
    activation_bytes,
    find_precision,
    kept_bytes,
    propose_tokens,
    state_bytes,
)

SHAPE = Shape(
    num_parameters=1000, num_trained=1000, num_layers=8, hidden=128, intermediate=192, queries=128, keys=64, heads=4,
    vocabulary=500,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sharding", "optimizer", "gradients", "weights"),
    [
        ("none", 12000, 2000, 2000),
        ("optimizer", 3000, 2000, 2000),
        ("gradients", 3000, 500, 2000),
        ("full", 3000, 500, 500),
    ],
)
def test_states_are_sixteen_bytes_per_parameter_divided_by_sharding(
    sharding: Any, optimizer: int, gradients: int, weights: int
) -> None:
    states = state_bytes(SHAPE, PRECISIONS["sharded"], sharding=sharding, num_processes=4, reference=False)
    assert states == {"optimizer": optimizer, "gradients": gradients, "weights": weights}


def test_only_trained_parameters_have_gradients() -> None:
    adapter = SHAPE._replace(num_trained=10)
    states = state_bytes(adapter, PRECISIONS["float32"], sharding="none", num_processes=1, reference=True)
    assert states == {"optimizer": 80, "gradients": 40, "weights": 8000}


def test_precisions() -> None:
    named = {id(precision): name for name, precision in PRECISIONS.items()}

    def find(dtype: str, mixed: bool, sharding: Any) -> str:
        return named[id(find_precision(dtype, mixed=mixed, sharding=sharding))]

    assert find("float32", False, "none") == find("float32", False, "full") == "float32"
    assert find("float32", True, "none") == "mixed"
    assert find("bfloat16", True, "none") == find("bfloat16", False, "full") == "bfloat16"
    assert find("float32", True, "optimizer") == find("bfloat16", True, "full") == "sharded"


def kept_by_autograd(
    rows: int, width: int, *, attention: str, dtype: torch.dtype, mixed: bool, checkpointing: bool
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without parameters and their copies."""
    config = Qwen2Config(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.hidden, intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.num_layers, num_attention_heads=SHAPE.heads, num_key_value_heads=2,
    )  # fmt: skip
    model = Qwen2ForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype)
    add_fused_lm_head(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # keeps the storages alive, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.numel() % (rows * width) == 0:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros((rows, width), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # as soon as one row is padded, attention gets a mask
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.long
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("mixed", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_formula_matches_the_memory_of_autograd(attention: str, precision: str, dtype: torch.dtype) -> None:
    rows, width = 6, 150
    kept = kept_by_autograd(
        rows, width, attention=attention, dtype=dtype, mixed=precision == "mixed", checkpointing=False
    )
    formula = SHAPE.num_layers * kept_bytes(SHAPE, PRECISIONS[precision], width=width, attention=attention)
    last = SHAPE.hidden * (6 if precision == "bfloat16" else 8)  # the last norm's input, and normed
    assert formula + last == pytest.approx(kept / (rows * width), rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_with_checkpointing_only_the_residual_is_kept(precision: str) -> None:
    kept = kept_by_autograd(
        6, 150, attention="sdpa", dtype=torch.float32, mixed=precision == "mixed", checkpointing=True
    )
    last = 2 * 4 * SHAPE.hidden  # the last norm's input, and normed
    facts: Any = {"cells": 6 * 150, "width": 150, "checkpointing": True, "attention": "sdpa", "on_cpu": False}
    formula, head = (
        activation_bytes(SHAPE._replace(num_layers=layers), PRECISIONS[precision], **facts)
        for layers in (SHAPE.num_layers, 0)
    )
    assert formula - head == pytest.approx(kept - 900 * last, rel=0.02)


def test_activations() -> None:
    qwen = Shape(
        num_parameters=7_615_616_512, num_trained=7_615_616_512, num_layers=28, hidden=3584, intermediate=18944,
        queries=3584, keys=512, heads=28, vocabulary=152064,
    )  # fmt: skip
    facts: Any = {"cells": 16000, "width": 16000, "attention": "flash_attention_2", "on_cpu": False}
    # bytes per layer and cell: 16 * 3584 + 2 * (4 * 3584 / 2 + 2 * 512 + 4 * 18944) + 4 * 28 = 225,392
    layer = 16 * 3584 + 2 * (2 * 3584 + 2 * 512 + 4 * 18944) + 4 * 28
    assert kept_bytes(qwen, PRECISIONS["sharded"], width=1, attention="flash_attention_2") == layer == 225392
    working = 2 * (3 * 18944 + 2 * 3584)
    head = 2 * 4096 * 32768 + 4 * 3584 * (152064 + 16000)
    plain = activation_bytes(qwen, PRECISIONS["sharded"], checkpointing=False, **facts)
    assert plain == 28 * layer * 16000 + max(working * 16000, head)
    checkpointed = activation_bytes(qwen, PRECISIONS["sharded"], checkpointing=True, **facts)
    assert checkpointed == 28 * 2 * 3584 * 16000 + (layer + working) * 16000  # 5.7 GB; the head takes 2.7 GB


def test_without_triton_the_head_takes_more() -> None:
    facts: Any = {"cells": 100, "width": 100, "attention": "sdpa", "checkpointing": True}
    plain, on_cpu = (activation_bytes(SHAPE, PRECISIONS["float32"], **facts, on_cpu=where) for where in (False, True))
    assert plain - on_cpu == 100 * (4 * 32768 - 8 * 4 * 500)  # one full tile; eight of the vocabulary's width


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_falls_with_the_rows(checkpointing: bool, on_cpu: bool) -> None:
    sizes = [
        activation_bytes(
            SHAPE,
            PRECISIONS["float32"],
            cells=1000 * rows,
            width=1000,
            checkpointing=checkpointing,
            attention="sdpa",
            on_cpu=on_cpu,
        )
        for rows in (1, 2, 4, 8)
    ]
    assert sorted(set(sizes)) == sizes


def test_the_proposed_tokens_are_the_most_that_fit() -> None:
    def predict(cells: int) -> dict[str, int]:
        return {"weights": 2**30, "activations": 2**20 * cells}

    tokens = propose_tokens(8.0, predict)
    assert tokens == 6144  # 0.9 * 8 GiB = 7372 MiB, of which 1024 are weights: 6348 cells
    assert sum(predict(tokens).values()) <= 0.9 * 8 * 2**30 < sum(predict(tokens + 256).values())
    assert propose_tokens(1.2, predict) is None
