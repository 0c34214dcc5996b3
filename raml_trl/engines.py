"""The engine that a recipe names, ready to sample."""

import os

from raml_trl.models import load_model
from raml_trl.sampling import Engine
from raml_trl.sampling_arguments import SamplingArguments
from raml_trl.server_engine import ServerEngine
from raml_trl.transformers_engine import TransformersEngine
from raml_trl.vllm_engine import VLLMEngine


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
