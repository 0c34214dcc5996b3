"""Tiny configs of many architectures, and whether the rows of their models can be packed."""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
import transformers as hf
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from raml_trl.grpo.row_rules import PLAIN_MODEL, ModelTraits

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ROTARY = SMALL | {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32, "max_position_embeddings": 128}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 64,
}
_ROTARY = ROTARY | {"pad_token_id": 0}
_GROUPED = _ROTARY | {"num_key_value_heads": 1}
_EXPERTS = _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL_EXPERTS = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
_DEEPSEEK = _ROTARY | _LATENT | {"head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1}
_DEEPSEEK |= {"topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_shared_experts": 1}
WINDOW = 4
_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_WINDOWED = _GROUPED | {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW}


@dataclass(frozen=True)
class Architecture:
    """A tiny model.

    Attributes:
        config: its config, whose sliding window, if any, is shorter than the prompts of tests.
        obstacle: why its rows cannot be packed; None if they can.
        traits: its traits, as `model_traits` would measure them.
        quick: whether `make test` includes it.
    """

    config: PretrainedConfig
    obstacle: str | None = None
    traits: ModelTraits = field(default=PLAIN_MODEL)
    quick: bool = False

    def build(self) -> PreTrainedModel:
        """Return the model with random weights, the same in every call, in training mode.

        The weights are larger than at the start of training, so that attention and positions matter.
        """
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)](deepcopy(self.config))
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model.train()


SUPPORTED: dict[str, Architecture] = {
    "Llama": Architecture(hf.LlamaConfig(**_GROUPED), quick=True),
    "Qwen2, Qwen2.5": Architecture(hf.Qwen2Config(**_GROUPED), quick=True),
    "Qwen2 with a sliding window in some layers": Architecture(hf.Qwen2Config(**_WINDOWED)),
    "Qwen3": Architecture(hf.Qwen3Config(**_GROUPED), quick=True),
    "Qwen2-MoE": Architecture(
        hf.Qwen2MoeConfig(**_EXPERTS, shared_expert_intermediate_size=16, output_router_logits=False)
    ),
    "Qwen3-MoE": Architecture(hf.Qwen3MoeConfig(**_EXPERTS, output_router_logits=False)),
    "Mistral": Architecture(hf.MistralConfig(**_GROUPED, sliding_window=None)),
    "Mistral with a sliding window": Architecture(hf.MistralConfig(**_GROUPED, sliding_window=WINDOW), quick=True),
    "Ministral": Architecture(hf.MinistralConfig(**_GROUPED, **_MIXED)),
    "Mixtral": Architecture(hf.MixtralConfig(**_LOCAL_EXPERTS, sliding_window=WINDOW, output_router_logits=False)),
    "Gemma": Architecture(hf.GemmaConfig(**_GROUPED)),
    "Gemma 3, text": Architecture(hf.Gemma3TextConfig(**_GROUPED, **_MIXED), quick=True),
    "Phi": Architecture(hf.PhiConfig(**(_ROTARY | {"partial_rotary_factor": 0.5}), resid_pdrop=0.0, embd_pdrop=0.0)),
    "Phi-3, Phi-4": Architecture(hf.Phi3Config(**_GROUPED, sliding_window=WINDOW), quick=True),
    "OLMo": Architecture(hf.OlmoConfig(**_GROUPED)),
    "OLMo2": Architecture(hf.Olmo2Config(**_GROUPED)),
    "OLMo3": Architecture(hf.Olmo3Config(**_GROUPED, **_MIXED)),
    "OLMoE": Architecture(hf.OlmoeConfig(**_EXPERTS, output_router_logits=False)),
    "SmolLM3": Architecture(hf.SmolLM3Config(**_GROUPED, no_rope_layers=[1, 0])),
    "Granite": Architecture(hf.GraniteConfig(**_GROUPED, logits_scaling=2.0, attention_multiplier=0.2)),
    "GPT-NeoX, Pythia": Architecture(hf.GPTNeoXConfig(**SMALL, intermediate_size=32, pad_token_id=0), quick=True),
    "OPT": Architecture(
        hf.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=128, dropout=0.0), quick=True
    ),
    "Cohere": Architecture(hf.CohereConfig(**_GROUPED, logit_scale=1.0)),
    "Cohere2": Architecture(hf.Cohere2Config(**_GROUPED, **_MIXED, logit_scale=1.0)),
    "GLM-4": Architecture(hf.Glm4Config(**_GROUPED, partial_rotary_factor=0.5)),
    "StableLM": Architecture(hf.StableLmConfig(**_GROUPED, partial_rotary_factor=0.25)),
    "Starcoder2": Architecture(
        hf.Starcoder2Config(**_GROUPED, sliding_window=WINDOW, residual_dropout=0.0, embedding_dropout=0.0)
    ),
    "DeepSeek-V2": Architecture(hf.DeepseekV2Config(**_DEEPSEEK)),
    "DeepSeek-V3": Architecture(hf.DeepseekV3Config(**_DEEPSEEK)),
}

