"""Decides whether the rows of a model can be packed without changing its results."""

import inspect
from typing import Literal

import trl.trainer.utils
from transformers import PreTrainedModel

from raml_trl.grpo.row_rules import ModelTraits

SharedPrompts = Literal["auto", "off", "sdpa", "flex", "flash"]
"""The setting `shared_prompts`: a backend of `attention`, "auto" for the fastest one, or "off" for none."""

_ORDINARY = ("sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_LAYER_TYPES = {"full_attention", "sliding_attention"}


def find_obstacle(model: PreTrainedModel, traits: ModelTraits) -> str | None:
    """Return the reason why the rows of a model cannot be packed; None if there is no known reason.

    The reason is worded to follow the word "because".
    """
    config = model.config.get_text_config()
    if not hasattr(trl.trainer.utils, "FusedCausalLMOutput"):
        return "packed rows need the fused LM head of TRL 1.15 or later"
    if traits.router_loss:
        return "the router loss of the model is a mean over the tokens of a micro-batch"
    if traits.noise:
        return "the model has noise (dropout, NEFTune or the like), which would fall on other tokens"
    if traits.padding:
        return "padding changes the log-probs of the model, so TRL's results depend on it"
    if traits.width_limit is not None:
        return f"the positions of the model depend on the width of the batch beyond {traits.width_limit} tokens"
    if config is not model.config:
        return "the model is multimodal"
    if getattr(model, "_is_stateful", False):
        return "the model has a recurrent state"
    if getattr(config, "alibi", False):
        return "the model encodes positions by ALiBi"
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return "the model takes no position_ids"
    others = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if others:
        return f"the model has {', '.join(sorted(others))} layers"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "the model caps its attention scores"
    if any("sink" in name for name, _ in model.named_parameters()):
        return "the model has attention sinks"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "the model has attention that is not causal"
    if not model._can_set_attn_implementation() or config._attn_implementation not in _ORDINARY:
        return f"attention implementation {config._attn_implementation!r} of the model cannot be extended"
    return None
