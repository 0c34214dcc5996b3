"""Tests `VLLMEngine`: the GPUs of each process, the requests, and, with vLLM installed, the completions."""

import os
import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raml_trl.prompts import prompt_messages
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import SamplingSettings
from raml_trl.sampling.transformers_engine import TransformersEngine
from raml_trl.sampling.vllm_engine import VLLMEngine, devices_of

PROMPTS = [prompt_messages(text, "bare") for text in ("a=1+2,b=3", "a=1+2+3+4+5,b=6", "a=1,b=2")]
SETTINGS = SamplingSettings(num_samples=4, max_completion_length=10, temperature=0.7, top_p=0.9, top_k=20)
LAUNCHED = {
    **{"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1", "ROLE_RANK": "5"},
    **{"MASTER_ADDR": "node-1", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"},
}


class ScriptedLLM:
    """Stands in for `vllm.LLM` and its engine. It runs three requests at once and ends two per step, newest first.

    The text of a completion is the seed of its request. A completion with an even seed counts as cut.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.arguments, self.settings, self.environment = arguments, settings, dict(os.environ)
        self.asked: list[SimpleNamespace] = []  # the SamplingParams of all requests
        self.unfinished: dict[str, SimpleNamespace] = {}
        self.most_unfinished = 0
        self.model_config = SimpleNamespace(max_model_len=27)
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=3))
        self.llm_engine = self

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(
            apply_chat_template=lambda prompt, add_generation_prompt: {"input_ids": list(prompt[0]["content"] + ">")}
        )

    def enqueue(self, prompt: dict[str, list[str]], params: SimpleNamespace, *, use_tqdm: bool) -> list[str]:
        assert not use_tqdm
        name = str(len(self.asked))
        params.prompt = "".join(prompt["prompt_token_ids"])
        self.asked.append(params)
        self.unfinished[name] = params
        self.most_unfinished = max(self.most_unfinished, len(self.unfinished))
        return [f"{name}-0a1b2c3d"]

    def step(self) -> list[SimpleNamespace]:
        ended = [self.unfinished.popitem() for _ in range(min(2, len(self.unfinished)))]
        return [SimpleNamespace(request_id=name, outputs=[self._output(params.seed)]) for name, params in ended]

    def _output(self, seed: int) -> SimpleNamespace:
        return SimpleNamespace(text=str(seed), token_ids=[0] * (seed % 5), finish_reason=("length", "stop")[seed % 2])

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.unfinished.pop(name, None)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(LLM=ScriptedLLM, SamplingParams=SimpleNamespace, __spec__=ModuleSpec("vllm", None))
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.parametrize(
    ("local_rank", "size", "visible", "expected"),
    [
        (0, 1, ["0"], ["0"]),
        (0, 2, ["0", "1", "2", "3"], ["0", "1"]),
        (1, 2, ["0", "1", "2", "3"], ["2", "3"]),
        (3, 1, ["7", "5", "3", "1"], ["1"]),
        (1, 1, ["GPU-8932f937", "MIG-GPU-8932f937/1/2"], ["MIG-GPU-8932f937/1/2"]),
    ],
)
def test_devices_of_each_process(local_rank: int, size: int, visible: list[str], expected: list[str]) -> None:
    assert devices_of(local_rank, size, visible) == expected


@pytest.mark.parametrize(("local_rank", "size", "visible"), [(0, 2, ["4"]), (2, 2, list("01234")), (0, 1, [])])
def test_too_few_devices_are_refused(local_rank: int, size: int, visible: list[str]) -> None:
    with pytest.raises(InputError, match="reduce it, or start fewer processes") as caught:
        devices_of(local_rank, size, visible)
    end = (local_rank + 1) * size
    assert f"process {local_rank} of this machine needs GPUs {local_rank * size} to {end - 1} " in str(caught.value)
    assert f"only {len(visible)} are visible" in str(caught.value)


def test_a_missing_vllm_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"run pip install -c constraints.txt -e \"\.\[vllm\]\""):
        VLLMEngine.open("model")


def test_a_broken_installation_raises_its_own_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("import a_library_of_vllms")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_library_of_vllms"):
        VLLMEngine.open("model")


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("num_devices", "visible", "expected"), [(8, None, "2,3"), (4, "7,6,5,4", "5,4"), (0, None, None), (0, "", "")]
)
def test_a_launched_process_sees_its_own_devices_only(
    monkeypatch: pytest.MonkeyPatch, num_devices: int, visible: str | None, expected: str | None
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    before = dict(os.environ)
    llm = VLLMEngine.open("model", tensor_parallel_size=2, max_model_length=64).llm
    assert llm.environment.get("CUDA_VISIBLE_DEVICES") == expected
    assert not LAUNCHED.keys() & llm.environment.keys()
    assert dict(os.environ) == before
    assert llm.arguments == ("model",)
    assert llm.settings["tensor_parallel_size"] == 2
    assert llm.settings["max_model_len"] == 64


@pytest.mark.usefixtures("scripted")
def test_each_sample_is_requested_once_with_its_settings() -> None:
    llm = ScriptedLLM()
    completions = list(VLLMEngine(llm).sample(PROMPTS, SETTINGS, seed=0))
    counts = Counter((completion.prompt, completion.sample) for completion in completions)
    assert counts == Counter((prompt, sample) for prompt in range(3) for sample in range(4))
    prompts = {str(params.seed): params.prompt for params in llm.asked}
    assert len(prompts) == 12
    for completion in completions:
        assert prompts[completion.text] == PROMPTS[completion.prompt][0]["content"] + ">"
        number = int(completion.text)
        assert (completion.num_tokens, completion.finished) == (number % 5, number % 2 == 1)
    assert {completion.finished for completion in completions} == {True, False}
    [drawn] = {(params.max_tokens, params.temperature, params.top_p, params.top_k) for params in llm.asked}
    assert drawn == (10, 0.7, 0.9, 20)
    assert llm.most_unfinished == 6  # of 12 requests: they are never all submitted at once


@pytest.mark.usefixtures("scripted")
def test_seeds_depend_on_the_sample_alone() -> None:
    first, again, other = ({*VLLMEngine(ScriptedLLM()).sample(PROMPTS, SETTINGS, seed=seed)} for seed in (0, 0, 1))
    assert first == again
    assert not {completion.text for completion in first} & {completion.text for completion in other}


@pytest.mark.usefixtures("scripted")
def test_closing_the_iterator_aborts_running_requests() -> None:
    llm = ScriptedLLM()
    completions = VLLMEngine(llm).sample(PROMPTS, SETTINGS, seed=0)
    next(completions)
    assert llm.unfinished
    completions.close()
    assert not llm.unfinished
    assert len(list(VLLMEngine(llm).sample(PROMPTS, SETTINGS, seed=0))) == 12


@pytest.mark.usefixtures("scripted")
def test_too_long_completions_are_refused() -> None:
    longest = len(PROMPTS[1][0]["content"]) + 1
    fits = SamplingSettings(1, 27 - longest, 1.0, 1.0, 0)
    assert len(list(VLLMEngine(ScriptedLLM()).sample(PROMPTS, fits, seed=0))) == 3
    with pytest.raises(InputError, match=rf"is 27, .* has {longest} tokens .*: raise max_model_length to 28, or"):
        list(VLLMEngine(ScriptedLLM()).sample(PROMPTS, SamplingSettings(1, 28 - longest, 1.0, 1.0, 0), seed=0))


@pytest.mark.vllm
def test_vllm_gives_the_completions_of_transformers(model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)
    greedy = SamplingSettings(num_samples=2, max_completion_length=10, temperature=0.0, top_p=1.0, top_k=0)
    expected = {*TransformersEngine(model, tokenizer, batch_size=4).sample(PROMPTS, greedy, seed=0)}
    settings: dict[str, Any] = {"max_model_length": 64, "gpu_memory_utilization": 0.2, "enforce_eager": True}
    engine = VLLMEngine.open(model_dir, dtype="float32", **settings)
    assert {*engine.sample(PROMPTS, greedy, seed=0)} == expected
    first, again, other = ({*engine.sample(PROMPTS, SETTINGS, seed=seed)} for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 12
