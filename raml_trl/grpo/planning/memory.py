"""What training a model will take of a device's memory, by a formula: its states, and a micro-batch's activations."""

from typing import Literal, NamedTuple, get_args

Sharding = Literal["none", "optimizer", "gradients", "full"]
"""What is spread over the processes: nothing, ZeRO-1, ZeRO-2, ZeRO-3 or FSDP; each includes the one before."""

_HEAD_TILE = (4096, 32768)  # rows and words of the logits that TRL's fused head holds at a time
_TILES_ON_CPU = 8  # where no Triton kernel works in place; seen in the resident set of a backward pass


class Shape(NamedTuple):
    """What a model's memory depends on. Query and key/value widths are heads times head size."""

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
    """Bytes: of a parameter, its gradient and its AdamW states; of a number in a matrix product, in the residual.

    `norms` are the bytes that both norms of a layer keep per hidden unit: each its input in float32, the normed input,
    and what it hands to the products, once where these take it as it is, once for each where autocast converts it.
    """

    weights: int
    gradients: int
    states: int
    compute: int
    residual: int
    norms: int


PRECISIONS = {
    "float32": Precision(weights=4, gradients=4, states=8, compute=4, residual=4, norms=24),
    # autocast keeps a copy of the weights for the products
    "mixed": Precision(weights=4 + 2, gradients=4, states=8, compute=2, residual=4, norms=26),
    "bfloat16": Precision(weights=2, gradients=2, states=4, compute=2, residual=2, norms=16),
    # ZeRO's: the optimizer owns the weights in float32
    "sharded": Precision(weights=2, gradients=2, states=4 + 8, compute=2, residual=2, norms=16),
}


def find_precision(dtype: str, *, mixed: bool, sharding: Sharding) -> Precision:
    """Of weights loaded as `dtype`, trained with autocast or DeepSpeed's own half precision (`mixed`) or without."""
    if mixed and sharding != "none":
        return PRECISIONS["sharded"]
    if dtype != "float32":
        return PRECISIONS["bfloat16"]
    return PRECISIONS["mixed" if mixed else "float32"]


def state_bytes(
    shape: Shape, precision: Precision, *, sharding: Sharding, num_processes: int, reference: bool
) -> dict[str, int]:
    """Of one device, whatever m is: weights (with those of a reference model), gradients, AdamW states.

    Source: ZeRO, arXiv 1910.02054, section 3.1: 2 + 2 + 12 bytes a parameter in half precision, each part divided by
    the processes once it is sharded.
    """
    parts = {
        "optimizer": precision.states * shape.num_trained,
        "gradients": precision.gradients * shape.num_trained,
        "weights": precision.weights * shape.num_parameters * (2 if reference else 1),
    }
    level = get_args(Sharding).index(sharding)
    return {name: size // (num_processes if place < level else 1) for place, (name, size) in enumerate(parts.items())}


def kept_bytes(shape: Shape, precision: Precision, *, width: int, attention: str) -> int:
    """Of a cell in a layer: what autograd keeps for the backward pass.

    The residual at both norms, normed, and as the products take it (`norms`); queries, keys, values and the output of
    attention; four intermediates of a gated feed-forward layer. Attention keeps no scores if `flash_attention_2`; with
    `sdpa` a mask of `width`, and keys and values repeated for every head; if `eager` the softmax too.

    Source: the count of Korthikanti et al., arXiv 2205.05198, section 4.1, redone for what transformers 5 keeps in a
    layer of the Llama family (RMSNorm, gated, no dropout). Its test holds it against autograd.
    """
    compute = precision.compute
    scores = {
        "sdpa": compute * width,
        "eager": shape.heads * width * (4 if compute == 4 else 4 + compute),  # taken in float32, then converted
    }.get(attention, 4 * shape.heads)  # flash attention: the logarithm of each softmax's sum
    keys = shape.keys if attention.startswith("flash") else shape.queries
    numbers = 2 * shape.queries + 2 * keys + 4 * shape.intermediate
    return precision.norms * shape.hidden + compute * numbers + scores


def activation_bytes(
    shape: Shape, precision: Precision, *, rows: int, width: int, checkpointing: bool, attention: str, on_cpu: bool
) -> int:
    """Of a micro-batch of `rows` x `width` cells at its highest: what is kept, and what the backward pass works with.

    With gradient checkpointing only the residual is kept, and one layer at a time is run again. The backward pass works
    on one layer, or before that on the head: there TRL holds a tile of the logits (trl/kernels/chunked_logprob.py), and
    the gradients of the hidden states and of the head in float32.

    Held against the resident set on a CPU (12 layers, hidden 256, rows of 512): that grew by 1.1 to 1.2 times this
    without checkpointing, by 1.1 to 2.6 times with it. Not yet held against a GPU.
    """
    compute, cells = precision.compute, rows * width
    layer = kept_bytes(shape, precision, width=width, attention=attention)
    kept = shape.num_layers * (precision.residual * shape.hidden if checkpointing else layer)
    working = (layer if checkpointing else 0) + compute * (3 * shape.intermediate + 2 * shape.hidden)
    tile_rows, tile_words = _HEAD_TILE
    tile_row = _TILES_ON_CPU * 4 * min(shape.vocabulary, tile_words) if on_cpu else compute * tile_words
    head = tile_row * min(cells, tile_rows) + 4 * shape.hidden * (shape.vocabulary + cells)
    return kept * cells + max(working * cells, head)
