"""Loads models and tokenizers from a directory or the Hub, and creates engines. Error messages have one line."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from raml_trl.prompts import STYLES, prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.local_names import missing_path
from raml_trl.runtime.runs import require_complete
from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.engine import Engine
from raml_trl.sampling.server_engine import ServerEngine
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.sampling.vllm_engine import VLLMEngine

LOADING_ERRORS = (OSError, SafetensorError)
"""The exceptions that transformers raises for files that are missing, unreachable or damaged."""

ADAPTER = "adapter_config.json"
"""The file that makes a directory an adapter of PEFT, such as LoRA."""


def check_model(name: str | None) -> str:
    """Check the name of a model without loading the model or asking the Hub, and return the name.

    Raises:
        InputError: if the name is missing, or is the path of a missing directory, of a directory without a model, or of
            an unfinished run.
    """
    if not name:
        raise InputError("model_name_or_path is missing: name a directory or a model on the Hub")
    path = Path(name)
    if path.is_dir():
        require_complete(name)
        if not any((path / config).is_file() for config in ("config.json", ADAPTER)):
            raise InputError(f"model {name} cannot be loaded: there is no config.json in that directory")
    elif path.exists():
        raise InputError(f"model {name} cannot be loaded: it is a file, not the directory of a model")
    missing = missing_path(name)
    if missing is not None:
        raise InputError(f"model {name} cannot be loaded: {missing}")
    return name


def check_chat(
    tokenizer: PreTrainedTokenizerBase, style: str, name: str, *, pads: bool = False
) -> PreTrainedTokenizerBase:
    """Check that the chat template of a tokenizer can write the prompts of a style, and return the tokenizer.

    Args:
        tokenizer: the tokenizer of the model `name`.
        style: the prompt style, a key of `prompts.STYLES`.
        pads: also check that there is a pad token, which batches of prompts need.

    Raises:
        InputError: if there is no chat template, the template refuses the messages, or there is no pad token.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            f"model {name} has no chat template, which makes prompts of questions: take the chat version of the "
            "model, or put a chat_template.jinja into its directory"
        )
    messages = prompt_messages("1 + 1 = ?", style)
    try:
        tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        plain = [name for name, other in STYLES.items() if other.position != "system"]
        remedy = f"take a prompt_style without a system turn: {' or '.join(plain)}"
        if messages[0]["role"] != "system":
            remedy = "mend its chat template"
        reason = " ".join(str(error).split())
        raise InputError(
            f"model {name}: its chat template refuses prompt_style {style} ({reason}): {remedy}"
        ) from error
    if pads and tokenizer.pad_token is None:
        raise InputError(
            f"model {name}: its tokenizer has no pad token, which batches of prompts need: set pad_token in its "
            f"tokenizer_config.json, for example to its end token {tokenizer.eos_token!r}"
        )
    return tokenizer


def base_of_adapter(name: str) -> str | None:
    """Return the name of the base model if `name` is the directory of an adapter, such as LoRA; None otherwise.

    Raises:
        InputError: if the adapter does not say which model it belongs to.
    """
    directory = Path(name)
    if not (directory / ADAPTER).is_file() or (directory / "config.json").is_file():
        return None
    try:
        base = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = None
    if not isinstance(base, str):
        raise InputError(f"model {name}: its {ADAPTER} has no base_model_name_or_path: add the name of the base model")
    return base


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model. `revision` is a branch, tag or commit on the Hub; None is `main`.

    For an adapter without a tokenizer, the tokenizer of its base model is loaded.

    Raises:
        InputError: if the tokenizer cannot be loaded.
    """
    check_model(name)
    base = base_of_adapter(name)
    if base is not None and not (Path(name) / "tokenizer_config.json").is_file():
        name, revision = check_model(base), None
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main")
    except (*LOADING_ERRORS, ValueError) as error:
        raise cannot_load(name, error) from error


def check_text_model(name: str, setting: str) -> None:
    """Check that a model reads text only: that it has a tokenizer, and not a processor of text and other media.

    `setting` is the name of the setting that needs such a model, for the error message.

    Raises:
        InputError: if the model has a processor, or neither can be loaded.
    """
    try:
        processor = AutoProcessor.from_pretrained(name)
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    if not isinstance(processor, PreTrainedTokenizerBase):
        raise InputError(
            f"{setting} needs a text model, but {name} has a {type(processor).__name__}: leave {setting} out"
        )


def load_model(name: str, *, dtype: str, all_devices: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer for inference on the device of this process.

    Args:
        name: directory or name on the Hub.
        dtype: dtype of the weights, such as `bfloat16`; `auto` uses the dtype of the checkpoint.
        all_devices: spread the layers over all devices, for a model that does not fit on a single device.

    Raises:
        InputError: if the model or the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map="auto" if all_devices else None)
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    if all_devices:
        return model.eval(), tokenizer
    device: Any = "cpu"  # typed too narrowly by transformers
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # each process of a launch has its own device
    return model.to(device).eval(), tokenizer


def open_engine(config: SamplingArguments, *, max_attempts: int = 10) -> Engine:
    """Return the engine that `config` names, after loading the model or checking that the server offers it.

    A request to the server is tried up to `max_attempts` times.

    Raises:
        InputError: if the model cannot be loaded, vLLM or a device is missing, or the server does not offer the model.
    """
    name = config.model_name_or_path
    if config.engine != "server":
        check_chat(load_tokenizer(name), config.prompt_style, name, pads=config.engine == "transformers")
    if config.engine == "server":
        assert config.server_url is not None
        api_key = os.environ.get(config.api_key_variable)
        server = ServerEngine(
            config.server_url, name, api_key, max_requests=config.max_requests, max_attempts=max_attempts
        )
        server.check()
        return server
    if config.engine == "vllm":
        return VLLMEngine.open(
            name,
            tensor_parallel_size=config.tensor_parallel_size,
            max_model_length=config.max_model_length,
            gpu_memory_utilization=config.gpu_memory_utilization,
            dtype=config.dtype,
        )
    return TransformersEngine(*load_model(name, dtype=config.dtype, all_devices=config.all_devices), config.batch_size)


def keep_rope_theta(config: PreTrainedConfig) -> None:
    """Set `rope_theta` (the base of the rotary positions) in a config, so that transformers 4 reads the right base.

    transformers 5 writes the base to `rope_parameters`, which transformers 4 ignores; without `rope_theta` it would
    assume a base of 10,000. transformers 5 ignores `rope_theta` if there are `rope_parameters`. If the layers have
    different bases, the config is left unchanged, because transformers 4 supports a single base only.
    """
    parameters = config.to_dict().get("rope_parameters") or {}  # None for a model without rotary positions
    if "rope_theta" in parameters:
        config.rope_theta = parameters["rope_theta"]


def shown_name(name: str) -> str:
    """Return the name of a model or dataset for publication: the last part of a local path, or the Hub name."""
    return Path(name).name if Path(name).exists() else name


def cannot_load(name: str, error: Exception) -> InputError:
    """Return an InputError which says that model `name` cannot be loaded, with the message of `error` on one line."""
    return InputError(f"model {name} cannot be loaded: {' '.join(str(error).split())}")
