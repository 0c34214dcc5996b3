"""The features of TRL's `GRPOTrainer` with which our trainer is compared, as cases of `raml_trl.grpo.agreement`."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from trl import GRPOTrainer

from raml_trl.grpo.agreement.cases import Case, choices, loss_cases
from raml_trl.grpo.agreement.training import letters_reward, make_tokenizer, questions, random_rollouts, text_of

SEVERAL = {"steps_per_generation": 4}
SAMPLED = {"rollout_func": None}
"""The model samples the rollouts."""


def feature_cases() -> Iterator[Case]:
    """Yield one case for every feature."""
    yield from loss_cases()
    yield from _loss_settings()
    yield from _rewards()
    yield from _models()
    yield from _rollouts()
    yield from _schedules()
    yield from _subclasses()


def _loss_settings() -> Iterator[Case]:
    for loss_type in choices("loss_type"):
        if loss_type not in ("dapo", "grpo"):  # these are among the loss cases
            yield Case(f"{loss_type}, beta", {"loss_type": loss_type, "beta": 0.1, **SEVERAL})
    yield Case("delta", {"delta": 1.05, **SEVERAL})
    yield Case("use_bias_correction_kl", {"use_bias_correction_kl": True, "beta": 0.1, **SEVERAL})
    yield Case("off_policy_mask_threshold", {"off_policy_mask_threshold": 0.02, **SEVERAL})
    yield Case("epsilon_high", {"epsilon": 0.05, "epsilon_high": 0.1, **SEVERAL})
    yield Case("temperature", {"temperature": 0.7})
    yield Case("top_entropy_quantile", {"top_entropy_quantile": 0.5})
    yield Case("entropy_coef", {"entropy_coef": 0.1})
    adaptive = {"entropy_coef": 0.1, "use_adaptive_entropy": True, "entropy_target": 5.0}
    yield Case("use_adaptive_entropy", {**adaptive, "max_steps": 3})
    yield Case("pad_to_multiple_of", {"pad_to_multiple_of": 8})
    yield Case("bf16", {"bf16": True})
    yield Case("cast_lm_head_to_fp32", {"cast_lm_head_to_fp32": True})
    yield Case("gradient_checkpointing", {"gradient_checkpointing": True})
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    yield Case("gradient_checkpointing, reentrant", reentrant)


def _rewards() -> Iterator[Case]:
    for scale in choices("scale_rewards"):
        yield Case(f"scale_rewards: {scale}", {"scale_rewards": scale})
    two = {"reward_funcs": [letters_reward, length_reward]}
    yield Case("several rewards with weights", {"reward_weights": [1.0, 0.3]}, two)
    for aggregation in choices("multi_objective_aggregation"):
        settings = {"reward_weights": [1.0, 0.3], "multi_objective_aggregation": aggregation}
        yield Case(f"multi_objective_aggregation: {aggregation}", settings, two)
    yield Case("rewards of None", {}, {"reward_funcs": [partial_reward, letters_reward]})
    yield Case("async rewards", {}, {"reward_funcs": [async_reward, letters_reward]})
    yield Case(
        "a reward model", {}, {"reward_funcs": make_reward_model(), "reward_processing_classes": make_tokenizer()}
    )


def _models() -> Iterator[Case]:
    yield Case("beta", {"beta": 0.1})
    synced = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "max_steps": 3}
    yield Case("sync_ref_model", synced)
    adapters = {
        "LoRA": LoraConfig(r=4, target_modules="all-linear"),
        "DoRA": LoraConfig(r=4, target_modules="all-linear", use_dora=True),
        "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    for name, adapter in adapters.items():
        yield Case(name, {}, {"peft_config": adapter})
    yield Case("LoRA with its base model as reference", {"beta": 0.1, **SEVERAL}, {"peft_config": adapters["LoRA"]})
    yield Case("LoRA with dropout", {}, {"peft_config": LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2)})
    yield Case("a bfloat16 model and its reference", {"beta": 0.1}, {"model": make_half})
    yield Case("logits with a cap (Gemma 2)", {}, {"model": make_gemma2})
    yield Case("absolute positions (GPT-2)", {}, {"model": make_gpt2})
    yield Case("dropout (GPT-2)", {"disable_dropout": False}, {"model": lambda: make_gpt2(dropout=0.2)})
    yield Case("a mixture of experts with its router loss", {}, {"model": make_mixture})


def _rollouts() -> Iterator[Case]:
    yield Case("rollouts sampled by the model", {}, SAMPLED)
    yield Case("rollouts sampled by the model, beta, several steps", {"beta": 0.1, **SEVERAL}, SAMPLED)
    yield Case("pad_to_multiple_of, sampled by the model", {"pad_to_multiple_of": 8, "beta": 0.1}, SAMPLED)
    yield Case("generation_kwargs", {"generation_kwargs": {"top_k": 5}, "top_p": 0.9, "temperature": 0.8}, SAMPLED)
    yield Case("rollout_func with a mask", {}, {"rollout_func": masked_rollouts})
    extra = {"rollout_func": rollouts_with_field, "reward_funcs": field_reward}
    yield Case("rollout_func with extra fields", {"beta": 0.1}, extra)
    for mode in choices("vllm_importance_sampling_mode"):
        settings = {"vllm_importance_sampling_mode": mode, **SEVERAL}
        yield Case(f"vLLM's correction, {mode}, with a stand-in engine", settings, prepare=pretend_vllm)
    tools = SAMPLED | {"processing_class": ToolTokenizer.make(), "tools": [double]}
    lengthy = {"max_completion_length": 24}
    yield Case("tools, with a stand-in parser", lengthy, tools)
    yield Case("tools, beta, several steps", {"beta": 0.1, **SEVERAL, **lengthy}, tools)
    yield Case("async tools, with a limit", {"max_tool_calling_iterations": 1, **lengthy}, tools | {"tools": [adouble]})
    environment = SAMPLED | {"processing_class": ToolTokenizer.make(), "environment_factory": Counter}
    yield Case("environments", lengthy, environment)
    yield Case(
        "an environment with its own reward",
        lengthy,
        environment | {"environment_factory": PayingCounter, "reward_funcs": None},
    )
    named = {"environment_factory": {"counter": Counter, "other": OtherCounter}, "train_dataset": in_environments()}
    yield Case("several environments", lengthy, environment | named)
    yield Case("iterable data", {}, {"train_dataset": questions().to_iterable_dataset()})
    texts = questions().map(lambda row: {"prompt": text_of(row["prompt"])})
    yield Case("text-only prompts", {}, {"train_dataset": texts})


def _schedules() -> Iterator[Case]:
    yield Case("several steps per generation", SEVERAL)
    yield Case("num_iterations", {"num_iterations": 2, "max_steps": 4, "beta": 0.1})
    uneven = {"steps_per_generation": 2, "gradient_accumulation_steps": 3, "max_steps": 4}
    yield Case("generation_batch_size", {"generation_batch_size": 32})
    yield Case("shuffle_dataset: false", {"shuffle_dataset": False})
    yield Case("accumulation that does not divide a generation", uneven)
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2, "per_device_eval_batch_size": 4}
    yield Case("evaluation with its own num_generations", evaluated, {"eval_dataset": questions(4)})


def _subclasses() -> Iterator[Case]:
    yield Case("_generate post-processed", {"beta": 0.1, **SEVERAL}, subclass=cutting)
    yield Case("_calculate_rewards overridden", {"beta": 0.1, **SEVERAL}, subclass=squaring)
    yield Case("advantages per token", {}, subclass=weighting_tokens)
    yield Case("_compute_loss with a term", SEVERAL, subclass=adding_a_term)
    yield Case("GMPO, its class first", SEVERAL, subclass=lambda base: make_gmpo(base, first=True))
    yield Case("GMPO, its class last", SEVERAL, subclass=lambda base: make_gmpo(base, first=False))


def length_reward(completions: list[Any], **_columns: object) -> list[float]:
    """Return rewards on another scale than `letters_reward`."""
    return [len(text_of(completion)) / 3 for completion in completions]


def partial_reward(completions: list[Any], **_columns: object) -> list[float | None]:
    """Return None for every third rollout."""
    return [None if row % 3 == 0 else len(text_of(completion)) / 5 for row, completion in enumerate(completions)]


async def async_reward(completions: list[Any], **_columns: object) -> list[float]:
    """Return `length_reward`, after a wait."""
    await asyncio.sleep(0)
    return length_reward(completions)


def field_reward(completions: list[Any], place: list[int], **_columns: object) -> list[float]:
    """Return a reward that depends on the field `place` of `rollouts_with_field`."""
    return [float(value % 3) for value in place]


def masked_rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Return random rollouts in which every third token is marked as not written by the model."""
    rollouts = random_rollouts(prompts, trainer)
    return rollouts | {"env_mask": [[int(i % 3 != 1) for i in range(len(ids))] for ids in rollouts["completion_ids"]]}