_PADDING = "padding changes the log-probs of the model, so TRL's results depend on it"
_NOISE = "the model has noise (dropout, NEFTune or the like), which would fall on other tokens"
_WIDTH = "the positions of the model depend on the width of the batch beyond {} tokens"
_NO_POSITIONS = "the model takes no position_ids"
_STATE = "the model has a recurrent state"

UNSUPPORTED: dict[str, Architecture] = {
    "Gemma 2": Architecture(hf.Gemma2Config(**_GROUPED), "the model caps its attention scores"),
    "gpt-oss": Architecture(
        hf.GptOssConfig(**_LOCAL_EXPERTS, **_MIXED, output_router_logits=False), "the model has attention sinks"
    ),
    "BLOOM": Architecture(hf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2), _NO_POSITIONS),
    "MPT": Architecture(hf.MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2), _NO_POSITIONS),
    "GPT-2": Architecture(hf.GPT2Config(**GPT2, **NO_DROPOUT), _PADDING, ModelTraits(padding=True)),
    "Falcon": Architecture(hf.FalconConfig(**SMALL), "attention implementation 'sdpa' of the model cannot be extended"),
    "Falcon with ALiBi": Architecture(hf.FalconConfig(**SMALL, alibi=True), "the model encodes positions by ALiBi"),
    "Mamba": Architecture(hf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8), _STATE),
    "RecurrentGemma": Architecture(
        hf.RecurrentGemmaConfig(**(SMALL | {"num_hidden_layers": 3}), lru_width=32, intermediate_size=64),
        _PADDING,
        ModelTraits(padding=True),
    ),
    "Qwen3-Next": Architecture(
        hf.Qwen3NextConfig(**_EXPERTS, shared_expert_intermediate_size=16, output_router_logits=False), _STATE
    ),
    "LFM2": Architecture(
        hf.Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention"]), "the model has conv layers"
    ),
    "Llama 4, text": Architecture(
        hf.Llama4TextConfig(**_LOCAL_EXPERTS, intermediate_size_mlp=32, attention_chunk_size=WINDOW),
        _WIDTH.format(8192),
        ModelTraits(width_limit=8192),
    ),
    "a model with dropout": Architecture(
        hf.Qwen2Config(**_GROUPED, attention_dropout=0.1), _NOISE, ModelTraits(noise=True)
    ),
    "PhiMoE": Architecture(
        hf.PhimoeConfig(**_LOCAL_EXPERTS, sliding_window=None, output_router_logits=False),
        _NOISE,
        ModelTraits(noise=True),
    ),
    "a model with dynamic or longrope scaling of positions": Architecture(
        hf.Phi3Config(**_ROTARY, rope_parameters=dict(LONGROPE), original_max_position_embeddings=64),
        _WIDTH.format(64),
        ModelTraits(width_limit=64),
    ),
    "a model with a router loss": Architecture(
        hf.Qwen3MoeConfig(**_EXPERTS, output_router_logits=True),
        "the router loss of the model is a mean over the tokens of a micro-batch",
        ModelTraits(router_loss=True),
    ),
    "a model with prompt tuning or another adapter that adds tokens": Architecture(
        hf.Qwen2Config(**_GROUPED), _PADDING, ModelTraits(padding=True)
    ),
    "an encoder, such as CamemBERT": Architecture(
        hf.CamembertConfig(**SMALL, intermediate_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        "the model has attention that is not causal",
    ),
}
ARCHITECTURES = SUPPORTED | UNSUPPORTED
