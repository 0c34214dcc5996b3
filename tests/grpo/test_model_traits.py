"""Training stays TRL's with models that have dropout, other noise, or positions that depend on padding."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from transformers import (
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RecurrentGemmaConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from raml_trl.grpo.model_traits import read_traits, width_limit
from raml_trl.grpo.row_rules import PLAIN_MODEL, ModelTraits, RowRules
from raml_trl.runtime.errors import InputError
from tests.grpo.test_config import make_config
from tests.helpers.architectures import GPT2, LONGROPE, NO_DROPOUT, ROTARY, SMALL
from tests.helpers.trainers import make_trainer, weights

CONFIGS: dict[str, Any] = {
    "GPT-2": GPT2Config(**GPT2, **NO_DROPOUT),
    "GPT-2 with dropout": GPT2Config(**GPT2),
    "OPT": OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=128, dropout=0.0),
    "BLOOM": BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
    "MPT": MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2),
    "RecurrentGemma": RecurrentGemmaConfig(**(SMALL | {"num_hidden_layers": 3}), lru_width=32, intermediate_size=64),
    "Qwen2": Qwen2Config(**ROTARY),
    "Qwen2 with dropout of attention": Qwen2Config(**ROTARY, attention_dropout=0.1),
    "Qwen3": Qwen3Config(**ROTARY),
    "Qwen3 MoE": Qwen3MoeConfig(**ROTARY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "Phi-3, longrope": Phi3Config(
        **ROTARY, rope_parameters=dict(LONGROPE), original_max_position_embeddings=64, pad_token_id=0
    ),
}
TRAITS = {
    "GPT-2": ModelTraits(padding=True),
    "GPT-2 with dropout": ModelTraits(padding=True, noise=True),
    "OPT": PLAIN_MODEL,
    "BLOOM": PLAIN_MODEL,
    "MPT": PLAIN_MODEL,
    "RecurrentGemma": ModelTraits(padding=True),
    "Qwen2": PLAIN_MODEL,
    "Qwen2 with dropout of attention": ModelTraits(noise=True),
    "Qwen3": PLAIN_MODEL,
    "Qwen3 MoE": ModelTraits(router_loss=False),
    "Phi-3, longrope": ModelTraits(width_limit=64),
}


@pytest.fixture(scope="module")
def models(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of tiny models of several architectures, by name."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    directories = {}
    for name, config in CONFIGS.items():
        config.update({"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id})
        config.update({"bos_token_id": None, "router_aux_loss_coef": 0.0})
        directory = str(tmp_path_factory.mktemp("architecture"))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        directories[name] = directory
    return directories


@pytest.mark.parametrize("name", CONFIGS)
def test_the_traits_of_architectures(models: dict[str, str], tmp_path: Path, name: str) -> None:
    trainer, _ = make_trainer(models[name], tmp_path)
    torch.manual_seed(5)
    state, trained, training = torch.get_rng_state(), weights(trainer), trainer.model.training
    assert read_traits(trainer) == TRAITS[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training == training
    assert all(torch.equal(weight, trained[key]) for key, weight in weights(trainer).items())
    trainer.model.bfloat16()
    assert read_traits(trainer) == TRAITS[name]


def test_virtual_tokens_before_the_padding_keep_their_distance(models: dict[str, str], tmp_path: Path) -> None:
    """Prompt tuning puts virtual tokens before the left padding, so their distance to the prompt depends on it."""
    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    trainer, _ = make_trainer(models["Qwen2"], tmp_path, peft_config=adapter)
    assert read_traits(trainer) == ModelTraits(padding=True)


SEVERAL = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_completion_length": 6}
DROPOUT = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2, task_type="CAUSAL_LM")
AS_TRL: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT-2", {}),
    "GPT-2, a reference model": ("GPT-2", {"beta": 0.1, "steps_per_generation": 8}),
    "dropout of attention": ("Qwen2 with dropout of attention", {}),
    "dropout of an adapter": ("Qwen2", {"peft_config": DROPOUT, "learning_rate": 1e-2}),
    "NEFTune": ("Qwen2", {"neftune_noise_alpha": 5.0}),
}


@pytest.mark.long
@pytest.mark.parametrize(("name", "settings"), AS_TRL.values(), ids=AS_TRL)
def test_default_settings_train_as_trl_does(
    models: dict[str, str], tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """All of G with default settings: the same weights and gradients, bit for bit."""
    results = []
    for stock in (True, False):
        trainer, recorder = make_trainer(models[name], tmp_path, stock=stock, max_steps=2, **(SEVERAL | settings))
        trainer.train()
        results.append((recorder.of("grad_norm"), weights(trainer)))
    (stock_norms, stock_weights), (norms, trained) = results
    assert min(stock_norms) > 0
    assert norms == stock_norms
    assert trainer.row_rules == RowRules(length_bucketing=False, skip_zero_advantage=False)
    assert all(torch.equal(weight, trained[key]) for key, weight in stock_weights.items())


@pytest.mark.long
@pytest.mark.parametrize("name", ["OPT", "Qwen3"])
def test_rotary_and_relative_positions_keep_the_fast_path(models: dict[str, str], tmp_path: Path, name: str) -> None:
    norms = []
    for stock in (True, False):
        trainer, recorder = make_trainer(models[name], tmp_path, stock=stock, max_steps=2, **SEVERAL)
        trainer.train()
        norms.append(recorder.of("grad_norm"))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert trainer.row_rules == RowRules(length_bucketing=True, skip_zero_advantage=True, whole_groups=True)


@pytest.mark.long
def test_drop_equals_mask_with_absolute_positions(models: dict[str, str], tmp_path: Path) -> None:
    norms = {}
    for mode in ("drop", "mask"):
        trainer, recorder = make_trainer(
            models["GPT-2"], tmp_path, max_steps=2, num_generations_update=2, subset_mode=mode, beta=0.1, **SEVERAL
        )
        trainer.train()
        norms[mode] = recorder.of("grad_norm")
    assert min(norms["drop"]) > 0
    assert norms["drop"] == pytest.approx(norms["mask"], rel=1e-4)


def test_explicit_settings_are_warned_of_or_rejected(
    models: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, _ = make_trainer(models["GPT-2"], tmp_path, length_bucketing=True)
    with pytest.raises(InputError, match="so length_bucketing: true would change its gradient"):
        trainer.train()
    trainer, _ = make_trainer(models["Qwen2 with dropout of attention"], tmp_path, length_bucketing=True, max_steps=1)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="raml_trl"):
        trainer.train()
    on, off = [record.message for record in caplog.records if record.name.startswith("raml_trl")]
    assert on == "length_bucketing: dropout or other noise of the model falls on other rows than in TRL's trainer"
    assert off.startswith("skip_zero_advantage: off by default, to keep TRL's gradient: the model has noise")
    assert trainer.row_rules == RowRules(length_bucketing=True, skip_zero_advantage=False)


def test_rows_of_a_model_with_absolute_positions_stay_on_their_process(tmp_path: Path) -> None:
    args = make_config(tmp_path, num_generations_update=4, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert args.row_rules(ModelTraits(padding=True), num_processes=2) == RowRules(False, False)
    straddling = make_config(
        tmp_path,
        num_generations_update=4,
        selection="abs_advantage",
        selection_scope="batch",
        gradient_accumulation_steps=2,
    )
    assert straddling.row_rules(ModelTraits(padding=True)) == RowRules(False, False)
    with pytest.raises(InputError, match="rows cannot move between the 2 processes"):
        straddling.row_rules(ModelTraits(padding=True), num_processes=2)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 64}}, None),
        ({"rope_parameters": LONGROPE}, 64),
        ({"rope_parameters": {"full": {"rope_type": "dynamic"}, "sliding": {}}, "max_position_embeddings": 256}, 256),
        ({"rope_parameters": {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 512}}, 512),
        ({"attn_temperature_tuning": True, "floor_scale": 8192}, 8192),
    ],
)
def test_the_width_above_which_positions_depend_on_padding(config: dict[str, Any], limit: int | None) -> None:
    assert width_limit(config) == limit