def rollouts_with_field(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Return random rollouts with a field that the reward function reads."""
    return random_rollouts(prompts, trainer) | {"place": list(range(len(prompts)))}


def pretend_vllm(trainer: Any) -> None:
    """Let the trainer correct for the difference between the log-probs of the rollouts and those of the model."""
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)


def double(number: int) -> int:
    """Double a number.

    Args:
        number: the number.

    Returns:
        Twice the number.
    """
    return 2 * number


async def adouble(number: int) -> int:
    """Double a number.

    Args:
        number: the number.

    Returns:
        Twice the number.
    """
    return 2 * number


class Counter:
    """An environment whose tool adds to a number."""

    def reset(self, **_columns: object) -> str:
        self.number = 0
        return "count"

    def double(self, number: int) -> int:
        """Add twice a number.

        Args:
            number: the number.

        Returns:
            The sum.
        """
        self.number += 2 * number
        return self.number


class PayingCounter(Counter):
    """A `Counter` with a reward of its own."""

    def get_reward(self) -> float:
        return self.number % 7 / 7


class OtherCounter:
    """An environment with another tool of the same name."""

    def reset(self, **_columns: object) -> str:
        return "triple"

    def double(self, number: int) -> str:
        """Triple a number.

        Args:
            number: the number.

        Returns:
            Three times the number.
        """
        return str(3 * number)


def in_environments() -> Dataset:
    """Return questions, half of them for each environment."""
    return questions().map(lambda row, index: {"environment": ("counter", "other")[index % 2]}, with_indices=True)


class ToolTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that reads a tool call from every completion whose first letter is in the first half of letters."""

    @classmethod
    def make(cls) -> "ToolTokenizer":
        plain = make_tokenizer()
        tokenizer = cls(
            tokenizer_object=plain.backend_tokenizer,
            pad_token=plain.pad_token,
            eos_token=plain.eos_token,
            chat_template="{% for message in messages %}{{ message.content }}{% for call in message.tool_calls or [] %}"
            "{{ call.function.name }}{{ call.function.arguments }}{% endfor %}{% endfor %}",
        )
        tokenizer.response_template = {"stand-in": True}  # TRL then calls `parse_response`
        return tokenizer

    def parse_response(self, response: Any, *_: Any, **__: Any) -> dict[str, Any]:
        text = self.decode(response, skip_special_tokens=True)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if text[:1].islower():
            call = {"name": "double", "arguments": {"number": len(text)}}
            message["tool_calls"] = [{"type": "function", "function": call}]
        return message


def _seeded(model_class: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config)


def make_gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    """Return a GPT-2 model, whose positions are absolute: padding on the left moves them."""
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.2}
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return _seeded(GPT2LMHeadModel, GPT2Config(vocab_size=len(make_tokenizer()), **sizes, **rates))


