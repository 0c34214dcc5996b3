"""The memory that `plan` predicts for the model of a recipe."""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig, get_peft_config

from raml_trl.grpo.config import SubsetGRPOConfig
from raml_trl.grpo.planning.config import PlanConfig
from raml_trl.grpo.planning.memory import Precision, Shape, activation_bytes, find_precision, state_bytes
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import read_yaml
from raml_trl.sampling.loading import check_model
from raml_trl.training.run import model_init_kwargs


def read_model(config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig) -> tuple[Shape, Precision]:
    """The model of the recipe, counted without its weights.

    Raises:
        InputError: if its config cannot be read, or it is of a kind that the formula for its memory does not know.
    """
    name = config.model_config or check_model(model.model_name_or_path)
    try:
        described = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(described)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the config of model {name} cannot be read: name a directory that holds its config.json in model_config "
            f"({reason})"
        ) from error
    fields = described.get_text_config().to_dict()
    adapter = get_peft_config(model)
    if adapter is not None:
        empty = get_peft_model(empty, adapter)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in empty.parameters()]
    if "intermediate_size" not in fields or "num_experts_per_tok" in fields or model.load_in_4bit or model.load_in_8bit:
        raise InputError(f"model {name}: the memory of this kind is not known here, only of dense Llama-like models")
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
    config: PlanConfig, args: SubsetGRPOConfig, model: ModelConfig, shape: Shape, precision: Precision, rows: int
) -> dict[str, int]:
    """Of one device, when all `rows` of a micro-batch are as long as they may be."""
    states = state_bytes(
        shape,
        precision,
        sharding=config.sharding,
        num_processes=config.num_processes,
        reference=args.beta != 0.0 and not model.use_peft,
    )
    width = config.prompt_length + args.max_completion_length
    attention = model_init_kwargs(args, model)["attn_implementation"] or "sdpa"
    activations = activation_bytes(
        shape,
        precision,
        rows=rows,
        width=width,
        checkpointing=bool(args.gradient_checkpointing),
        attention=attention,
        on_cpu=bool(read_yaml(Path(config.recipe)).get("use_cpu")),
    )
    return {**states, "activations": activations}
