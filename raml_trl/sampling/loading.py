"""A model and its tokenizer from a directory or the Hub, or one clear line on why not."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.runs import require_complete
from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.engine import Engine
from raml_trl.sampling.server_engine import ServerEngine
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.sampling.vllm_engine import VLLMEngine

LOADING_ERRORS = (OSError, SafetensorError)
"""What transformers raises for files that are missing, out of reach or damaged."""


def check_model(name: str | None) -> str:
    """The name of a model that may be there; one that plainly is not is refused, before anything is loaded.

    Raises:
        InputError: if no name is given, or it is a directory without a model or with an unfinished run.
    """
    if not name:
        raise InputError("model_name_or_path is missing: name a directory or a model on the Hub")
    path = Path(name)
    if path.is_dir():
        require_complete(name)
        if not any((path / config).is_file() for config in ("config.json", "adapter_config.json")):
            raise InputError(f"model {name} cannot be loaded: there is no config.json in that directory")
    elif path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"model {name} cannot be loaded: there is no such directory")
    return name


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        InputError: if it cannot be loaded.
    """
    check_model(name)
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main")
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error


def load_model(name: str, *, dtype: str, all_devices: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, ready for inference on the best device there is, and its tokenizer.

    Args:
        name: a directory or a name on the Hub.
        dtype: of the weights.
        all_devices: lay its layers out over all of them, for a model that one cannot hold.

    Raises:
        InputError: if either cannot be loaded.
    """
    tokenizer = load_tokenizer(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map="auto" if all_devices else None)
    except LOADING_ERRORS as error:
        raise cannot_load(name, error) from error
    if all_devices:
        return model.eval(), tokenizer
    device: Any = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # of a launch with several processes, each has its own
    return model.to(device).eval(), tokenizer


def open_engine(config: SamplingArguments) -> Engine:
    """Load the model, or make sure that the server has it.

    Raises:
        InputError: if that cannot be done.
    """
    name = config.model_name_or_path
    if config.engine == "server":
        assert config.server_url is not None
        api_key = os.environ.get(config.api_key_variable)
        server = ServerEngine(config.server_url, name, api_key, max_requests=config.max_requests)
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
    """Have `config.json` state the base of the positions where transformers 4 looks for it as well.

    It ignores `rope_parameters`, and turns positions with 10,000 whatever the model was trained with. transformers 5
    reads `rope_parameters` first, and drops the rest. Bases that differ by layer have no such place.
    """
    parameters = config.to_dict().get("rope_parameters") or {}  # not every model turns positions
    if "rope_theta" in parameters:
        config.rope_theta = parameters["rope_theta"]


def shown_name(name: str) -> str:
    """The name of a model or a data set without the path that leads to it on this machine."""
    return Path(name).name if Path(name).exists() else name


def cannot_load(name: str, error: Exception) -> InputError:
    """The error to raise, with the reason that transformers gave on one line."""
    return InputError(f"model {name} cannot be loaded: {' '.join(str(error).split())}")
