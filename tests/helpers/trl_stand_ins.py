"""Writes, without a network, stand-ins for the tiny models and data sets on the Hub that TRL's tests of GRPO load.

    python -m tests.helpers.trl_stand_ins CHECKOUT DIRECTORY

`CHECKOUT` is a checkout of TRL's repository, whose scripts make the data sets. `DIRECTORY/trl-internal-testing` gets
the data sets, and models with random weights. Models that read images need torchvision.
"""

import argparse
import runpy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from datasets import DatasetDict
from torch import nn

from tests.helpers.trl_tiny_models import QWEN, QWEN_3_5, Built, gemma_3, gemma_4, llava_next, qwen_vl, text_model

ORGANIZATION = "trl-internal-testing"
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 8}
POSITIONS = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}}
ONE_HEAD = POSITIONS | {"num_attention_heads": 1, "num_key_value_heads": 1}
LINEAR = POSITIONS | {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
LLAMA_TOKENS = ("<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>")

MODELS: dict[str, Callable[[], Built]] = {
    "Qwen2ForCausalLM-2.5": partial(text_model, "Qwen2ForCausalLM", "qwen2_5"),
    "Qwen2ForSequenceClassification-2.5": partial(text_model, "Qwen2ForSequenceClassification", "qwen2_5"),
    "Qwen3ForCausalLM": partial(text_model, "Qwen3ForCausalLM", "qwen3", head_dim=4),
    "Qwen3ForSequenceClassification": partial(text_model, "Qwen3ForSequenceClassification", "qwen3", head_dim=4),
    "Qwen3MoeForCausalLM": partial(
        text_model, "Qwen3MoeForCausalLM", "qwen3", words=QWEN, head_dim=4, num_experts=4, **EXPERTS
    ),
    "LlamaForCausalLM-3.2": partial(text_model, "LlamaForCausalLM", "llama3_2", LLAMA_TOKENS),
    "LlamaForSequenceClassification-3.2": partial(
        text_model, "LlamaForSequenceClassification", "llama3_2", LLAMA_TOKENS
    ),
    "MistralForCausalLM-0.2": partial(text_model, "MistralForCausalLM"),
    "Gemma2ForCausalLM": partial(text_model, "Gemma2ForCausalLM", "gemma", head_dim=4),
    "Cohere2ForCausalLM": partial(text_model, "Cohere2ForCausalLM", "cohere2", logit_scale=1.0),
    "GptOssForCausalLM": partial(
        text_model, "GptOssForCausalLM", "gptoss", head_dim=4, num_local_experts=4, num_experts_per_tok=2
    ),
    "Glm4MoeForCausalLM": partial(
        text_model, "Glm4MoeForCausalLM", "glm4moe", head_dim=4, n_routed_experts=4, use_qk_norm=True, **EXPERTS
    ),
    "NemotronHForCausalLM-nano": partial(
        text_model,
        "NemotronHForCausalLM",
        "nemotron_3_nano",
        layers_block_type=["mamba", "attention", "moe"],
        num_hidden_layers=3,
        mamba_num_heads=4,
        mamba_head_dim=4,
        n_groups=1,
        ssm_state_size=8,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=16,
        use_mamba_kernels=False,
        **EXPERTS,
    ),
    "Qwen2VLForConditionalGeneration": partial(
        qwen_vl,
        "Qwen2VL",
        "qwen2_5_vl",
        ONE_HEAD,
        {"depth": 2, "embed_dim": 16, "hidden_size": 8, "num_heads": 2, "mlp_ratio": 2},
    ),
    "Qwen2_5_VLForConditionalGeneration": partial(
        qwen_vl, "Qwen2_5_VL", "qwen2_5_vl", ONE_HEAD, VISION | {"fullatt_block_indexes": [1]}
    ),
    "Qwen3_5ForConditionalGeneration-NoThink": partial(
        qwen_vl, "Qwen3_5", "qwen3_5_nothink", LINEAR, VISION, words=QWEN_3_5
    ),
    "Qwen3_5MoeForConditionalGeneration-3.6": partial(
        qwen_vl,
        "Qwen3_5Moe",
        "qwen3_6",
        LINEAR | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
        VISION,
    ),
    "Gemma3ForConditionalGeneration": gemma_3,
    "Gemma4ForConditionalGeneration": gemma_4,
    "LlavaNextForConditionalGeneration": llava_next,
}
MOST_USED = "Qwen2ForCausalLM-2.5"


def write_models(directory: Path, *, large: bool) -> None:
    """Write the models in bfloat16; `large` gives the most used one the vocabulary of Qwen, as one test needs."""
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, processor = build(words=QWEN) if large and name == MOST_USED else build()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # with a smaller range, some gradients would vanish in bfloat16
        tokenizer = getattr(processor, "tokenizer", processor)
        for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
            if config is not None:
                config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        model.to(torch.bfloat16).save_pretrained(directory / f"tiny-{name}")
        processor.save_pretrained(directory / f"tiny-{name}")


def write_remote_model(checkout: Path, directory: Path) -> None:
    """Write a model whose code is part of its repository."""
    model, tokenizer = text_model("LlamaForCausalLM", "llama3_2", LLAMA_TOKENS)
    classes = {"AutoConfig": "configuration_remote.RemoteConfig", "AutoModel": "modeling_remote.RemoteModel"}
    classes["AutoModelForCausalLM"] = "modeling_remote.RemoteForCausalLM"
    model.config.auto_map = classes
    model.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "remote"'))
    tokenizer.save_pretrained(directory)
    for file in (checkout / "scripts/generate_tiny_models/for_causal_lm/_remote_code").glob("*_remote.py"):
        shutil.copy(file, directory)


def write_data(checkout: Path, directory: Path) -> None:
    """Let TRL's scripts make their data sets, and write those of prompts to `directory` instead of the Hub."""

    def write(data: DatasetDict, repository: str, config_name: str) -> None:
        if config_name.endswith("prompt_only"):
            for split, rows in data.items():
                rows.to_parquet(directory / repository / config_name / f"{split}.parquet")

    for name in ("zen", "zen-image", "zen-multi-image"):
        script = runpy.run_path(str(checkout / f"scripts/generate_{name.replace('-', '_')}_dataset.py"))
        np.random.seed(0)  # the scripts use the global generator
        with patch.object(DatasetDict, "push_to_hub", write):
            script["main"](test_size=0.1, push_to_hub=True, repo_id=name)
        configs: list[dict[str, Any]] = [
            {
                "config_name": config.name,
                "data_files": [{"split": file.stem, "path": f"{config.name}/{file.name}"} for file in config.iterdir()],
            }
            for config in (directory / name).iterdir()
            if config.is_dir()
        ]
        (directory / name / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")


def main() -> None:
    """Write all stand-ins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--large",
        action="store_true",
        help=f"Give tiny-{MOST_USED} Qwen's vocabulary, which test_train_with_mask_truncated_completions needs. "
        "All other tests then take about ten times as long.",
    )
    given = parser.parse_args()
    organization = given.directory / ORGANIZATION
    write_data(given.checkout, organization)
    write_remote_model(given.checkout, organization / "tiny-RemoteForCausalLM")
    write_models(organization, large=given.large)


if __name__ == "__main__":
    main()
