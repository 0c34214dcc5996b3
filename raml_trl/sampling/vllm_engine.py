"""Draws completions from vLLM in this process, on one or more GPUs.

Under `accelerate launch` or `torchrun`, every process loads its own copy of the model, on GPUs that no other process
uses. The caller decides which prompts each process gets.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, Self

import torch

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.extras import how_to_install
from raml_trl.sampling.engine import Completion, Messages, SamplingSettings, keyed_seed

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LAUNCHER = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+")


def check_vllm(instead: str = "engine: transformers") -> None:
    """Check that vLLM is installed. Commands call this function before any work is done.

    Args:
        instead: the setting that does without vLLM, for the error.

    Raises:
        InputError: if vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise InputError(f"vLLM is not installed: {how_to_install('vllm')}, or set {instead}")


@dataclass(frozen=True)
class VLLMEngine:
    """Draws completions from `llm`, a `vllm.LLM`, which combines the requests into batches.

    `VLLMEngine.open` loads a model and returns the engine for it.
    """

    llm: Any

    @classmethod
    def open(
        cls,
        model: str,
        *,
        tensor_parallel_size: int = 1,
        max_model_length: int | None = None,
        gpu_memory_utilization: float = 0.9,
        dtype: str = "auto",
        enforce_eager: bool = False,
    ) -> Self:
        """Load a model on the GPUs of this process, and return the engine for it.

        Args:
            model: directory or name on the Hub.
            tensor_parallel_size: number of GPUs of one process, over which it spreads the model.
            max_model_length: limit for the tokens of a prompt and its completion; None takes the model's own limit.
            gpu_memory_utilization: share of the memory of each GPU that vLLM may use.
            dtype: dtype of the weights, as vLLM names it; `auto` uses the dtype of the checkpoint, or bfloat16
                if that is float32.
            enforce_eager: do not build CUDA graphs, so that the start is faster and sampling is slower.

        Raises:
            InputError: if vLLM is not installed, or there are too few GPUs.
        """
        with _process_environment(tensor_parallel_size):
            llm = _import_vllm().LLM(
                model,
                tensor_parallel_size=tensor_parallel_size,
                max_model_len=max_model_length,
                gpu_memory_utilization=gpu_memory_utilization,
                dtype=dtype,
                enforce_eager=enforce_eager,
            )
        return cls(llm)

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        """Yield the completions as they finish. Each completion has its own seed (`keyed_seed`).

        Rounding in vLLM depends on which requests share a batch, so the same seed gives the same text in nearly all
        cases, but not in all. Closing the iterator aborts the running requests.

        Raises:
            InputError: if the tokens of the longest prompt and `settings.max_completion_length` together exceed
                `max_model_length` of `VLLMEngine.open`.
        """
        vllm, engine, tokenizer = _import_vllm(), self.llm.llm_engine, self.llm.get_tokenizer()
        prompt_ids = [
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"] for prompt in prompts
        ]
        _check_lengths(prompt_ids, settings, engine.model_config.max_model_len)

        def submit(prompt: int, sample: int) -> tuple[str, tuple[int, int]]:
            params = vllm.SamplingParams(
                max_tokens=settings.max_completion_length,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                seed=keyed_seed(seed, prompt, sample),
            )
            [name] = self.llm.enqueue({"prompt_token_ids": prompt_ids[prompt]}, params, use_tqdm=False)
            return name.partition("-")[0], (prompt, sample)  # outputs name the request without its random suffix

        pairs = ((prompt, sample) for prompt in range(len(prompts)) for sample in range(settings.num_samples))
        submitted = (submit(*pair) for pair in pairs)
        running: dict[str, tuple[int, int]] = {}
        try:
            # Submit only twice as many requests as vLLM runs at once; submit another one for each that finishes.
            running.update(islice(submitted, 2 * engine.vllm_config.scheduler_config.max_num_seqs))
            while running:
                for output in engine.step():
                    [sequence] = output.outputs
                    finished = sequence.finish_reason != "length"
                    place = running.pop(output.request_id)
                    running.update(islice(submitted, 1))
                    yield Completion(*place, sequence.text, len(sequence.token_ids), finished)
        finally:
            engine.abort_request(list(running))


def devices_of(local_rank: int, tensor_parallel_size: int, visible: Sequence[str]) -> Sequence[str]:
    """Return the devices, among the `visible` ones, that process `local_rank` of this machine is to use.

    Process 0 uses the first `tensor_parallel_size` devices, process 1 the next ones, and so on.

    Raises:
        InputError: if too few devices are visible.
    """
    start, end = local_rank * tensor_parallel_size, (local_rank + 1) * tensor_parallel_size
    if len(visible) < end:
        raise InputError(
            f"process {local_rank} of this machine needs GPUs {start} to {end - 1} (tensor_parallel_size is "
            f"{tensor_parallel_size}), but only {len(visible)} are visible ({', '.join(visible)}): reduce it, or start "
            "fewer processes"
        )
    return visible[start:end]


@contextmanager
def _process_environment(tensor_parallel_size: int) -> Iterator[None]:
    """Hide from vLLM the devices of other processes and the variables of the launcher; restore both afterwards.

    vLLM must not see the variable TORCHELASTIC_USE_AGENT_STORE of torchrun. With this variable, worker processes that
    connect at an address of their own, as those of vLLM before 0.30 do, wait for each other forever. The worker
    processes of vLLM 0.30 connect through a file, except on ROCm.
    """
    before = {name: value for name, value in os.environ.items() if name == _VISIBLE or _LAUNCHER.fullmatch(name)}
    num_devices = torch.cuda.device_count()  # this does not initialise CUDA; after that, devices cannot be hidden
    if num_devices > 0:  # vLLM may also run on CPUs
        numbers = before[_VISIBLE].split(",") if _VISIBLE in before else [str(number) for number in range(num_devices)]
        devices = devices_of(int(before.get("LOCAL_RANK", "0")), tensor_parallel_size, numbers)
        os.environ[_VISIBLE] = ",".join(devices)
    for name in before.keys() - {_VISIBLE}:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.pop(_VISIBLE, None)
        os.environ.update(before)


def _import_vllm() -> Any:
    check_vllm()
    import vllm

    return vllm


def _check_lengths(prompt_ids: Sequence[Sequence[int]], settings: SamplingSettings, max_model_length: int) -> None:
    """Check that the longest prompt leaves room for `max_completion_length`; vLLM would cut completions silently."""
    longest = max(map(len, prompt_ids), default=0)
    needed = longest + settings.max_completion_length
    if needed > max_model_length:
        raise InputError(
            f"max_model_length is {max_model_length}, but the longest prompt has {longest} tokens and "
            f"max_completion_length is {settings.max_completion_length}: raise max_model_length to {needed}, or reduce "
            "max_completion_length"
        )
