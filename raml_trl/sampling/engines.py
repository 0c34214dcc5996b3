"""The engine that a recipe names, ready to sample."""

import os

from raml_trl.sampling.config import SamplingArguments
from raml_trl.sampling.engine import Engine
from raml_trl.sampling.loading import load_model
from raml_trl.sampling.server_engine import ServerEngine
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.sampling.vllm_engine import VLLMEngine


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
