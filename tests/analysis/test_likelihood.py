"""The likelihood of an answer along a trajectory equals that of one forward pass per prefix, for every model type."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from raml_trl.analysis import likelihood, packed_passes
from raml_trl.analysis.likelihood import answer_nll, answer_nll_along, answer_nll_each
from raml_trl.analysis.packed_passes import unpackable_reason
from raml_trl.analysis.probes import Probe, make_probe

VOCABULARY = 97
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
HEADS, WINDOW = {"head_dim": 8}, {"sliding_window": 16}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
PACKABLE: dict[str, tuple[PreTrainedConfig, str]] = {
    "qwen2": (Qwen2Config(**SIZES), "sdpa"),
    "qwen2 eager": (Qwen2Config(**SIZES), "eager"),
    "qwen2 windows above": (Qwen2Config(**SIZES, **WINDOW, use_sliding_window=True, max_window_layers=1), "sdpa"),
    "llama": (LlamaConfig(**SIZES), "sdpa"),
    "llama yarn": (LlamaConfig(**SIZES, rope_parameters=YARN), "sdpa"),
    "mistral window": (MistralConfig(**SIZES, **WINDOW), "sdpa"),
    "mistral window eager": (MistralConfig(**SIZES, **WINDOW), "eager"),
    "mixtral": (MixtralConfig(**SIZES, num_local_experts=4), "sdpa"),
    "qwen3": (Qwen3Config(**SIZES, **HEADS), "sdpa"),
    "gemma2": (Gemma2Config(**SIZES, **HEADS, **WINDOW, query_pre_attn_scalar=8), "eager"),
    "gemma3": (Gemma3TextConfig(**SIZES, **HEADS, **WINDOW, layer_types=MIXED), "sdpa"),
    "gpt2": (GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512), "sdpa"),
}


def make_model(config: PreTrainedConfig, attention: str, dtype: torch.dtype = torch.float32) -> Any:
    """Build a random model whose weights are large enough for attention to affect the result."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


@pytest.fixture
def draw() -> Any:
    generator = torch.Generator().manual_seed(1)
    return lambda length: torch.randint(1, VOCABULARY, (length,), generator=generator)


@torch.no_grad()
def by_hand(model: Any, probe: Probe) -> Tensor:
    """Compute the reference without code of `likelihood`: one pass over each complete text, then a log-softmax."""
    rows = []
    for t in probe.positions.tolist():
        ids = torch.cat([probe.prompt_ids, probe.trajectory_ids[:t], probe.stub_ids, probe.answer_ids])
        logp = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(dim=-1)
        rows.append(-logp[torch.arange(len(ids) - 1), ids[1:]][-len(probe.answer_ids) :])
    return torch.stack(rows)


@pytest.mark.long
@pytest.mark.parametrize("name", PACKABLE)
def test_packed_passes_equal_one_pass_per_prefix(name: str, draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(*PACKABLE[name])
    assert unpackable_reason(model) is None
    monkeypatch.setattr(packed_passes, "_BLOCK_TOKENS", 60)  # so that the blocks take several passes
    monkeypatch.setattr(likelihood, "_nll_by_prefix", fail_on_second_call(likelihood._nll_by_prefix))
    probes = [
        make_probe(draw(1), draw(40), draw(1)),  # without a stub
        make_probe(draw(9), draw(43), draw(3), stub_ids=draw(4)),
        make_probe(draw(30), draw(5), draw(2), stub_ids=draw(1)),
        make_probe(draw(7), draw(25), draw(4), positions=[25, 0, 7, 7]),
        make_probe(draw(7), draw(0), draw(2), stub_ids=[3, 1, 4]),
        make_probe(draw(7), draw(9), draw(2), stub_ids=draw(20)),  # a stub longer than any sliding window
    ]
    for probe, nll in zip(probes, answer_nll_each(model, probes), strict=True):
        expected = by_hand(model, probe)
        assert nll.dtype == torch.float32
        assert nll.shape == (len(probe.positions), len(probe.answer_ids))
        assert (nll - expected).abs().max() < 2e-5, name
        assert expected.std() > 0.1  # the answer's loss depends on the position


def fail_on_second_call(by_prefix: Any) -> Any:
    """Allow a single call of `by_prefix`: the check that compares both ways on a few tokens."""
    calls = []

    def counted(model: Any, probe: Probe) -> Tensor:
        calls.append(probe)
        assert len(calls) == 1, "packed passes were not used"
        return by_prefix(model, probe)

    return counted


def test_positions_may_come_in_any_order(draw: Any) -> None:
    model = make_model(*PACKABLE["qwen2"])
    prompt, trajectory, answer, stub = draw(5), draw(12), draw(3), draw(2)
    every = answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub)
    assert every.shape == (13,)
    some = answer_nll_along(model, prompt, trajectory, answer, stub_ids=stub, positions=[3, 12, 0, 3])
    assert torch.allclose(some, every[torch.tensor([3, 12, 0, 3])], atol=1e-5)
    for t in (0, 7, 12):
        alone = answer_nll(model, torch.cat([prompt, trajectory[:t], stub]), answer)
        assert alone == pytest.approx(every[t].item(), abs=1e-5)