_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def make_half() -> LlamaForCausalLM:
    """Return a model in bfloat16, with a saved copy that TRL loads as its reference."""
    model = _seeded(LlamaForCausalLM, LlamaConfig(vocab_size=len(make_tokenizer()), initializer_range=0.2, **_SIZES))
    directory = Path(tempfile.mkdtemp(prefix="raml_trl_half_"))
    model.to(torch.bfloat16).save_pretrained(directory)
    model.config._name_or_path = str(directory)
    return model


def make_gemma2() -> Gemma2ForCausalLM:
    """Return a model whose logits are capped, which TRL's fused head repeats."""
    heads: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 2.0}
    vocabulary: dict[str, Any] = {"vocab_size": len(make_tokenizer()), "pad_token_id": 0, "bos_token_id": None}
    return _seeded(Gemma2ForCausalLM, Gemma2Config(initializer_range=0.2, **vocabulary, **_SIZES, **heads))


def make_mixture() -> Qwen3MoeForCausalLM:
    """Return a mixture of experts with a router loss."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    experts: dict[str, Any] = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    heads: dict[str, Any] = {"num_key_value_heads": 2, "router_aux_loss_coef": 0.1, "output_router_logits": True}
    return _seeded(Qwen3MoeForCausalLM, Qwen3MoeConfig(vocab_size=len(make_tokenizer()), **sizes, **experts, **heads))


def make_reward_model() -> LlamaForSequenceClassification:
    """Return a model with random weights that gives every conversation one number."""
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()), initializer_range=0.2, pad_token_id=0, num_labels=1, **_SIZES
    )
    model = _seeded(LlamaForSequenceClassification, config)
    model.config._name_or_path = "reward_model"  # its name in the logs
    return model


def cutting(base: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """A trainer that cuts every completion after its third token."""

    class Cutting(base):  # type: ignore[misc,valid-type]
        def _generate(self, prompts: list[Any]) -> Any:
            prompt_ids, completion_ids, mask, completions, logprobs, *rest = super()._generate(prompts)
            completion_ids = [ids[:3] for ids in completion_ids]
            texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
            completions = [[{"role": "assistant", "content": text}] for text in texts]
            logprobs = logprobs and [values[:3] for values in logprobs]
            return prompt_ids, completion_ids, mask, completions, logprobs, *rest

    return Cutting


def squaring(base: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """A trainer that squares rewards."""

    class Squaring(base):  # type: ignore[misc,valid-type]
        def _calculate_rewards(self, *args: Any, **named: Any) -> Tensor:
            return super()._calculate_rewards(*args, **named) ** 2

    return Squaring


def weighting_tokens(base: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """A trainer whose advantages decrease from token to token."""

    class WeightingTokens(base):  # type: ignore[misc,valid-type]
        def _generate_and_score_completions(self, inputs: list[Any]) -> Any:
            batch = super()._generate_and_score_completions(inputs)
            weights = 0.9 ** torch.arange(batch["completion_ids"].size(1))
            batch["advantages"] = batch["advantages"].unsqueeze(1) * weights
            return batch

    return WeightingTokens


def adding_a_term(base: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """A trainer whose loss has another term, a mean over the rows of a micro-batch."""

    class AddingATerm(base):  # type: ignore[misc,valid-type]
        def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
            loss = super()._compute_loss(model, inputs)
            ids, mask = (
                torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], 1) for name in ("ids", "mask")
            )
            log_probs, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].size(1))
            return loss + 0.01 * (log_probs * inputs["completion_mask"]).sum(1).mean()

    return AddingATerm


def make_gmpo(base: type[GRPOTrainer], *, first: bool) -> type[GRPOTrainer]:
    """TRL's GMPO trainer, combined with `base` in either order. Its loss is a mean over the rows of a micro-batch."""
    from trl.experimental.gmpo import GMPOTrainer

    if base is GRPOTrainer:
        return GMPOTrainer
    bases = (GMPOTrainer, base) if first else (base, GMPOTrainer)
    return type("Combined", bases, {"loss_normalizer": "rows"})
