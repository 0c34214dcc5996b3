"""Predicts the memory that training takes on one device, by a formula.

The memory consists of the states (weights, gradients and AdamW states) and the activations of a micro-batch. A cell is
one token position that a forward pass computes, padding included.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig, get_peft_config

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.planning.config import PlanConfig, Sharding
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.runtime.recipes import find_folder, find_recipe
from raml_trl.sampling.loading import check_model
from raml_trl.training.run import model_init_kwargs

_HEAD_TILE = (4096, 32768)  # rows and words (columns) of the logits that TRL's fused head holds at a time
_TILES_ON_CPU = 8  # tiles held without Triton, whose kernel works in place; observed in the memory of a backward pass


class Shape(NamedTuple):
    """The sizes of a model that determine its memory.

    `queries` and `keys` are widths: the number of query heads, or of key/value heads, times the size of a head.
    """

    num_parameters: int
    num_trained: int
    num_layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int
    vocabulary: int


class Precision(NamedTuple):
    """The number of bytes that each kind of number takes.

    `weights`, `gradients` and `states` (AdamW's) are bytes per parameter. `compute` is bytes per input of a matrix
    product, and `residual` is bytes per number in the residual stream.

    `norms` is the number of bytes, per hidden unit and token position, that the two norms of a layer keep for the
    backward pass. Each norm keeps its input in float32, the normed input, and its output. The output is kept once if
    the following matrix products use it unchanged, and once per product if autocast converts it.
    """

    weights: int
    gradients: int
    states: int
    compute: int
    residual: int
    norms: int


PRECISIONS = {
    "float32": Precision(weights=4, gradients=4, states=8, compute=4, residual=4, norms=24),
    # autocast keeps a copy of the weights for the matrix products
    "mixed": Precision(weights=4 + 2, gradients=4, states=8, compute=2, residual=4, norms=26),
    "bfloat16": Precision(weights=2, gradients=2, states=4, compute=2, residual=2, norms=16),
    # ZeRO: the optimizer holds the weights in float32
    "sharded": Precision(weights=2, gradients=2, states=4 + 8, compute=2, residual=2, norms=16),
}


def read_model(config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig) -> tuple[Shape, Precision]:
    """Return the shape and precision of the recipe's model, without loading its weights.

    Raises:
        InputError: if the model's config cannot be read, or the memory formula does not cover this kind of model.
    """
    given = config.model_config
    name = check_model(model.model_name_or_path) if given is None else find_folder(given)
    try:
        described = AutoConfig.from_pretrained(name)
        if described.get_text_config() is not described:
            raise InputError(f"model {name} is multimodal: memory is predicted for text models only")
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(described)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the config of model {name} cannot be read ({reason}): set model_config to a directory with its "
            "config.json"
        ) from error
    fields = described.get_text_config().to_dict()
    adapter = get_peft_config(model)
    if adapter is not None:
        empty = get_peft_model(empty, adapter)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in empty.parameters()]
    if "intermediate_size" not in fields or "num_experts_per_tok" in fields or model.load_in_4bit or model.load_in_8bit:
        raise InputError(f"model {name}: memory is predicted for dense, unquantized Llama-like models only")
    heads = fields["num_attention_heads"]
    head_size = fields.get("head_dim") or fields["hidden_size"] // heads
    shape = Shape(
        num_parameters=sum(size for size, _ in sizes),
        num_trained=sum(size for size, trained in sizes if trained),
        num_layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        queries=heads * head_size,
        keys=(fields.get("num_key_value_heads") or heads) * head_size,
        heads=heads,
        vocabulary=fields["vocab_size"],
    )
    dtype = model_init_kwargs(args, model)["dtype"]
    dtype = str(described.dtype if dtype == "auto" else dtype).removeprefix("torch.")
    return shape, find_precision(dtype, mixed=bool(args.bf16 or args.fp16), sharding=config.sharding)


def predict_bytes(
    config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig, shape: Shape, precision: Precision, cells: int
) -> dict[str, int]:
    """Return the bytes of each part of the memory on one device.

    A micro-batch is assumed to have `cells` token positions, padding included, and every rollout the longest possible
    prompt and completion.
    """
    states = state_bytes(
        shape,
        precision,
        sharding=config.sharding,
        num_processes=config.num_processes,
        reference=args.beta != 0.0 and not model.use_peft,
    )
    activations = activation_bytes(
        shape,
        precision,
        cells=cells,
        width=config.prompt_length + args.max_completion_length,
        checkpointing=bool(args.gradient_checkpointing),
        attention=model_init_kwargs(args, model)["attn_implementation"] or "sdpa",
        on_cpu=bool(read_yaml(find_recipe(config.recipe)).get("use_cpu")),
    )
    return {**states, "activations": activations}


def propose_tokens(memory: float, predict: Callable[[int], Mapping[str, int]]) -> int | None:
    """Return the most tokens that a micro-batch can have on a device, as a multiple of 256; None if 256 are too many.

    A tenth of the memory is left free for what the formula does not cover.

    Args:
        memory: GiB of the device.
        predict: returns the bytes of each part of the memory for a number of tokens.
    """
    tokens = [256 * number for number in range(1, 4097)]  # to 1,048,576
    number = bisect_right(tokens, 0.9 * memory * 2**30, key=lambda tokens: sum(predict(tokens).values()))
    return tokens[number - 1] if number else None


def find_precision(dtype: str, *, mixed: bool, sharding: Sharding) -> Precision:
    """Return the precision of training.

    Args:
        dtype: data type of the loaded weights.
        mixed: whether training computes in half precision, with autocast or with DeepSpeed's own mechanism.
        sharding: which states are sharded over processes.
    """
    if mixed and sharding != "none":
        return PRECISIONS["sharded"]
    if dtype != "float32":
        return PRECISIONS["bfloat16"]
    return PRECISIONS["mixed" if mixed else "float32"]


def state_bytes(
    shape: Shape, precision: Precision, *, sharding: Sharding, num_processes: int, reference: bool
) -> dict[str, int]:
    """Return the bytes of the states on one device: AdamW states, gradients, weights.

    With `reference`, the weights of a reference model are added. A part that is sharded is divided by the number of
    processes.

    Source: ZeRO, arXiv 1910.02054, section 3.1: in half precision, a parameter takes 2 bytes for its weight, 2 for its
    gradient and 12 for its AdamW states.
    """
    parts = {
        "optimizer": precision.states * shape.num_trained,
        "gradients": precision.gradients * shape.num_trained,
        "weights": precision.weights * shape.num_parameters * (2 if reference else 1),
    }
    level = get_args(Sharding).index(sharding)
    return {name: size // (num_processes if place < level else 1) for place, (name, size) in enumerate(parts.items())}


def kept_bytes(shape: Shape, precision: Precision, *, width: int, attention: str) -> int:
    """Return the bytes that autograd keeps for the backward pass, per token position and layer.

    These are the tensors of both norms (see `Precision.norms`); queries, keys, values and the output of attention; four
    intermediate results of a gated feed-forward layer; and the scores of attention. A row has `width` token positions,
    padding included. For the scores, `eager` keeps a softmax over these positions for every head, `sdpa` only a mask
    over them, and `flash_attention_2` one number for every head. `eager` and `sdpa` also repeat keys and values for
    every query head.

    Source: the count of Korthikanti et al., arXiv 2205.05198, section 4.1, redone for a layer of the Llama family in
    transformers 5 (RMSNorm, gated, no dropout). A test compares it with autograd.
    """
    compute = precision.compute
    scores = {
        "sdpa": compute * width,
        "eager": shape.heads * width * (4 if compute == 4 else 4 + compute),  # computed in float32, then converted
    }.get(attention, 4 * shape.heads)  # flash attention: the logarithm of each softmax's sum
    keys = shape.keys if attention.startswith("flash") else shape.queries
    numbers = 2 * shape.queries + 2 * keys + 4 * shape.intermediate
    return precision.norms * shape.hidden + compute * numbers + scores


def activation_bytes(
    shape: Shape, precision: Precision, *, cells: int, width: int, checkpointing: bool, attention: str, on_cpu: bool
) -> int:
    """Return the peak bytes of the activations of a micro-batch: kept tensors and working memory.

    The micro-batch has `cells` token positions, padding included. Each of them attends to `width` positions.

    With gradient checkpointing only the residual stream is kept, and one layer at a time is recomputed. The working
    memory is that of one layer in the backward pass, or that of the head (the output layer), whichever gives the higher
    peak. For the head, TRL holds a tile of the logits (trl/kernels/chunked_logprob.py), and the gradients of the hidden
    states and of the head in float32.

    On a CPU (12 layers, hidden size 256, rows of 512 tokens) the resident memory grew by 1.1 to 1.2 times the result
    without checkpointing, and by 1.1 to 2.6 times with it. The formula has not been compared with a GPU yet.
    """
    compute = precision.compute
    layer = kept_bytes(shape, precision, width=width, attention=attention)
    kept = shape.num_layers * (precision.residual * shape.hidden if checkpointing else layer)
    working = (layer if checkpointing else 0) + compute * (3 * shape.intermediate + 2 * shape.hidden)
    tile_rows, tile_words = _HEAD_TILE
    tile_row = _TILES_ON_CPU * 4 * min(shape.vocabulary, tile_words) if on_cpu else compute * tile_words
    head = tile_row * min(cells, tile_rows) + 4 * shape.hidden * (shape.vocabulary + cells)
    return kept * cells + max(working * cells, head)