@pytest.mark.long
def test_probes_share_passes_within_the_token_limit(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = make_model(*PACKABLE["qwen2"]), []
    packed = likelihood.packed_nll

    def watched(model: Any, probes: list[Probe]) -> list[Tensor]:
        sizes.append([len(probe.text) for probe in probes])
        return packed(model, probes)

    monkeypatch.setattr(likelihood, "packed_nll", watched)
    probes = [make_probe(draw(4), draw(length), draw(2)) for length in (6, 6, 16, 2, 90, 1)]
    along = list(answer_nll_each(model, probes, tokens_per_pass=40))
    assert sizes[1:] == [[10, 10], [20, 6], [94], [5]]  # the first pass compares both ways on a few tokens
    for probe, nll in zip(probes, along, strict=True):
        assert (nll - by_hand(model, probe)).abs().max() < 1e-5


def test_half_precision_is_close_to_float32(draw: Any) -> None:
    probe = make_probe(draw(9), draw(43), draw(3), stub_ids=draw(4))
    [exact] = answer_nll_each(make_model(*PACKABLE["llama"]), [probe])
    [rounded] = answer_nll_each(make_model(*PACKABLE["llama"], torch.bfloat16), [probe])
    assert (exact - rounded).abs().mean() < 0.1 * exact.mean()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2), "recurrent state"),
        (LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "dynamic"),
    ],
)
def test_models_that_cannot_be_packed_run_prefix_by_prefix(
    config: PreTrainedConfig, reason: str, draw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(config, "eager")
    probe = make_probe(draw(5), draw(9), draw(2), stub_ids=draw(1))
    with caplog.at_level(logging.WARNING, logger="raml_trl"):
        [nll] = answer_nll_each(model, [probe])
    assert reason in caplog.text
    assert (nll - by_hand(model, probe)).abs().max() < 1e-5


def test_a_model_that_ignores_our_mask_runs_prefix_by_prefix(
    draw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(*PACKABLE["mistral window"])
    monkeypatch.setattr(packed_passes, "_masks", lambda *_: None)  # the model gets no mask
    probe = make_probe(draw(5), draw(9), draw(2), stub_ids=draw(3))
    with caplog.at_level(logging.WARNING, logger="raml_trl"):
        [nll] = answer_nll_each(model, [probe])
    assert "differ from separate ones" in caplog.text
    assert (nll - by_hand(model, probe)).abs().max() < 1e-5


def test_the_model_keeps_its_mode_and_gets_no_gradients(draw: Any) -> None:
    model = make_model(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.5), "sdpa")
    prompt, trajectory, answer = draw(5), draw(9), draw(2)
    expected = answer_nll_along(model, prompt, trajectory, answer)
    model.train()
    assert torch.equal(answer_nll_along(model, prompt, trajectory, answer), expected)  # dropout is off
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("lengths", "positions", "message"),
    [
        ((5, 9, 0), None, "answer_ids are empty"),
        ((0, 9, 2), None, "prompt_ids are empty"),
        ((5, 9, 2), [10], "from 0 to 9"),
        ((5, 9, 2), [-1, 3], "from 0 to 9"),
        ((5, 9, 2), [], "got none"),
    ],
)
def test_unusable_probes_are_rejected(
    lengths: tuple[int, int, int], positions: list[int] | None, message: str, draw: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        make_probe(*map(draw, lengths), positions=positions)
